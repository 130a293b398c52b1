"""An evaluation at every width: no figure is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from soloist.reports.evaluation import print_evaluation
from soloist.reports.table import open_console
from soloist.retrieval.cost import Cost
from soloist.retrieval.evaluation import Evaluation, LeftOut, SystemScore
from soloist.retrieval.metrics import Difference
from soloist.retrieval.verdict import Verdict

LONG = "an-organisation/a-model-with-a-name-of-more-than-forty-characters"
GAIN = Difference(mean=0.0141, low=0.0022, high=0.0260, p_value=0.02)


@pytest.fixture
def found() -> Evaluation:
    """A model, a fusion with a long name, and one that is left out."""
    measures = {"nDCG@10": 0.3737, "R@100": 0.7731, "RR@10": 0.5342}
    cost = Cost(seconds=72.7, bytes_per_chunk=1536)
    return Evaluation(
        questions=225, chunks=1398, best_single="a", tuned=None, notices=("one\nnotice",), weak=False,
        systems=(
            SystemScore(name="a", kind="model", measures=measures, gain=None, cost=cost),
            SystemScore(name=LONG, kind="fusion", measures=measures, gain=GAIN, cost=None),
        ),
        left_out=(LeftOut(name="projection", reason="there are too few chunks"),),
        verdict=Verdict(system=LONG, answer="helps", text="It helps here, " + "in so many words " * 10, gain=GAIN),
        best_verdict=Verdict(system="rrf", answer="helps", text="So does another.", gain=GAIN),
    )  # fmt: skip


@pytest.mark.parametrize("width", [10, 40, 80, None])
def test_no_figure_is_cut_at_any_width(found, width):
    """A table that does not fit lost its last columns, or broke names in two."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None) if width else open_console(stream)
    print_evaluation(found, console)
    text = stream.getvalue()
    for shown in (LONG, "0.3737", "0.7731", "0.5342", "+0.0141 [+0.0022, +0.0260]", "72.7", "1.5 kB", "is the best"):
        assert shown in text
    assert any(line.startswith("projection") for line in text.splitlines()) and "left out" in text
    assert found.verdict.text.strip() in text and found.best_verdict.text in text
    assert "note: projection is left out: there are too few chunks\nnote: one notice\n" in text
