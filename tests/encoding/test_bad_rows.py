"""Rows whose vectors are zero or not finite: told at once, computed together in float32, and too many end the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.overflowing import WORD, make_overflowing

from soloist.devices.accelerator import SimulatedAccelerator
from soloist.encoding.bad_rows import FEW, BadRows
from soloist.encoding.batching import within
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import unit_rows
from soloist.encoding.replicas import EncodedShard, Replicas
from soloist.errors import UnfitDTypeError
from soloist.events import BadRowsFound, ListSink
from soloist.memory.cards import CARDS, Card, bare_card
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage

Pass = tuple[str, torch.dtype, int]


@pytest.fixture(scope="module")
def folder(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that overflows float16 at one word."""
    return make_overflowing(tmp_path_factory.mktemp("bad-rows") / "model", tiny_models["bert"])


def texts(good: int, bad: int) -> list[str]:
    """Texts of which some overflow."""
    return ["grey water and boats"] * good + [f"the {WORD} in the morning"] * bad


def encode(folder: Path, card: Card, texts: list[str]) -> tuple[EncodedShard, list[Pass], ListSink]:
    """The vectors on one device in float16; the device, dtype and rows of every forward pass; the events."""
    staged, passes, sink = stage(resolve(str(folder)), "float16"), [], ListSink()

    def look(part: torch.nn.Module, inputs: tuple[dict[str, torch.Tensor]]) -> None:
        dtype = next(part.parameters()).dtype
        passes.append((str(inputs[0]["input_ids"].device), dtype, len(inputs[0]["input_ids"])))

    encoder, accelerator = Encoder(staged), SimulatedAccelerator([card])
    tokenized = encoder.tokenize(texts)
    hook = staged.module[0].register_forward_pre_hook(look)  # replicas have it too
    try:
        with Replicas(staged, encoder, accelerator, sink) as replicas:
            ids = [f"chunk-{row}" for row in range(len(texts))]
            encoded = replicas.encode(ids, tokenized, encoder.plan(tokenized, within(64)))
    finally:
        hook.remove()
    return encoded, passes, sink


def expected(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors by the weights in float16, in products of float32."""
    module = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float16}).float()
    return unit_rows(module.encode(texts))[0]


def test_a_few_bad_rows_are_computed_together_on_the_device(folder: Path) -> None:
    """A pass of its own for each row, on the CPU, takes hours where many rows overflow."""
    given = texts(40, 12)
    encoded, passes, sink = encode(folder, CARDS["T4"], given)
    assert [done for done in passes if done[1] is torch.float32] == [("sim:0", torch.float32, 12)]
    assert encoded.recomputed_rows == tuple(range(40, 52))
    np.testing.assert_allclose(encoded.rows()[40:], expected(folder, given[40:]), atol=1e-5)
    found = [event for event in sink.events if isinstance(event, BadRowsFound)]
    assert len(found) > 1, "the events wait for the end of the shard"
    assert sorted(id for event in found for id in event.ids) == [f"chunk-{row}" for row in range(40, 52)]
    assert {(event.model, event.device, event.dtype) for event in found} == {("model", "sim:0", "float16")}


def test_without_room_for_float32_they_are_computed_together_on_the_host(folder: Path) -> None:
    """A second copy of the weights would not fit, and an error would end the run."""
    staged = stage(resolve(str(folder)), "float16")
    given = texts(4, 12)
    encoded, passes, _ = encode(folder, bare_card(int(2.9 * staged.weights_bytes)), given)
    assert [done for done in passes if done[1] is torch.float32] == [("cpu", torch.float32, 12)]
    np.testing.assert_allclose(encoded.rows()[4:], expected(folder, given[4:]), atol=1e-5)


def test_memory_that_runs_out_in_spite_of_the_prediction_leaves_the_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the device would end the run."""
    monkeypatch.setattr("soloist.encoding.recomputing.RESERVE_SHARE", -9.0)  # as where a prediction is far too low
    staged = stage(resolve(str(folder)), "float16")
    encoded, passes, _ = encode(folder, bare_card(int(2.9 * staged.weights_bytes)), texts(4, 12))
    assert ("cpu", torch.float32, 12) in passes
    assert np.isfinite(encoded.rows()).all()


@pytest.mark.parametrize(("card", "dtype"), [("T4", "float32"), ("A100-80GB", "bfloat16")])
def test_many_bad_rows_end_the_run(folder: Path, card: str, dtype: str) -> None:
    """Everything would be computed twice, without a word before the end of a shard."""
    with pytest.raises(UnfitDTypeError) as caught:
        encode(folder, CARDS[card], texts(40, 30))
    said = str(caught.value)
    assert said.startswith("model gives vectors with NaN, infinity or only zeros in float16 on sim:0, for ")
    assert said.endswith(f"too many chunks to compute again in float32: run again with --dtype {dtype}")


@pytest.fixture
def bad_rows(folder: Path) -> Callable[[int, int], None]:
    """Counts shards of so many rows, some of which are bad."""
    counted = BadRows(stage(resolve(str(folder)), "float16"), None, ListSink())

    def count(rows: int, bad: int) -> None:
        counted.begin_shard(rows)
        vectors = np.ones((rows, 2), np.float32)
        vectors[:bad] = np.nan
        for start in range(0, rows, 10):
            counted.look(
                "sim:0", [str(row) for row in range(start, min(rows, start + 10))], vectors[start : start + 10]
            )

    return count


def test_few_rows_are_always_computed_again(bad_rows: Callable[[int, int], None]) -> None:
    """One bad row of twenty would end a run, though it costs nothing."""
    for _ in range(3):
        bad_rows(4_096, 40)
    bad_rows(20, 18)
    with pytest.raises(UnfitDTypeError, match=r"for 179 of 12,358 chunks so far"):
        bad_rows(4_096, 41)


def test_many_small_shards_are_one_pass(bad_rows: Callable[[int, int], None]) -> None:
    """Each collection of a run may be small: all of their rows would be computed twice."""
    bad_rows(FEW, FEW)
    with pytest.raises(UnfitDTypeError):
        bad_rows(FEW, FEW)


def test_in_a_run_of_several_models_the_way_on_is_this_models_own_dtype(folder: Path) -> None:
    """`--dtype` is for all models: those that are finished would be computed again."""
    counted = BadRows(stage(resolve(str(folder)), "float16"), (7, 5), ListSink(), "auto")
    counted.begin_shard(100)
    with pytest.raises(
        UnfitDTypeError,
        match=r'in float32: set dtype = "float32" under \[models."model"\] in a catalogue and run again with '
        r"--catalogue, or run again with --dtype float32, which computes the other models again too$",
    ):
        counted.look("sim:0", [str(row) for row in range(100)], np.zeros((100, 2), np.float32))


def test_without_another_dtype_the_way_on_is_another_one(tiny_models: dict[str, Path]) -> None:
    """`--dtype float32` is no advice to a model that computes in float32."""
    staged: StagedModel = stage(resolve(str(tiny_models["bert"])), "float32")
    counted = BadRows(staged, (7, 5), ListSink())
    counted.begin_shard(100)
    with pytest.raises(
        UnfitDTypeError, match=r"again in float32: leave the model out, or compute with --accelerator cpu"
    ):
        counted.look("sim:0", [str(row) for row in range(100)], np.zeros((100, 2), np.float32))
