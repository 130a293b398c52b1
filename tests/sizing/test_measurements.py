"""What runs measure refines the next plan: kept by model, dtype and kind of device, and never in anybody's way."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support.collections import write_collection

from soloist.config import RunConfig
from soloist.devices.accelerator import SimulatedAccelerator
from soloist.encoding.encoder import Encoder
from soloist.engine import run
from soloist.events import ListSink, Notice, PeakCompared
from soloist.memory.cards import CARDS, bare_card
from soloist.memory.prediction import blueprint_of, tracer_of
from soloist.models.catalogue import resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.loading import stage
from soloist.models.settings import read_settings
from soloist.planning.estimate import estimate_run
from soloist.planning.run_estimate import LEAST_MEASURED_TOKENS, RunEstimate
from soloist.sizing.batch_limits import PeakWatch, compare_peaks, remember
from soloist.sizing.budgets import Budget
from soloist.sizing.measurements import FILE_NAME, Measurement, MeasurementCache, device_key
from soloist.sizing.run_plan import PlannedModel, RunPlan, plan_run
from soloist.types import Batch


@pytest.fixture
def planning(config, tmp_path) -> RunConfig:
    """Two models on a device that holds few rows of them, with a cache of its own."""
    write_collection(tmp_path / "few", "few", 3, longest=60)
    return dataclasses.replace(
        config, chunks_root=tmp_path / "few", accelerator="simulated:1x3MB", dtype="float32",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


def kept(config: RunConfig) -> dict[str, dict]:
    """The rows of the cache file."""
    return json.loads((config.cache_dir / FILE_NAME).read_text())


def given(tokens: int) -> Budget:
    return Budget(tokens=tokens, source="given", device="simulated bare simulated device")


def fingerprint_of(folder: Path, dtype="float32") -> str:
    spec = resolve(str(folder))
    found = known_fingerprint(spec, read_settings(spec, blueprint_of(spec)), dtype)
    assert found is not None
    return found


# What is kept.


def test_a_run_keeps_its_peaks_and_rates(planning, tiny_models):
    """Under another name than the plan asks for, nothing would ever be found."""
    ran = run(planning)
    rows = kept(planning)
    assert set(rows) == {
        f"{fingerprint_of(tiny_models[name])}/float32/simulated bare simulated device" for name in planning.models
    }
    for report in ran.models:
        row = rows[f"{report.fingerprint}/{report.dtype}/simulated bare simulated device"]
        assert row["predicted_bytes"] == report.predicted_peak_bytes
        assert row["measured_bytes"] == report.peak_bytes["sim:0"] > row["resident_bytes"] > 0
        assert row["tokens_per_second"] == pytest.approx(report.padded_tokens / report.seconds)
        assert row["tokens"] == report.padded_tokens
        assert row["runs"] == 1
    lines = [json.loads(line) for line in (planning.out / "events.jsonl").read_text().splitlines()]
    events = [line for line in lines if "missed" in line]
    assert [event["models"] for event in events] == [["qwen2"], ["xlm-roberta"]]
    assert not any(event["missed"] for event in events)


def test_a_second_run_takes_the_place_of_the_first(planning):
    """Rows that add up for ever would fill a cache, and old ones would outlive what they measured."""
    one = dataclasses.replace(planning, models=("xlm-roberta",))
    run(one)
    before = kept(one)
    run(dataclasses.replace(one, out=one.out.with_name("again")))
    after = kept(one)
    assert after.keys() == before.keys()
    assert [row["runs"] for row in after.values()] == [2]


def test_a_pass_of_several_models_measures_no_single_one(planning):
    """A peak that models share would be taken for each model's own."""
    run(dataclasses.replace(planning, mode="standard", accelerator="simulated:1x1GB"))
    for row in kept(planning).values():
        assert (row["measured_bytes"], row["predicted_bytes"]) == (0, 0)
        assert row["tokens_per_second"] > 0


def test_other_dtypes_and_cards_have_rows_of_their_own(planning):
    """float16 measured with float32's ratio, or a T4 with an L4's, would be planned with figures of something else."""
    one = dataclasses.replace(planning, models=("xlm-roberta",))
    for number, (accelerator, dtype) in enumerate(
        [("simulated:1x1GB", "float32"), ("simulated:1xT4", "float32"), ("simulated:1x1GB", "float16")]
    ):
        run(dataclasses.replace(one, accelerator=accelerator, dtype=dtype, out=one.out.with_name(f"run-{number}")))
    devices = [key.partition("/")[2] for key in kept(planning)]
    assert sorted(devices) == [
        "float16/simulated bare simulated device", "float32/simulated Tesla T4",
        "float32/simulated bare simulated device",
    ]  # fmt: skip


class RealT4(SimulatedAccelerator):
    """A T4 that says it is one."""

    kind = "cuda"


def test_a_simulated_card_is_no_measure_of_a_real_one():
    """A T4 imitated by a laptop has a laptop's speed."""
    keys = [device_key(kind([CARDS["T4"]])) for kind in (SimulatedAccelerator, RealT4)]
    assert keys == ["simulated Tesla T4", "cuda Tesla T4"]


# What the next plan makes of it.


def with_growth(config: RunConfig, folder: Path, growth: float) -> None:
    """Write down that a model needed more than was predicted."""
    measured = Measurement(
        predicted_bytes=2_000_000, measured_bytes=1_000_000 + int(1_000_000 * growth), resident_bytes=1_000_000, runs=1
    )
    assert measured.growth == pytest.approx(growth)
    key = "simulated bare simulated device"
    MeasurementCache(config.cache_dir).record(fingerprint_of(folder), "float32", key, measured)


def rows_of(plan: RunEstimate, name: str) -> tuple[int, int, int, int]:
    model = next(model for model in plan.models if model.name == name)
    both = (model.exclusive, model.standard)
    return tuple(rows for mode in both for rows in (mode.median_rows, mode.longest_rows))


def test_what_grew_is_planned_smaller(planning, tiny_models):
    """A machine that needs twice what is predicted would split every batch, run after run."""
    before = estimate_run(planning)
    with_growth(planning, tiny_models["xlm-roberta"], 2.0)
    after = estimate_run(planning)
    assert all(less < more for less, more in zip(*(rows_of(p, "xlm-roberta") for p in (after, before)), strict=True))
    assert rows_of(after, "qwen2") == rows_of(before, "qwen2")
    (report,) = run(dataclasses.replace(planning, models=("xlm-roberta",))).models
    assert report.batch_sizes.planned == rows_of(after, "xlm-roberta")[0]


def test_what_grew_is_planned_as_before_where_memory_is_no_limit(planning, tiny_models):
    """The batch that saturates the device is no larger and no smaller for what was measured."""
    roomy = dataclasses.replace(planning, accelerator="simulated:1x1GB")
    before = estimate_run(roomy)
    with_growth(roomy, tiny_models["xlm-roberta"], 2.0)
    assert rows_of(estimate_run(roomy), "xlm-roberta") == rows_of(before, "xlm-roberta")


@pytest.mark.parametrize("limit_bytes", [2_000_000, 3_000_000, 20_000_000])
@pytest.mark.parametrize("token_budget", [500, 16_384])
def test_more_growth_is_never_a_larger_batch(limit_bytes, token_budget, tiny_models):
    """Growth below 1 must not fill the reserve, and no growth, infinity included, may make a batch larger."""
    card = bare_card(limit_bytes)
    spec = resolve(str(tiny_models["qwen2"]))
    tracer = tracer_of(blueprint_of(spec), "float32", card)

    def rows(growth: float) -> list[int]:
        sizes = tracer.weights.sizes_bytes
        model = PlannedModel(
            name="qwen2", budget=given(token_budget), max_tokens=512, weight_sizes=sizes, tracer=tracer, growth=growth
        )
        limits = plan_run([model], "exclusive", card).limits["qwen2"]
        return [limits.rows(length) for length in (1, 12, 64, 100, 256, 512)]

    plain = rows(1.0)
    assert rows(0.5) == rows(0.0) == rows(math.nan) == plain
    grown = [rows(growth) for growth in (1.0, 1.01, 1.5, 3.0, 100.0, math.inf)]
    for less, more in zip(grown[1:], grown, strict=False):
        assert all(a <= b for a, b in zip(less, more, strict=True))
    assert min(grown[-1]) == 1


@pytest.mark.parametrize(
    ("measured", "growth"),
    [
        (Measurement(), 1.0),
        (Measurement(predicted_bytes=100, measured_bytes=0, resident_bytes=50), 1.0),
        (Measurement(predicted_bytes=50, measured_bytes=80, resident_bytes=50), 1.0),
        (Measurement(predicted_bytes=100, measured_bytes=125, resident_bytes=50), 1.5),
        (Measurement(predicted_bytes=100, measured_bytes=75, resident_bytes=50), 0.5),
        (Measurement(predicted_bytes=100, measured_bytes=900, resident_bytes=50), 2.0),
        (Measurement(predicted_bytes=100, measured_bytes=125, resident_bytes=90), 1.0),
    ],
)
def test_growth_is_of_the_activations(measured, growth):
    """Over the whole peak, weights of 3 GB would hide that batches need twice as much; beside them, a workspace of a
    few MB would pass for growth."""
    assert measured.growth == growth


@pytest.mark.parametrize(("tokens", "used"), [(LEAST_MEASURED_TOKENS, True), (LEAST_MEASURED_TOKENS - 1, False)])
def test_a_rate_that_was_measured_is_used(tokens, used, planning, tiny_models):
    """A plan with a data sheet's rate where a measured one is known; or with that of three chunks, which is none."""
    measured = Measurement(tokens_per_second=50.0, tokens=tokens, runs=1)
    MeasurementCache(planning.cache_dir).record(fingerprint_of(tiny_models["bert"]), "float32", "cpu cpu", measured)
    found = estimate_run(dataclasses.replace(planning, models=("bert",), accelerator="cpu")).models[0]
    padded = found.tokens / (1 - found.padding_share)
    assert found.basis == ("measured on this machine" if used else "unknown")
    assert found.seconds == (pytest.approx(padded / 50.0) if used else None)


def test_the_rate_of_a_simulated_card_is_not_used(planning, tiny_models):
    """A plan for a T4 with a laptop's speed says days in the place of hours."""
    measured = Measurement(tokens_per_second=50.0, tokens=10**9, runs=1)
    key = "simulated Tesla T4"
    MeasurementCache(planning.cache_dir).record(fingerprint_of(tiny_models["bert"]), "float32", key, measured)
    found = estimate_run(dataclasses.replace(planning, models=("bert",), accelerator="simulated:1xT4")).models[0]
    assert found.basis == "estimated from the card's data sheet"


# A cache that is no use.


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000,
        b'{"KEY": 5}', b'{"KEY": {"measured_bytes": "many", "runs": null}}', b'{"KEY": {"unknown": 1}}',
    ],
    ids=["empty", "cut", "list", "null", "binary", "deep", "number", "text", "foreign"],
)  # fmt: skip
def test_a_damaged_cache_is_an_empty_one(content, tmp_path):
    """A cache that stops a run for which it is not needed is worse than none."""
    (tmp_path / FILE_NAME).write_bytes(content.replace(b"KEY", b"a/float32/cpu cpu"))
    measurements = MeasurementCache(tmp_path)
    assert measurements.of("a", "float32", "cpu cpu") == Measurement()
    measured = Measurement(predicted_bytes=2, measured_bytes=3, resident_bytes=1, tokens_per_second=0.5, runs=1)
    measurements.record("a", "float32", "cpu cpu", measured)
    assert measurements.of("a", "float32", "cpu cpu") == measured


def test_a_run_with_a_damaged_cache_mends_it(planning):
    """The next run would stumble over the same file."""
    planning.cache_dir.mkdir()
    (planning.cache_dir / FILE_NAME).write_text('{"a/float32/cpu": {"runs": 3')
    result = run(dataclasses.replace(planning, models=("xlm-roberta",)))
    assert result.notices == ()
    assert [row["runs"] for row in kept(planning).values()] == [1]


def test_a_cache_that_cannot_be_written_is_no_error(planning, tmp_path):
    """Hours of work lost because of a file that only saves seconds."""
    (tmp_path / "taken").write_text("a file, where the folder should be")
    run(dataclasses.replace(planning, models=("xlm-roberta",), cache_dir=tmp_path / "taken"))
    assert json.loads((planning.out / "run.json").read_text())["models"][0]["chunks"] == 3


def test_a_cache_that_cannot_be_written_is_a_notice(planning, tmp_path):
    """Whoever wonders why no plan gets better finds the reason in run.json."""
    (tmp_path / "taken").write_text("a file, where the folder should be")
    result = run(dataclasses.replace(planning, models=("xlm-roberta",), cache_dir=tmp_path / "taken"))
    assert len(result.notices) == 1
    assert result.notices[0].startswith("measurements: the measurements of this run are not kept for later plans: ")
    assert json.loads((planning.out / "run.json").read_text())["notices"] == list(result.notices)


def test_rows_of_others_are_kept(tmp_path):
    """Two models that are recorded one after the other: the second must not take the first with it."""
    first, second = Measurement(runs=1), Measurement(runs=2)
    MeasurementCache(tmp_path).record("a", "float32", "cpu cpu", first)
    MeasurementCache(tmp_path).record("b", "float32", "cpu cpu", second)
    measurements = MeasurementCache(tmp_path)
    assert (measurements.of("a", "float32", "cpu cpu"), measurements.of("b", "float32", "cpu cpu")) == (first, second)
    assert (
        measurements.of("a", "float16", "cpu cpu") == measurements.of("a", "float32", "cuda Tesla T4") == Measurement()
    )


# Predictions against what devices say.


@pytest.fixture
def plan_of(tiny_models) -> Callable[..., RunPlan]:
    """A plan for tiny models on a T4 in one mode."""

    def make(*names: str, mode="exclusive", traced: bool = True) -> RunPlan:
        card = CARDS["T4"]
        tracers = {name: tracer_of(blueprint_of(resolve(str(tiny_models[name]))), "float32", card) for name in names}
        models = [
            PlannedModel(
                name=name, budget=given(2_000), max_tokens=512, weight_sizes=tracer.weights.sizes_bytes,
                tracer=tracer if traced else None,
            )
            for name, tracer in tracers.items()
        ]  # fmt: skip
        return plan_run(models, mode, card)

    return make


SMALL, LARGE = Batch(rows=(0, 1), padded_length=16), Batch(rows=tuple(range(8)), padded_length=256)


def compared(watch: PeakWatch, models, peaks, splits=None) -> list[PeakCompared]:
    sink = ListSink()
    compare_peaks(watch, models, peaks, splits or {}, sink)
    return [event for event in sink.events if isinstance(event, PeakCompared)]


@pytest.mark.parametrize(
    ("share", "missed"), [(1.2, True), (1.11, True), (1.09, False), (1.0, False), (0.91, False), (0.89, True)]
)
def test_a_miss_of_more_than_a_tenth_is_marked(share, missed, plan_of):
    """A prediction that drifts away with a new driver must be seen in the first run."""
    plan = plan_of("qwen2")
    watch = PeakWatch(plan)
    watch.see("qwen2", [SMALL, LARGE, SMALL])
    expected = plan.predictors["qwen2"].predict(8, 256)
    assert watch.predict("qwen2") == expected
    peak = int(expected.peak_bytes * share)
    (event,) = compared(watch, ["qwen2"], {"sim:0": peak, "sim:1": 5})
    assert (event.device, event.measured_bytes, event.predicted_bytes) == ("sim:0", peak, expected.peak_bytes)
    assert (event.models, event.resident_bytes, event.missed) == (("qwen2",), expected.resident_bytes, missed)


def test_the_largest_batch_of_all_shards_is_compared(plan_of):
    """The last shard is seldom the fullest."""
    watch = PeakWatch(plan_of("qwen2"))
    for batches in ([SMALL], [LARGE], [], [SMALL]):
        watch.see("qwen2", batches)
    assert watch.predict("qwen2") == plan_of("qwen2").predictors["qwen2"].predict(8, 256)


def test_a_mask_counts_only_where_a_row_is_padded(plan_of):
    """24 long texts, all of them cut, were 3 MB below their prediction, and `soloist validate` called this a fault."""
    plan = plan_of("bert")
    predict, watch = plan.predictors["bert"].predict, PeakWatch(plan)
    full, padded = (predict(8, 256, masked=masked) for masked in (False, True))
    assert full.peak_bytes * 1.1 < padded.peak_bytes == predict(8, 256).peak_bytes
    watch.see("bert", [LARGE, SMALL], [False, True])
    assert watch.predict("bert") == full
    nearly = dataclasses.replace(LARGE, rows=LARGE.rows[1:])  # smaller, but with a mask
    watch.see("bert", [nearly], [True])
    assert watch.predict("bert") == predict(7, 256, masked=True)


@pytest.mark.parametrize("packing", ["off", "on"])
def test_the_peak_of_rows_without_padding_is_as_predicted(packing, config, tmp_path):
    """A run would be compared with the peak of batches with a mask, which its device never had."""
    (tmp_path / "long" / "long").mkdir(parents=True)
    texts = ["lease vector shard " * 60] * 7 + ["lease vector"]
    chunks = json.dumps([f"{text} {number}" for number, text in enumerate(texts)])
    (tmp_path / "long" / "long" / "doc_chunks.json").write_text(chunks)
    sink = ListSink()
    run(
        dataclasses.replace(
            config, chunks_root=tmp_path / "long", accelerator="simulated:1xT4", models=("bert",), packing=packing
        ),
        sink,
    )
    (event,) = (event for event in sink.events if isinstance(event, PeakCompared))
    assert event.measured_bytes == pytest.approx(event.predicted_bytes, rel=0.02)


def test_models_that_share_a_pass_share_its_comparison(plan_of):
    """Two verdicts over one peak: at least one of them would be a miss."""
    plan = plan_of("qwen2", "bert", mode="standard")
    watch = PeakWatch(plan)
    watch.see("qwen2", [LARGE])
    watch.see("bert", [SMALL])
    worst = max((watch.predict("qwen2"), watch.predict("bert")), key=lambda memory: memory.peak_bytes)
    (event,) = compared(watch, ["qwen2", "bert"], {"sim:0": worst.peak_bytes})
    assert event.models == ("qwen2", "bert") and not event.missed
    assert event.resident_bytes > plan_of("qwen2").predictors["qwen2"].predict(8, 256).resident_bytes


def test_nothing_is_compared_that_did_not_happen(plan_of):
    """A batch that was split never ran; a model that saw no batch, or is not predicted, has no peak to compare."""
    watch = PeakWatch(plan_of("qwen2"))
    assert compared(watch, ["qwen2"], {"sim:0": 10**6}) == []
    watch.see("qwen2", [LARGE])
    assert compared(watch, ["qwen2"], {"sim:0": 10**6}, {"qwen2": 1}) == []
    assert len(compared(watch, ["qwen2"], {"sim:0": 10**6}, {"other": 1})) == 1
    unknown = PeakWatch(plan_of("qwen2", traced=False))
    unknown.see("qwen2", [LARGE])
    assert compared(unknown, ["qwen2"], {"sim:0": 10**6}) == []


def test_a_run_without_a_comparison_keeps_the_one_before(tmp_path, tiny_models):
    """A run of which batches were split knows nothing new of the peak, and must not forget what is known."""
    encoder = Encoder(stage(resolve(str(tiny_models["bert"])), "float32"))
    measurements, sink = MeasurementCache(tmp_path), ListSink()
    event = PeakCompared(
        models=("bert",), device="sim:0", predicted_bytes=20, measured_bytes=30, resident_bytes=10, missed=True
    )
    key = "cuda Tesla T4"
    remember(measurements, encoder, key, event, tokens=900, rate=100.0, sink=sink)
    remember(measurements, encoder, key, None, tokens=1000, rate=50.0, sink=sink)
    remember(measurements, encoder, key, None, tokens=10, rate=1.0, sink=sink)  # too few to say anything of the rate
    found = measurements.of(encoder.staged.fingerprint, "float32", key)
    assert found == Measurement(
        predicted_bytes=20, measured_bytes=30, resident_bytes=10, tokens_per_second=50.0, tokens=1000, runs=3
    )
    assert found.growth == 2.0
    assert not [event for event in sink.events if isinstance(event, Notice)]
