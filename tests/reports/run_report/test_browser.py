"""The report of a real run in a real browser: two models on two simulated T4, a batch that is split, a run that was
broken off and resumed, and an evaluation.

SOLOIST_SCREENSHOTS=FOLDER keeps what the browser showed, for eyes.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import closing
from pathlib import Path

import pytest
from support.browser import Browser, program
from support.collections import catalogue_below, config_of, write_collection
from support.crowd import Crowd
from support.tiny_models import make_xlm_roberta

import soloist
from soloist.engine import run
from soloist.events import BatchSplit, ListSink, ShardEncoded, ShardsKept
from soloist.memory.cards import CARDS
from soloist.reports.run_report.gathering import gather
from soloist.retrieval import open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels

MODELS = ("bert", "wide")
FIGURES = {"leases", "memory", "rates", "phases", "lengths", "batches", "padding", "splits", "work", "evaluation"}
# A rectangle of every mark that is shown. A line may be flat, and has a width then.
MARKED = """
[...document.querySelectorAll("section")].filter(part => part.querySelector("svg")).map(part => [part.id,
  [...part.querySelectorAll("figure svg")].filter(each => each.checkVisibility()).map(each =>
    [...each.querySelectorAll(".mark")].filter(mark => {
      const box = mark.getBoundingClientRect(); return box.width + box.height > 0;
    }).length)])
"""
OVERFLOWING = """
[...document.querySelectorAll("body *")].filter(each => !each.closest(".scroll, .unseen, svg") &&
  each.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(each => each.outerHTML)
"""
# The texts of figures: how high they are, and whether one is cut by the frame of its figure.
SMALLEST = """
Math.min(...[...document.querySelectorAll("svg text")].filter(each => each.checkVisibility()).map(each =>
  each.getBoundingClientRect().height))
"""
CUT = """
[...document.querySelectorAll("svg text")].filter(each => each.checkVisibility()).filter(each => {
  const text = each.getBoundingClientRect(), frame = each.closest("svg").getBoundingClientRect();
  return text.left < frame.left - 1 || text.right > frame.right + 1 || text.bottom > frame.bottom + 1;
}).map(each => each.textContent)
"""
COLOURS = 'getComputedStyle(document.querySelector("svg text")).fill + getComputedStyle(document.body).backgroundColor'
OPENED = 'document.querySelectorAll("details").forEach(each => { each.open = true })'
PLACES = '[...document.querySelectorAll("#leases .run")].map(each => each.getBoundingClientRect().left)'


class BrokenOffError(Exception):
    """What ends the first session."""


class BreakOff:
    """An event sink that ends a run after some shards."""

    def __init__(self, shards: int) -> None:
        self._left = shards

    def emit(self, event: object) -> None:
        self._left -= isinstance(event, ShardEncoded)
        if self._left == 0 and isinstance(event, ShardEncoded):
            raise BrokenOffError("broken off by the test")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, tiny_models):
    """The folder of the run, and its evaluation."""
    root = tmp_path_factory.mktemp("resumed")
    write_collection(root / "chunks", "alpha", 90, longest=60, seed=1)
    write_collection(root / "chunks", "beta", 30, longest=20, seed=2)
    # So wide that its batches need more than the 20 MiB that the allocator of a T4 takes at once.
    wide = make_xlm_roberta(root / "wide", intermediate_size=3072)
    write_collection(root / "chunks", "gamma", 10, longest=60, seed=1)  # the first texts of alpha once more
    catalogue = catalogue_below(root, {"wide": wide, "bert": tiny_models["bert"]})
    catalogue.write_text(f"{catalogue.read_text()}max_tokens = 100\n")  # bert's
    config = config_of(root, root / "chunks", catalogue)
    config = dataclasses.replace(config, accelerator="simulated:2xT4", dtype="float32", models=MODELS)
    with pytest.raises(BrokenOffError):
        run(config, BreakOff(2))
    sink = ListSink()
    with closing(Crowd("wide", root / "locks", CARDS["T4"].total_bytes, spare_bytes=23 << 20)) as crowd:
        run(config, sink, crowd)
    assert any(isinstance(event, BatchSplit) for event in sink.events)
    assert any(isinstance(event, ShardsKept) for event in sink.events)
    opened = open_run(config.out, catalogue=config.catalogue)
    chunks = list(opened.chunks())[:40]
    judgements = {chunk.id: {chunk.id: 1} for chunk in chunks}
    qrels = Qrels(queries={chunk.id: chunk.text for chunk in chunks}, judgements=judgements)
    return config.out, evaluate(opened, qrels, keep_own=True)


@pytest.fixture(scope="module")
def report(resumed, tmp_path_factory) -> Path:
    """The report of the run."""
    out, evaluation = resumed
    return soloist.report(out, tmp_path_factory.mktemp("page") / "report.html", evaluations=[evaluation])


@pytest.fixture(scope="module")
def both(resumed, tmp_path_factory) -> Path:
    """The run beside itself."""
    return soloist.report(resumed[0], tmp_path_factory.mktemp("two") / "report.html", beside=resumed[0])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = program()
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or another Chrome on the PATH")
    with Browser(path, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_the_facts_are_those_of_the_run(resumed):
    """No figure can show what the events lack."""
    facts = gather(resumed[0])
    assert [session.ended for session in facts.sessions] == ["ended early", "finished"]
    assert facts.state == "finished" and facts.gaps == ()
    assert {phase.name for phase in facts.phases} >= {"reading", "loading", "tokenizing", "encoding", "hand-over"}
    assert all(phase.seconds > 0 for phase in facts.phases if phase.name != "waiting for devices")
    assert [lease.models for lease in facts.leases] == [("bert",), ("bert",), ("wide",)]
    assert [lease.is_compared for lease in facts.leases if lease.predicted_bytes] == [True, False]
    assert [work.repeated for work in facts.work] == [0, 10, 10]
    assert [lengths.texts_cut > 0 for lengths in facts.lengths] == [True, False]
    assert {lengths.model: lengths.texts for lengths in facts.lengths} == dict.fromkeys(MODELS, 130)
    assert sum(work.embedded + work.repeated + work.kept for work in facts.work if work.session == 2) == 260


@pytest.mark.process
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_whole_in_a_browser(report, browser, width, scheme):
    """A page that is right as text may be empty, cut or unreadable on a screen."""
    browser.open(report, width, scheme)
    keep(browser, f"one-{width}-{scheme}")
    assert browser.said == []
    assert [url for url in browser.requested if not url.startswith(("file:", "data:"))] == []
    shown = browser.value(MARKED)
    assert {name for name, _ in shown} == FIGURES
    assert all(len(figures) == 1 and figures[0] > 0 for _, figures in shown), shown
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.value(OVERFLOWING) == []
    assert browser.value(CUT) == []
    assert browser.value(SMALLEST) >= 10
    browser.value(OPENED)
    assert browser.value(OVERFLOWING) == []


@pytest.mark.process
def test_the_page_is_light_or_dark_as_its_reader_is(report, browser):
    """Dark letters on a dark page cannot be read."""
    colours = []
    for scheme in ("light", "dark"):
        browser.open(report, 1280, scheme)
        colours.append(browser.value(COLOURS))
    assert colours == ["rgb(31, 35, 40)rgb(255, 255, 255)", "rgb(230, 237, 243)rgb(13, 17, 23)"]


@pytest.mark.process
@pytest.mark.parametrize("width", [1280, 390])
def test_two_runs_stand_beside_each_other_where_there_is_room(both, browser, width):
    """Below each other two runs are hard to compare; beside each other on a phone they cannot be read."""
    browser.open(both, width, "light")
    keep(browser, f"two-{width}")
    assert browser.said == []
    places = browser.value(PLACES)
    assert (places[0] < places[1]) == (width == 1280)
    assert browser.value(OVERFLOWING) == []
    assert browser.value(SMALLEST) >= 10


def keep(browser, name):
    if folder := os.environ.get("SOLOIST_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}.png")
