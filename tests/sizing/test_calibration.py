"""The budget of tokens that a machine measures for itself: how it is chosen, kept, taken by runs and plans, and not
taken by a run that was begun without it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.collections import write_collection
from support.editing import assert_same_files

from soloist.config import CalibrationConfig, RunConfig
from soloist.devices import DeviceLease, open_accelerator
from soloist.engine import run
from soloist.errors import ConfigError, LeaseTimeoutError, OutputError
from soloist.events import (
    BatchSplit,
    BudgetMeasured,
    Event,
    LeaseAcquired,
    LeaseReleased,
    ListSink,
    MemoryPlanned,
    ShardEncoded,
)
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.settings import read_settings
from soloist.planning.estimate import estimate_run
from soloist.sizing.budgets import FILE_NAME, TABLE, CalibrationCache, CalibrationRecord, budget_of, table_row
from soloist.sizing.calibration import ROUNDS, TOLERANCE, calibrate, smallest_near_best

NOON = 1_800_000_000.0  # 2027-01-15 08:00 UTC
RATES = st.dictionaries(
    st.sampled_from([1 << power for power in range(9, 20)]),
    st.lists(st.floats(1, 1e9), min_size=3, max_size=3),
    min_size=1,
)


@pytest.fixture
def small(config, tmp_path) -> RunConfig:
    """One model on the CPU over one collection in several shards, with a cache of its own."""
    write_collection(tmp_path / "few", "few", 40, longest=60)
    return dataclasses.replace(
        config, chunks_root=tmp_path / "few", models=("bert",), accelerator="cpu", shard_chunks=16,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


@pytest.fixture
def calibration(small) -> CalibrationConfig:
    """The same model and devices, with measurements as short as they get."""
    return CalibrationConfig(
        models=small.models, accelerator=small.accelerator, catalogue=small.catalogue, lock_dir=small.lock_dir,
        cache_dir=small.cache_dir, sample_seconds=1e-6,
    )  # fmt: skip


def keep(config: RunConfig, folder: Path, tokens: int, *, dtype="float32", device="cpu cpu") -> None:
    """Write down a calibrated budget for a model."""
    spec = resolve(str(folder))
    fingerprint = known_fingerprint(spec, read_settings(spec, blueprint_of(spec)), dtype)
    assert fingerprint is not None
    calibrated = CalibrationRecord(tokens=tokens, rates={}, date="", versions={})
    CalibrationCache(config.cache_dir).record(fingerprint, dtype, device, calibrated)


def budget(config: RunConfig, *sinks) -> tuple[int, str]:
    """Run, and the budget of its model as run.json has it."""
    run(config, *sinks)
    found = json.loads((config.out / "run.json").read_text())["models"][0]["budget"]
    return found["tokens"], found["source"]


class Ending:
    """A sink in which a run ends once two shards are written."""

    def __init__(self) -> None:
        self._shards = 0

    def emit(self, event: Event) -> None:
        self._shards += isinstance(event, ShardEncoded)
        if self._shards == 2:
            raise InterruptedError("here the run ends")


def begin(config: RunConfig) -> None:
    """A run that ends before it is done."""
    with pytest.raises(InterruptedError):
        run(config, Ending())
    assert not (config.out / "run.json").exists()


# How a budget is chosen.


@given(RATES)
def test_the_choice_is_the_smallest_that_is_near_the_best(rates):
    """One that is slower than noise explains costs time on every run; a larger one than needed costs memory."""
    chosen = smallest_near_best(rates)
    medians = {tokens: statistics.median(each) for tokens, each in rates.items()}
    least = (1 - TOLERANCE) * max(medians.values())
    assert medians[chosen] >= least
    assert all(medians[tokens] < least for tokens in rates if tokens < chosen)


@given(RATES, st.randoms(use_true_random=False))
def test_the_choice_depends_on_no_order(rates, random):
    """Measurement to and fro, the same rates would choose another budget."""
    shuffled = [(tokens, random.sample(each, len(each))) for tokens, each in rates.items()]
    random.shuffle(shuffled)
    assert smallest_near_best(dict(shuffled)) == smallest_near_best(rates)


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({512: [98.0] * 3, 1024: [100.0] * 3}, 512),
        ({512: [96.0] * 3, 1024: [100.0] * 3}, 1024),
        ({512: [96.0] * 3, 1024: [98.0] * 3, 2048: [100.0] * 3}, 1024),
        ({512: [100.0, 100.0, 1.0], 1024: [100.0] * 3}, 512),
        ({512: [50.0, 50.0, 900.0], 1024: [100.0] * 3}, 1024),
    ],
)
def test_choices(rates, chosen):
    """One round in which another process had the machine must decide nothing."""
    assert smallest_near_best(rates) == chosen


@pytest.mark.parametrize(
    "row",
    TABLE,
    ids=lambda row: f"{row.kind}-{'static' if row.is_static else 'sparse' if row.is_sparse else 'network'}",
)
def test_the_table_says_where_its_figures_come_from(row):
    """A figure without a source is never questioned again; one that no calibration tries has nothing beside it."""
    assert row.source and row.tokens in row.candidates
    assert (row.candidates[0], row.candidates[-1]) == (row.smallest, row.largest)
    assert table_row(row.kind, row.is_static, row.is_sparse) is row


# How it is measured.


def test_a_calibration_measures_in_turn_and_keeps_its_choice(small, calibration):
    """Candidates one after the other would be measured on a machine that changes beneath them."""
    sink = ListSink()
    (found,) = calibrate(calibration, sink, lambda: NOON)
    rounds = [event for event in sink.events if isinstance(event, BudgetMeasured)]
    tried = [512, 1024, 2048]  # a larger one takes longer than a measurement may
    assert [event.token_budget for event in rounds] == [*tried, *reversed(tried), *tried]
    assert [event.round for event in rounds] == [number for number in range(1, ROUNDS + 1) for _ in tried]
    medians = {
        tokens: statistics.median(event.tokens_per_second for event in rounds if event.token_budget == tokens)
        for tokens in tried
    }
    assert found.rates == medians
    assert (found.model, found.dtype, found.device, found.table_tokens) == ("bert", "float32", "cpu cpu", 2048)
    (row,) = json.loads((calibration.cache_dir / FILE_NAME).read_text()).items()
    assert row[0] == f"{found.fingerprint}/float32/cpu cpu"
    assert row[1]["tokens"] == found.tokens and row[1]["rates"] == {str(tokens): medians[tokens] for tokens in tried}
    assert row[1]["date"] == "2027-01-15T08:00:00+00:00" and {"soloist", "torch"} <= set(row[1]["versions"])
    assert budget(small) == (found.tokens, "calibrated")


def test_memory_bounds_the_candidates_as_in_a_run(calibration):
    """A batch that does not fit is halved, and its rate is that of another size."""
    sink = ListSink()
    (found,) = calibrate(dataclasses.replace(calibration, accelerator="simulated:2x3MB", dtype="float32"), sink)
    assert not [event for event in sink.events if isinstance(event, BatchSplit)]
    assert list(found.rates) == [found.tokens] == [4096]  # memory allows the larger ones nothing more
    acquired, released = (event for event in sink.events if isinstance(event, (LeaseAcquired, LeaseReleased)))
    assert acquired.devices == released.devices == ("sim:0", "sim:1")
    assert [stats.allocated_bytes for stats in released.memory.values()] == [0, 0] and released.held == ()
    assert all(stats.peak_bytes > 0 for stats in released.memory.values())


class Interrupting(ListSink):
    """A sink in which Ctrl-C comes after the first measurement."""

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, BudgetMeasured):
            raise KeyboardInterrupt


def test_an_interrupt_gives_the_devices_back_and_keeps_nothing(calibration):
    """Whoever measures holds every device of the machine."""
    sink = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        calibrate(dataclasses.replace(calibration, accelerator="simulated:1x3MB", dtype="float32"), sink)
    released = sink.events[-1]
    assert isinstance(released, LeaseReleased) and released.held == ()
    assert not list(calibration.lock_dir.glob("*.holder"))
    assert not (calibration.cache_dir / FILE_NAME).exists()


def test_devices_of_another_are_waited_for(calibration):
    """Two calibrations at once measure each other."""
    with (
        DeviceLease(open_accelerator("cpu"), ["another"], ListSink(), lock_dir=calibration.lock_dir),
        pytest.raises(LeaseTimeoutError, match=r"\(another\)"),
    ):
        calibrate(dataclasses.replace(calibration, lease_timeout_seconds=0.0), ListSink())


def test_a_cache_that_cannot_be_written_is_an_error(calibration, tmp_path):
    """For a run the cache is a help; a calibration has no other result."""
    (tmp_path / "taken").write_text("a file, where the folder should be")
    with pytest.raises(OutputError, match="cannot write"):
        calibrate(dataclasses.replace(calibration, cache_dir=tmp_path / "taken"), ListSink())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ()}, "no models are named"),
        ({"models": "bert"}, "give a list of strings"),
        ({"dtype": "int8"}, "choose one of"),
        ({"cache_dir": ""}, "give a path"),
        ({"lease_timeout_seconds": -1.0}, "give 0 or more seconds"),
        ({"sample_seconds": 0.0}, "give more than 0 seconds"),
        ({"sample_seconds": float("nan")}, "give more than 0 seconds"),
    ],
)
def test_settings_that_cannot_be_honoured(changes, message, calibration):
    """A model would be staged, and the devices taken, before the mistake shows."""
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(calibration, **changes)


# Who takes it.


def test_runs_and_plans_take_the_calibrated_budget(small, tiny_models):
    """A budget that is measured and not used, or of which nobody can say whether it is."""
    assert [(m.token_budget, m.budget_source) for m in estimate_run(small).models] == [(2048, "table")]
    keep(small, tiny_models["bert"], 512)
    assert [(m.token_budget, m.budget_source) for m in estimate_run(small).models] == [(512, "calibrated")]
    assert budget(small) == (512, "calibrated")
    explicit = dataclasses.replace(small, token_budget=700, out=small.out.with_name("explicit"))
    assert [(m.token_budget, m.budget_source) for m in estimate_run(explicit).models] == [(700, "given")]
    assert budget(explicit) == (700, "given")


def test_the_event_says_where_the_budget_comes_from(small, tiny_models):
    """On a GPU that two machines share, the log is what tells their runs apart."""
    on_device = dataclasses.replace(small, accelerator="simulated:1x1GB", dtype="float32")
    keep(small, tiny_models["bert"], 8192, device="simulated bare simulated device")
    sink = ListSink()
    assert budget(on_device, sink) == (8192, "calibrated")
    (event,) = (event for event in sink.events if isinstance(event, MemoryPlanned))
    assert (event.token_budget, event.budget_source) == (8192, "calibrated")


@pytest.mark.parametrize(
    "other",
    [{"dtype": "bfloat16"}, {"device": "simulated Tesla T4"}, {"device": "cuda cpu"}],
    ids=lambda other: next(iter(other.values())),
)
def test_a_calibration_of_something_else_is_not_taken(other, small, tiny_models):
    """bfloat16 saturates elsewhere than float32, and a T4 elsewhere than a core."""
    keep(small, tiny_models["bert"], 512, **other)
    assert [(m.token_budget, m.budget_source) for m in estimate_run(small).models] == [(2048, "table")]
    assert budget(small) == (2048, "table")


def test_a_calibration_of_another_model_is_not_taken(small, tiny_models):
    """Two models may go by one name."""
    keep(small, tiny_models["xlm-roberta"], 512)
    assert [(m.token_budget, m.budget_source) for m in estimate_run(small).models] == [(2048, "table")]
    assert budget(small) == (2048, "table")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b'{"KEY": 512}', b'{"KEY": {"tokens": "512"}}',
        b'{"KEY": {"tokens": true}}', b'{"KEY": {"tokens": 512.0}}', b'{"KEY": {"tokens": 0}}',
        b'{"KEY": {"tokens": 1000000000000}}', b'{"KEY": {"tokens": [512]}}', b'{"KEY": {}}',
    ],
    ids=[
        "empty", "cut", "list", "binary", "deep", "number", "text", "bool", "float", "zero", "huge", "nested",
        "foreign",
    ],
)  # fmt: skip
def test_a_damaged_file_is_nothing_known(content, tmp_path):
    """A batch of a million million tokens, because of one bad byte in a cache."""
    row = table_row("cpu", is_static=False)
    (tmp_path / FILE_NAME).write_bytes(content.replace(b"KEY", b"a/float32/cpu cpu"))
    calibrations = CalibrationCache(tmp_path)
    assert calibrations.tokens("a", "float32", "cpu cpu", row) is None
    calibrations.record("a", "float32", "cpu cpu", CalibrationRecord(tokens=512, rates={}, date="", versions={}))
    assert calibrations.tokens("a", "float32", "cpu cpu", row) == 512


def test_a_run_with_a_damaged_file_takes_the_tables(small):
    """A cache that stops a run for which it is not needed is worse than none."""
    small.cache_dir.mkdir()
    (small.cache_dir / FILE_NAME).write_text('{"a/float32/cpu cpu": {"tok')
    assert budget(small) == (2048, "table")


# A run that was begun before.


@pytest.mark.parametrize("isolation", ["allocator", "process"])
def test_a_run_goes_on_with_the_budget_that_it_was_begun_with(isolation, small, tiny_models):
    """On a GPU the second half of a run would have other bits than the first, because of what was measured between."""
    own = dataclasses.replace(small, accelerator="simulated:1x1GB", dtype="float32", isolation=isolation)
    begin(own)
    keep(own, tiny_models["bert"], 4096, device="simulated bare simulated device")
    sink = ListSink()
    assert budget(own, sink) == (16_384, "table")
    (event,) = (event for event in sink.events if isinstance(event, MemoryPlanned))
    assert (event.token_budget, event.budget_source) == (16_384, "table")
    whole = dataclasses.replace(own, out=own.out.with_name("whole"), cache_dir=own.out.with_name("no cache"))
    run(whole)
    assert_same_files(own.out, whole.out)


def test_a_given_budget_stays_that_of_the_run(small):
    """The command that goes on with a run may be given by hand, without the option of the first."""
    begin(dataclasses.replace(small, token_budget=300))
    assert budget(small) == (300, "given")


def test_a_finished_run_to_which_chunks_come_keeps_its_budget(small, tiny_models):
    """Its new vectors lie beside the old ones, in one index."""
    assert budget(small) == (2048, "table")
    keep(small, tiny_models["bert"], 512)
    write_collection(small.chunks_root, "more", 5, seed=3)
    assert budget(small) == (2048, "table")
    assert budget(dataclasses.replace(small, out=small.out.with_name("new"))) == (512, "calibrated")


def test_another_budget_in_mid_run_is_a_notice(small):
    """It is the user's to decide, and not to be found out later."""
    begin(small)
    result = run(dataclasses.replace(small, token_budget=512))
    assert result.notices == (
        "bert: its batches had 2,048 tokens before and have 512 from now on: on a GPU, the size of a batch may change "
        "the last bits of a vector",
    )
    assert result.models[0].kept > 0 and result.models[0].embedded > 0  # nothing is computed again for it


def test_another_budget_for_a_finished_run_is_none(small):
    """Nothing is computed, and nothing differs."""
    run(small)
    result = run(dataclasses.replace(small, token_budget=512))
    assert result.notices == () and result.models[0].embedded == 0
    assert json.loads((small.out / "run.json").read_text())["models"][0]["budget"]["tokens"] == 2048


def test_another_dtype_or_device_has_a_budget_of_its_own(small, tiny_models):
    """All vectors are computed anew in another dtype; and what saturates a core would starve a GPU."""
    begin(small)
    keep(small, tiny_models["bert"], 512, dtype="bfloat16")
    begin(dataclasses.replace(small, dtype="bfloat16"))
    state = json.loads((small.out / "state.json").read_text())
    assert state["budgets"] == {"bert": {"tokens": 512, "source": "calibrated", "device": "cpu cpu"}}
    on_device = dataclasses.replace(small, dtype="bfloat16", accelerator="simulated:1x1GB")
    assert budget(on_device) == (16_384, "table")


@pytest.mark.parametrize(
    "record",
    [
        None, 5, "2048", {}, {"tokens": 2048}, {"tokens": "2048", "source": "table", "device": "cpu cpu"},
        {"tokens": 0, "source": "table", "device": "cpu cpu"}, {"tokens": True, "source": "table", "device": "cpu"},
        {"tokens": 2048, "source": "guessed", "device": "cpu cpu"}, {"tokens": 2048, "source": "table", "device": 1},
        {"tokens": 2048, "source": [], "device": "cpu cpu"},
    ],
)  # fmt: skip
def test_a_damaged_record_is_none(record):
    """A run of an earlier version wrote none, and goes on all the same."""
    assert budget_of(record) is None


def test_a_run_of_an_earlier_version_goes_on(small, tiny_models):
    """Its state has no budgets: the first new session chooses one, and writes it down."""
    begin(small)
    path = small.out / "state.json"
    state = json.loads(path.read_text())
    del state["budgets"]
    path.write_text(json.dumps(state))
    keep(small, tiny_models["bert"], 512)
    assert budget(small) == (512, "calibrated")
