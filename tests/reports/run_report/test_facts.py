"""What a report says of a run is what the files of the run say."""

from __future__ import annotations

import math

import pytest
from support.run_events import BEGAN, DEVICES, encoded, stats, two_sessions

from soloist.errors import OutputPathError
from soloist.events import LeaseAcquired, LeaseReleased, PassFinished, RunStarted
from soloist.reports.run_report.fields import Fields
from soloist.reports.run_report.figures import figure
from soloist.reports.run_report.gathering import gather
from soloist.reports.run_report.model_sections import batches, padding
from soloist.reports.run_report.thinning import evenly, thin_memory, thin_rates
from soloist.reports.run_report.values import MemoryPoint, Rate
from soloist.stores import RunFolder


@pytest.fixture
def facts(make_run):
    return gather(make_run(two_sessions()))


def test_the_time_between_sessions_is_no_work(facts):
    """A run that was continued the next day would have a timeline of which nothing can be seen."""
    assert [(part.begins, part.ends, part.ended) for part in facts.sessions] == [
        (0.0, 9.0, "no end recorded"), (9.0, 23.0, "finished"),
    ]  # fmt: skip
    assert facts.seconds == 23.0
    assert facts.sessions[1].started == BEGAN + 86_400
    assert facts.sessions[1].versions == {"torch": "9.9"}


def test_leases_are_where_they_were(facts):
    """A lease of a killed session has no end, and must not swallow what comes later."""
    leases = [(each.session, each.models, each.begins, each.ends, each.waited_seconds) for each in facts.leases]
    assert leases == [
        (1, ("a",), 6.0, None, 1.0), (2, ("a",), 11.0, 14.5, 0.0), (2, ("b",), 16.0, 20.0, 0.5),
    ]  # fmt: skip
    assert facts.devices == ("sim:0", "sim:1")


def test_memory_has_measured_and_predicted_peaks_and_the_capacity(facts):
    """The prediction of a pass that split a batch is in no comparison, and was lost."""
    last = facts.leases[-1]
    assert (last.predicted_bytes, last.is_compared) == (500, False)
    assert last.peak_bytes == {"sim:0": 300, "sim:1": 600}
    assert last.left_bytes["sim:0"] == 7 and last.total_bytes["sim:0"] == 1000 and last.free_bytes["sim:0"] == 900
    points = [(point.at, point.allocated_bytes, point.peak_bytes) for point in facts.memory["sim:1"]]
    assert points[:2] == [(6.0, 0, 0), (9.0, 90, 250)]
    assert points[-1] == (20.0, 7, 7)


def test_every_phase_has_its_seconds(facts):
    """Time that is counted twice, or under another phase, sends a reader to the wrong place."""
    found = {phase.name: (round(phase.seconds, 6), dict(phase.by_model)) for phase in facts.phases}
    assert found["reading"] == (2.0 + 0.5 + 4 * 0.1, {"a": pytest.approx(0.2), "b": pytest.approx(0.2)})
    assert found["loading"] == (1.5, {"a": 1.5})
    assert found["waiting for devices"] == (1.5, {})
    assert found["tokenizing"] == (2.0, {"a": 1.0, "b": 1.0})
    assert found["encoding"] == (4.0, {"a": 2.0, "b": 2.0})
    assert found["writing"] == (1.0, {"a": 0.5, "b": 0.5})
    # onto the devices .5 + .25 + .5, off them .5 + 1, and from one lease to the next 1.5 less .5 of waiting
    assert found["hand-over"] == (3.75, {})
    assert found["fusing"] == (0.5 + 1.0, {})


def test_work_is_counted_by_session_and_model(facts):
    """Kept chunks were embedded by an earlier session: in one sum they would count twice."""
    work = {(part.session, part.model): part for part in facts.work}
    one = work[2, "a"]
    assert (one.embedded, one.repeated, one.reused, one.from_others, one.kept) == (6, 1, 1, 2, 10)
    assert (one.tokens, one.padded_tokens, one.all_tokens, one.seconds) == (40, 50, 140, 2.0)
    assert work[2, "b"].rows_per_device == {"sim:0": 8, "sim:1": 4}
    assert [(shape.rows, shape.padded_length, shape.count) for shape in facts.batches["b"]] == [(2, 9, 2), (4, 8, 2)]
    assert facts.split_counts == {("b", "sim:1"): 1}
    assert [(split.at, split.rows, split.padded_length) for split in facts.splits] == [(17.0, 4, 8)]
    assert [(rate.at, rate.tokens_per_second) for rate in facts.rates if rate.model == "b"] == [(18.0, 10), (19.0, 40)]


def test_the_tables_have_the_figures_of_the_batches(facts):
    """A median over shapes instead of batches would be that of the rarest ones."""
    rows = {name: cells for name, *cells in batches(facts).tables[0].rows}
    assert rows["a"] == rows["b"] == ["4", "2", "2", "4", "9", "-"]
    padded = {name: cells for name, *cells in padding(facts).tables[0].rows}
    assert padded["a"] == padded["b"] == ["80", "20", "20.0%"]


def test_token_lengths_are_those_of_the_files(facts):
    """The events have padded lengths only: the lengths of the texts are in the files of vectors."""
    (found,) = facts.lengths
    assert (found.model, found.files, found.files_read, found.texts, found.texts_cut) == ("a", 2, 2, 20, 4)
    assert (found.tokens, found.tokens_cut, found.longest) == (110, 20, 10)
    assert found.counts == (0, *[2] * 10) and found.cut_counts == (*[0] * 9, 2, 2)
    assert found.edges == tuple(range(12))


def test_the_run_is_as_its_files_say(facts):
    """An unfinished run has no run.json, and yet models, chunks and a state."""
    assert facts.state == "not finished"
    assert (facts.chunks, facts.names) == (20, ("a", "b"))
    assert [(model.done_chunks, model.max_tokens) for model in facts.models] == [(20, 8), (0, None)]


def test_a_run_at_work_is_shown_as_far_as_it_is(make_run):
    """Somebody who waits for a run wants to see what it does."""
    events = two_sessions()
    path = make_run(events[:-1])
    with RunFolder(path).locked():
        facts = gather(path)
    assert facts.state == "running"
    assert [session.ended for session in facts.sessions] == ["no end recorded", "at work"]
    assert gather(path).state == "not finished"


def test_lines_that_are_no_events_are_counted_and_passed_over(make_run):
    """A killed run leaves half a line; a report that fails at it shows nothing of the other thousands."""
    lines = ['{"time": 1, "event": "Shard', "[1]", '{"event": "Notice"}', "\x00\x01", "[" * 100_000, "1" * 5_000]
    facts = gather(make_run(two_sessions(), more=lines))
    assert f"{len(lines)} lines of events.jsonl cannot be read, and what they said is missing." in facts.gaps
    assert len(facts.rates) == 4


def test_a_run_of_an_earlier_version_says_what_it_did_not_record(make_run):
    """A figure without marks would say that there was no memory, and no time of encoding."""
    old = encoded("a", 0, parts=None, allocated_bytes={}, peak_bytes={})
    named = {"models": ("a",), "devices": DEVICES}
    held = {**named, "memory": stats()}
    events = [
        (0.0, RunStarted(mode="exclusive", accelerator="simulated:2xT4", **named)),
        (1.0, LeaseAcquired(waited_seconds=0.0, **held)),
        (2.0, old),
        (3.0, PassFinished(model="a", peak_bytes={"sim:0": 300, "sim:1": 260})),
        (3.0, LeaseReleased(held=(), held_seconds=2.0, **held)),
    ]
    facts = gather(make_run(events))
    assert not any(facts.memory.values())  # a line at 0 would say that the devices were empty
    assert facts.leases[0].peak_bytes == {"sim:0": 300, "sim:1": 260}
    drawn = figure("memory", "wide", "text", 960, facts, [facts])
    assert drawn.count('class="mark"') == len(DEVICES)  # the peaks
    assert {phase.name: phase.seconds for phase in facts.phases}["tokenizing, encoding and writing"] == 2.0
    assert any("recorded no versions" in gap for gap in facts.gaps)
    assert any("did not record the seconds of tokenizing" in gap for gap in facts.gaps)


def test_a_clock_that_was_set_back_makes_no_time_negative(make_run):
    """A bar that ends before it begins cannot be drawn."""
    events = [(at - 100 if at > 86_407 else at, event) for at, event in two_sessions()]
    facts = gather(make_run(events))
    assert all(lease.ends is None or lease.ends >= lease.begins for lease in facts.leases)
    assert all(phase.seconds >= 0 for phase in facts.phases)


def test_a_folder_without_events_gives_what_the_other_files_say(make_run):
    """events.jsonl is the one file that people delete, because it is large."""
    path = make_run()
    (path / "events.jsonl").unlink()
    facts = gather(path)
    assert facts.chunks == 20 and facts.lengths
    assert any(gap.startswith("The run has no events") for gap in facts.gaps)


def test_damaged_files_are_named_and_passed_over(make_run):
    """A report of a damaged run is what somebody needs to see what became of it."""
    path = make_run(two_sessions())
    (path / "run.json").write_text("{")
    (path / "notes/vectors/a/part-00001.parquet").write_bytes(b"PAR1")
    facts = gather(path)
    assert "run.json is damaged, so the report lacks what it says." in facts.gaps
    assert any("lack 1 file of vectors" in gap for gap in facts.gaps)
    assert facts.lengths[0].texts == 10


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    """An empty report would say that nothing happened."""
    with pytest.raises(OutputPathError, match="does not exist"):
        gather(tmp_path / "absent")
    with pytest.raises(OutputPathError, match="is not a run folder"):
        gather(tmp_path)


def test_a_value_of_another_kind_is_absent():
    """`True` is 1 for Python, and NaN spoils every sum."""
    fields = Fields({"a": True, "b": math.nan, "c": "3", "d": -2, "e": 10**400, "f": [1, "x", None, 2.5]})
    assert [fields.number(name) for name in "abce"] == [None] * 4
    assert fields.count("d") == 0 and fields.number("d") == -2.0
    assert fields.counts("f") == (1, 2) and fields.texts("f") == ("x",)


def test_thinned_rates_have_the_same_tokens_and_seconds():
    """To leave out shards would change the mean; to average rates would let a tiny shard count as a large one."""
    rates = [Rate(at=at, model="ab"[at % 2], tokens=100 * at, seconds=1.0 + at) for at in range(1000)]
    thin, size = thin_rates(rates, 100)
    assert size == 10 and len(thin) == 100
    assert sum(rate.tokens for rate in thin) == sum(rate.tokens for rate in rates)
    assert sum(rate.seconds for rate in thin) == sum(rate.seconds for rate in rates)
    assert thin[0].tokens_per_second == sum(range(0, 2000, 200)) / sum(range(1, 21, 2))


def test_thinned_memory_keeps_the_highest_points():
    """The highest point is the one that a reader looks for."""
    points = [MemoryPoint(at=at, allocated_bytes=at % 97, peak_bytes=100) for at in range(1000)]
    thin, size = thin_memory({"x": points, "y": points[:10]}, 100)
    assert size == 20 and len(thin["x"]) == 50
    assert max(point.allocated_bytes for point in thin["x"]) == 96


def test_files_are_taken_evenly_from_first_to_last():
    """The first hundred shards may be another collection than the rest."""
    assert evenly(range(1000), 4) == [0, 333, 666, 999]
    assert evenly(range(3), 4) == [0, 1, 2]
