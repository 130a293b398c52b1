"""`auto-fast`: bfloat16 on a CPU that multiplies it, and what that costs is measured and said."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from soloist.events import ListSink, Notice


def has_bfloat16(monkeypatch, answer):
    """Have the processor be one that multiplies bfloat16, or not."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: answer)


def notices(sink):
    """What is said of formats, by model."""
    return {
        event.about: event.message
        for event in sink.events
        if isinstance(event, Notice) and "computes in" in event.message
    }


def test_the_deviation_that_is_told_is_that_of_the_vectors(embed, all_vectors, monkeypatch):
    """Vectors of another format would come without a word, or with a figure that is not theirs."""
    has_bfloat16(monkeypatch, True)
    sink = ListSink()
    result, fast = embed(sink, accelerator="cpu", dtype="auto-fast")
    _, exact = embed(accelerator="cpu", dtype="float32")
    assert {model.dtype for model in result.models} == {"bfloat16"}
    said = notices(sink)
    assert said.keys() == {"qwen2", "xlm-roberta"}
    for model, message in said.items():
        lowest, mean = map(float, re.search(r"to float32 is ([\d.]+) at least, ([\d.]+) on average", message).groups())
        cosines = np.concatenate(
            [
                np.einsum("ij,ij->i", all_vectors(fast, name, model)[1], all_vectors(exact, name, model)[1])
                for name in ("alpha", "beta")
            ]
        )
        assert cosines.min() - 1e-5 <= lowest <= mean < 1.00001
        assert mean == pytest.approx(cosines.mean(), abs=3e-3)
        assert lowest < 0.999999, "nothing was measured"
    again = ListSink()
    embed(again, accelerator="cpu", dtype="float32")
    assert not notices(again)


def test_a_processor_without_bfloat16_stays_in_float32(embed, monkeypatch):
    """Emulated products are slower than float32's."""
    has_bfloat16(monkeypatch, False)
    sink = ListSink()
    result, _ = embed(sink, accelerator="cpu", dtype="auto-fast")
    assert {model.dtype for model in result.models} == {"float32"}
    assert not notices(sink)
