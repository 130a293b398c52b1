"""A new ranker is one row of the table and one file: search, eval and their help find it by the row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.forks import run_forked

from soloist.errors import ConfigError
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.rankers import RANKERS, RankerRow

ROW = {"module": "retrieval.longest_first", "kind": "lexical", "help": "Rank the longest texts first."}
TESTS = Path(__file__).parents[1]
QUESTION = "which device has the lease"


@pytest.fixture
def row(monkeypatch):
    """The row, for one test."""
    monkeypatch.setitem(RANKERS, "longest", RankerRow(**ROW))


def longest(run, count, collections=()):
    """The ids of the longest chunks, and their lengths; equal lengths are in the order of the rows."""
    chunks = sorted(run.chunks(collections), key=lambda chunk: -len(chunk.text))[:count]
    return [chunk.id for chunk in chunks], [len(chunk.text) for chunk in chunks]


def test_a_search_ranks_by_it_and_loads_no_model(row, searched, passes_through):
    """A search that has its own list of rankers would refuse the new one, or rank by the fused vectors."""
    run = open_run(searched)
    hits, *others = run.search_all([QUESTION, "tokens"], 7, by="longest")
    ids, lengths = longest(run, 7)
    assert ([hit.id for hit in hits], [hit.score for hit in hits]) == (ids, lengths)
    assert others == [hits]
    (hit,) = run.search(QUESTION, 1, by=By(ranker="longest"), collections=["beta"])
    assert (hit.collection, [hit.id]) == ("beta", longest(run, 1, ["beta"])[0])
    assert not passes_through


def test_it_is_among_the_choices_while_it_has_a_row(row, searched, monkeypatch):
    """A message would leave out the new ranker, or name one that is gone."""
    run = open_run(searched)
    with pytest.raises(ConfigError, match=r"choose one of bert, .*, hybrid, fused, rrf, standardised, longest$"):
        run.search(QUESTION, by="shortest")
    with pytest.raises(ConfigError, match="only hybrid, rrf and standardised take weights"):
        By(ranker="longest", weights={"bert": 1.0})
    monkeypatch.delitem(RANKERS, "longest")
    with pytest.raises(
        ConfigError, match=r"there is no ranker longest: choose one of bert, .*, hybrid, fused, rrf, standardised$"
    ):
        run.search(QUESTION, by="longest")


def test_an_evaluation_compares_it(row, searched):
    """A ranker without figures is one that nobody can choose; one without a model is no best single model."""
    run = open_run(searched)
    ids, _ = longest(run, 2)
    evaluation = evaluate(run, Qrels(queries={"q": QUESTION}, judgements={"q": {ids[1]: 1}}))
    (system,) = (system for system in evaluation.systems if system.name == "longest")
    assert (system.measures["RR@10"], system.kind, system.cost) == (0.5, "lexical", None)
    assert evaluation.best_single in run.models
    assert [system.name for system in evaluation.systems][-2:] == ["BM25", "longest"]


def test_the_command_and_its_help_have_its_option(searched):
    """A ranker that the help does not show is not used; or its option would be read, and not arrive."""
    code = f"""if True:
        from soloist.retrieval.rankers import RANKERS, RankerRow
        RANKERS["longest"] = RankerRow(**{ROW!r})
        import sys
        for name in [name for name in sys.modules if name.startswith("soloist.cli")]:
            del sys.modules[name]  # a fork has made the command before there was the row
        from typer.testing import CliRunner
        from soloist.cli import app
        for command in (["--help"], [{str(searched)!r}, "lease", "--longest", "--json", "-k", "3"]):
            print(CliRunner().invoke(app, ["search", *command], catch_exceptions=False).stdout)
        """
    done = run_forked([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS, timeout=300)
    *help_lines, answer = (line for line in done.stdout.splitlines() if line.strip())
    assert any(line.split() == ["--longest", *ROW["help"].split()] for line in help_lines), done.stderr
    assert [hit["id"] for hit in json.loads(answer)["hits"]] == longest(open_run(searched), 3)[0]
