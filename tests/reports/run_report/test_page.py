"""The page has the facts of its runs, opens nowhere but here, and is bounded in size."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.collections import TABLE_SETTINGS
from support.invoking import invoke
from support.run_events import BEGAN, DEVICES, encoded, staged, stats, two_sessions

import soloist
from soloist.errors import ConfigError, OutputError, OutputPathError
from soloist.events import BatchSplit, LeaseAcquired, Notice, RunStarted, event_to_dict
from soloist.stores import RunFolder

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>&\"'$\\alpha$ \x1b[31m \udcff 標"
EMPTY = {"br", "col", "hr", "img", "input", "link", "meta"}
FIELDS = (
    "model", "about", "collection", "rows", "tokens", "padded_tokens", "seconds", "waited_seconds", "parts", "tally",
    "versions", "batch_rows", "padded_lengths", "peak_bytes", "allocated_bytes", "rows_per_device", "memory", "ids",
    "predicted_bytes", "chunks", "padded_length", "error", "mode", "max_tokens", "token_budget", "limit_bytes",
)  # fmt: skip
FIGURES = {"leases", "memory", "rates", "phases", "lengths", "batches", "padding", "splits", "work"}


class Page(HTMLParser):
    """The elements of a page, its figures, and the text of its cells."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.urls: list[str] = []
        self.marks: dict[str, int] = {}
        self.text = ""
        self._open: list[str] = []
        self._figure = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        assert not any(name.startswith("on") for name in values)
        if tag == "svg":
            self._figure = values["id"] or ""
            self.marks[self._figure] = 0
        self.marks[self._figure] = self.marks.get(self._figure, 0) + (values.get("class") == "mark")
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open and self._open[-1] != "style" else ""


@pytest.fixture(scope="module")
def page(make_run, tmp_path_factory):
    """The report of a run of two sessions."""
    run = make_run(two_sessions(), name="shown")
    return Page(soloist.report(run, tmp_path_factory.mktemp("page") / "report.html"))


def test_every_figure_has_marks_in_both_widths(page):
    """A figure of wrong facts would be an empty frame."""
    expected = {f"{width}-0-{name}" for width in ("wide", "narrow") for name in FIGURES}
    assert {name for name, marks in page.marks.items() if marks} == expected
    assert len(page.ids) == len(set(page.ids))
    assert [url for url in page.urls if not url.startswith(("#", "data:,"))] == []
    assert "script" not in page.tags


def test_the_page_has_the_facts_as_text(page):
    """Who cannot see a figure finds the same facts in its table."""
    for fact in ("1.0 kB", "500 B (not compared)", "600 B", "no release recorded", "hand-over",
                 "3.75 s", "no end recorded", "torch", "9.9", "something", "tokens cut off"):  # fmt: skip
        assert fact in page.text, fact


def test_two_runs_are_beside_each_other(make_run, tmp_path):
    """Nobody can compare two files in two tabs. And a run without a figure must not take the other run's place."""
    one, two = make_run(two_sessions()[:5], name="one"), make_run(name="two")
    page = Page(soloist.report(one, tmp_path / "report.html", beside=two))
    shown = {(0, "leases"), (0, "memory"), (0, "phases"), (0, "lengths"), (1, "lengths")}
    assert {name for name, marks in page.marks.items() if marks} == {
        f"{width}-{number}-{name}" for width in ("wide", "narrow") for number, name in shown
    }
    assert page.tags.count("h2") * 2 == page.tags.count("h3")
    assert len(page.ids) == len(set(page.ids))


def test_a_model_has_one_colour_in_both_runs(make_run, tmp_path):
    """Two runs whose models come in another order: the first model of each was blue, so models changed places."""
    events = [
        (1.0, staged("b")),
        (2.0, LeaseAcquired(models=("b",), devices=DEVICES, memory=stats(), waited_seconds=0.0)),
    ]
    runs = make_run(two_sessions(), name="one"), make_run(events, name="two")
    text = soloist.report(runs[0], tmp_path / "report.html", beside=runs[1]).read_text()
    figures = [re.search(rf'<svg[^>]* id="wide-{number}-leases".*?</svg>', text, re.DOTALL) for number in (0, 1)]
    assert [set(re.findall(r"--series-\d", figure[0])) for figure in figures] == [
        {"--series-0", "--series-1"},
        {"--series-1"},
    ]


def test_the_legend_of_padding_has_the_colour_of_no_model(make_run, tmp_path):
    """The legend had the first model's blue for all texts, and the bars had the colour of each model."""
    events = [*two_sessions(), (90.0, encoded("b", 0))]
    text = soloist.report(make_run(events, name="legend"), tmp_path / "report.html").read_text()
    figure = re.search(r'<svg[^>]* id="wide-0-padding".*?</svg>', text, re.DOTALL)[0]
    bars, legend = figure.split("wide-0-padding-legend_1")
    assert {"--series-0", "--series-1"} <= set(re.findall(r"--series-\d", bars))
    assert "texts" in legend and "--series" not in legend


def test_texts_and_values_of_any_kind_make_a_page(make_run, tmp_path):
    """A model, a device, a file or a notice may be named like an element, and fields may be of another kind."""
    named, memory = {"models": (HOSTILE,), "devices": (HOSTILE,)}, {HOSTILE: stats()["sim:0"]}
    events = [
        (0.0, RunStarted(mode=HOSTILE, accelerator=HOSTILE, versions={HOSTILE: HOSTILE}, **named)),
        (1.0, LeaseAcquired(memory=memory, waited_seconds=0.0, **named)),
        (2.0, Notice(about=HOSTILE, message=HOSTILE)),
        (3.0, dataclasses.replace(encoded(HOSTILE, 0), rows_per_device={HOSTILE: 6}, allocated_bytes={HOSTILE: 9})),
    ]
    run = make_run(events, name="<b>run", more=odd_lines())
    (run / "state.json").write_text(json.dumps({"config": {HOSTILE: HOSTILE}, "models": {HOSTILE: "f"}}))
    page = Page(soloist.report(run, tmp_path / "report.html"))
    assert not {"script", "img", "b"} & set(page.tags)
    escaped = HOSTILE.replace("\x1b", "\\x1b").replace("\udcff", "\\udcff")
    assert page.text.count(escaped) > 5
    assert {name.removeprefix("wide-0-") for name, marks in page.marks.items() if marks} >= FIGURES


def odd_lines():
    """Lines of events whose fields are missing or of another kind, as in a file that was edited."""
    names = dict.fromkeys(type(event).__name__ for _, event in two_sessions())
    odd = [None, "text", -1, 0.5, 1e308, 5e-324, True, [], {}, [None], {"x": None}, {"sim:0": 1e17}, 10**300]
    for at, (name, value) in enumerate(itertools.product(names, odd)):
        event = {"event": name, "time": BEGAN + at, "model": str(value), "models": [str(value)], "devices": ["sim:0"]}
        yield json.dumps(dict.fromkeys(FIELDS, value) | event)
        yield json.dumps({"event": name, "time": value})


def test_a_large_run_is_a_page_of_bounded_size_that_says_what_it_cut(make_run, tmp_path):
    """With a mark for each of 10,000 shards, no browser opens the file. And a report must say what it leaves out."""
    devices = tuple(f"sim:{number}" for number in range(20))
    began = RunStarted(mode="exclusive", accelerator="simulated", devices=devices, models=("m",))
    lease = LeaseAcquired(
        models=(), devices=devices, memory=dict.fromkeys(devices, stats()["sim:0"]), waited_seconds=0.0
    )
    split, shard = BatchSplit(model="", device="sim:1", rows=4, padded_length=8), encoded("", 0)
    leased, halved, done = (event_to_dict(event, BEGAN) for event in (lease, split, shard))
    lines = []
    for model in range(20):
        named, time = {"model": f"m{model}", "models": [f"m{model}"]}, BEGAN + model * 1e3
        lines += [{**leased, **named, "time": time}, *[{**halved, **named, "time": time}] * 15]
        for at in range(500):
            changes = {"time": time + at, "seconds": 1.5**-model, "batch_rows": [at, 7]}
            lines.append({**done, **named, **changes})
    run = make_run([(0.0, began)], more=map(json.dumps, lines))
    path = soloist.report(run, tmp_path / "report.html")
    assert path.stat().st_size < 4_000_000
    text = path.read_text(encoding="utf-8")
    assert "A point stands for 9 shards in a row" in text
    for words in ("first 8 of 20 devices", "first 16 of 20 rows", "first 8 of 20 models", "first 16 of 20 models"):
        assert f"The figure shows the {words}." in text
    assert "The figure shows the first 200 of 300 batches that ran out of memory." in text
    assert "<p>250 more rows are not shown" in text  # a table has 50 of the splits


def test_a_run_without_events_is_a_page_that_says_so(make_run, tmp_path):
    """The report is wanted most where something went wrong."""
    run = make_run()
    (run / "events.jsonl").unlink()
    page = Page(soloist.report(run, tmp_path / "report.html"))
    assert "The run has no events" in page.text
    assert {name for name, marks in page.marks.items() if marks} == {"wide-0-lengths", "narrow-0-lengths"}


def test_the_evaluation_of_the_run_is_shown(make_run, tmp_path):
    """What the ensemble is worth is the question behind the run."""
    file, out = tmp_path / "evaluation.json", tmp_path / "report.html"
    file.write_text(json.dumps(evaluation("a")))
    result = invoke("report", make_run(), "--out", out, "--evaluation", file)
    assert result.exit_code == 0, result.stderr
    page = Page(out)
    assert page.marks["wide-0-evaluation"] == 3  # two systems, and an interval
    assert "+0.1000 [+0.0500, +0.1500]" in page.text and "It helps." in page.text and "a question was cut" in page.text


def test_an_opened_run_and_one_evaluation_are_taken(tmp_path):
    """`soloist.report(run, evaluations=found)` of what `open_run` and `evaluate` gave was a TypeError."""
    settings = {**TABLE_SETTINGS, "lock_dir": tmp_path / "locks"}
    chunks = [{"text": f"a lease of device {number}", "title": f"device {number}"} for number in range(40)]
    soloist.embed(chunks, out=tmp_path / "run", **settings)
    run = soloist.open_run(tmp_path / "run")
    found = soloist.evaluate(run, bm25=False, progress=False)
    page = Page(soloist.report(run, tmp_path / "report.html", beside=run, evaluations=found))
    assert "nDCG@10" in page.text


def evaluation(*models):
    """What `soloist eval --json` prints, as far as the report reads it."""
    systems = [{"name": name, "kind": "model", "measures": {"nDCG@10": 0.5}, "gain": None} for name in models]
    gain = {"mean": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.01}
    systems.append({"name": "concat", "kind": "run", "measures": {"nDCG@10": 0.6}, "gain": gain})
    return {"questions": 25, "best_single": models[0], "systems": systems, "verdict": {"text": "It helps."},
            "notices": ["a question was cut"]}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "which cannot be read (No such file or directory)"),
        ("{", "which cannot be read (it is not JSON)"),
        ("[]", "the evaluation has no systems"),
        (json.dumps(evaluation("other")), "the evaluation is of other, but the run"),
    ],
)
def test_an_evaluation_that_is_not_of_the_run_is_refused(content, words, make_run, tmp_path):
    """Figures of another run would be read as those of this one."""
    file = tmp_path / "evaluation.json"
    if content is not None:
        file.write_text(content)
    result = invoke("report", make_run(), "--out", tmp_path / "report.html", "--evaluation", file)
    assert result.exit_code == 2
    assert words in result.stderr and "soloist eval RUN --json" in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_report_is_replaced_and_no_other_file_is(make_run, tmp_path):
    """`--out` with the wrong name would cost somebody a file."""
    run, out = make_run(), tmp_path / "report.html"
    assert soloist.report(run, out) == soloist.report(run, str(out)) == out
    out.write_text("my own page")
    with pytest.raises(OutputPathError, match="is not a report of soloist: choose another file"):
        soloist.report(run, out)
    assert out.read_text() == "my own page"
    with pytest.raises(OutputPathError, match="is a folder: give the name of a file"):
        soloist.report(run, tmp_path)


def test_a_report_is_not_written_into_its_run(make_run, tmp_path):
    """A run that was stopped while it read would not count as a run any more, and could not be continued."""
    run = make_run(two_sessions())
    (tmp_path / "link").symlink_to(run)
    for out in (run / "report.html", tmp_path / "link" / "report.html"):
        with pytest.raises(OutputPathError, match="is inside the run"):
            soloist.report(run, out)
    RunFolder.at(run)


def test_without_matplotlib_one_sentence_says_what_to_install(make_run, tmp_path, monkeypatch):
    """A traceback of an import does not help in a notebook."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"soloist report needs matplotlib: run pip install .*\[report\]"):
        soloist.report(make_run(two_sessions()), tmp_path / "report.html")


def test_an_out_that_cannot_be_written_is_one_sentence(make_run, tmp_path):
    """A path below a file is a mistake of the reader, and no fault of the run."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        soloist.report(make_run(), tmp_path / "file" / "report.html")
