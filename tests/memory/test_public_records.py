"""Our recorder, kernels and allocator against figures that others measured on GPUs: the only ones from real hardware.

The facts are in `tests/data/public_memory.json`; the arithmetic is in `benchmarks/public_memory.py`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch

from benchmarks.public_memory import FACTS, KINDS, Figure, Pass, PublicNetwork, card_of
from soloist.devices import simulated
from soloist.memory.cards import bare_card

RECORDS = [
    pytest.param(kind, place, id=f"{kind}-{place}-{record['network']}")
    for kind in KINDS
    for place, record in enumerate(FACTS[kind])
]


@functools.cache
def figures_of(kind: str, place: int) -> list[Figure]:
    """The figures of a record, ours and those that were measured, made once."""
    return KINDS[kind](FACTS[kind][place])


@pytest.mark.parametrize(("kind", "place"), RECORDS)
def test_what_others_measured_is_met(kind, place):
    """A trace that misses storages, another kernel, or other segments: each shows in figures from a real card."""
    figures = figures_of(kind, place)
    assert figures
    for figure in figures:
        assert figure.ours == pytest.approx(figure.measured, rel=0.01), figure.what


def test_the_figures_of_a_real_t4_are_met_to_a_fifth_of_a_percent():
    """64 peaks in float16, eager and fused: the card and the dtype that predictions are used for most."""
    on_t4 = [place for place, record in enumerate(FACTS["peaks"]) if record["card"]["name"] == "Tesla T4"]
    figures = [figure for place in on_t4 for figure in figures_of("peaks", place)]
    assert len(figures) == 64
    assert all(0.998 <= figure.ratio <= 1.002 for figure in figures)
    assert sum(abs(figure.ratio - 1) < 0.00005 for figure in figures) >= 20


@pytest.mark.parametrize("place", [3, 5, 7])
def test_two_layers_of_a_record_have_the_peak_of_all(place):
    """Records are met on two layers, where no cache is kept: the other layers must not matter."""
    record = FACTS["peaks"][place]
    rows, length, _ = record["measured"][0]
    options = {**record["run"], "keeps_cache": False}
    run = Pass(rows=rows, length=length, **options)
    short, whole = (
        PublicNetwork(
            record["network"], card_of(record), dtype=record["dtype"], attention=record["attention"], whole=whole
        )
        for whole in (False, True)
    )
    assert short.peak_bytes(short.trace(run), 1) == whole.peak_bytes(whole.trace(run), 1)


def test_a_simulated_device_sees_the_copies_inside_a_product_too():
    """In inference mode `matmul` arrives whole: eager attention needed less on a simulated device than on a card."""
    simulated.configure([bare_card(2**30)])
    device = simulated.ledger(0)
    heads = torch.zeros(2, 64, 4, 32).to("sim:0").transpose(1, 2)  # (texts, heads, tokens, head_dim), permuted
    device.reset_peak()
    before = device.allocated_bytes
    with torch.inference_mode():
        scores = torch.matmul(heads, heads.transpose(2, 3))
    copies = 2 * heads.nelement() * 4
    assert device.memory().peak_bytes - before == copies + scores.nelement() * 4


def test_every_record_says_where_it_is_published():
    """A figure without a source is a rumour."""
    for kind in KINDS:
        for record in FACTS[kind]:
            assert record["source"].startswith("https://")
            assert {"network", "software", "card"} <= set(record)


def test_the_page_has_a_row_for_every_record():
    """A table that is written once and forgotten shows other records than the test."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    table = page.split("<!-- public -->")[1].split("<!-- public end -->")[0]
    listed = re.findall(r"^\| \[([^]]+)\]\(([^)]+)\)", table, flags=re.MULTILINE)
    assert listed == [(record["network"], record["source"]) for kind in KINDS for record in FACTS[kind]]
