"""Predictions against simulated devices, and those against the CPU's own allocator: within 2%, peaks with weights."""

from __future__ import annotations

import pytest

from benchmarks.predicted_memory import DTYPES, ROOMY, SHAPES, TABLE_CARDS, Comparison, makers
from soloist.errors import PredictionError
from soloist.memory.cards import CARDS
from soloist.memory.kernels import AttentionCall
from soloist.memory.network import Network
from soloist.memory.prediction import predict, tracer_of
from soloist.memory.tracing import trace_attention
from soloist.models.blueprint import read_blueprint
from soloist.models.catalogue import BUILT_IN

KINDS = ("bert", "xlm_roberta", "mpnet", "qwen2", "qwen3", "static")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each kind, small and with weights of some megabytes."""
    root = tmp_path_factory.mktemp("sized")
    return {kind: make(root / kind, 128) for kind, make in makers().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_peaks_are_those_of_simulated_devices(kind, folders):
    """A planner on wrong predictions splits batches, or leaves half of the device empty."""
    comparisons = {dtype: Comparison(folders[kind], dtype) for dtype in DTYPES}
    # Every other size, with and without padding, and the sizes between them by the next kind. Each shape in one dtype
    # and on one card, in turn: the benchmark has every cell.
    first = 2 * (KINDS.index(kind) % 2)
    shapes = [shape for at in range(first, len(SHAPES), 4) for shape in SHAPES[at : at + 2]]
    for place, shape in enumerate(shapes):
        dtype, card = DTYPES[place % 3], TABLE_CARDS[place // 3 % 3]
        predicted, simulated = (getattr(comparisons[dtype], name)(shape, card) for name in ("predicted", "simulated"))
        assert predicted == pytest.approx(simulated, rel=0.02), (shape, dtype, card.name)


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_peaks_are_those_of_the_cpus_allocator(kind, folders):
    """A simulation that misses temporaries promises memory that is not there."""
    for place, shape in enumerate(SHAPES[6::4]):
        comparison = Comparison(folders[kind], DTYPES[place % 2])
        recorded, simulated = comparison.recorded(shape), comparison.simulated(shape, ROOMY)
        assert simulated == pytest.approx(recorded, rel=0.02), (shape, DTYPES[place % 2])


@pytest.mark.parametrize(
    "name", ["bge-small-en-v1.5", "all-mpnet-base-v2", "qwen3-embedding-0.6b", "embeddinggemma-300m"]
)
@pytest.mark.parametrize("masked", [True, False])
def test_two_layers_have_the_peak_of_all(name, masked):
    """Activations that outlive their layer would grow with the depth, and two layers would not show it."""
    blueprint, card = BUILT_IN.get(name).blueprint, CARDS["T4"]
    short = Network(blueprint, "float16", layers=2).trace(4, 640 if "gemma" in name else 256, card, masked=masked)
    whole = Network(blueprint, "float16").trace(4, 640 if "gemma" in name else 256, card, masked=masked)
    assert short.peak_bytes == whole.peak_bytes


@pytest.mark.parametrize(
    ("name", "weights_mib", "activations_mib"),
    [("bge-m3", 1083.0, 90.06), ("jina-code-embeddings-1.5b", 2944.4, 260.3)],
)
def test_the_plans_two_models_on_a_t4(name, weights_mib, activations_mib):
    """The figures of an earlier prototype, which agreed with torch's own memory tracker: 90 and 260 MiB."""
    found = predict(BUILT_IN.get(name), "float16", rows=8, length=512, card=CARDS["T4"])
    assert found.weights_bytes / 2**20 == pytest.approx(weights_mib, rel=0.001)
    assert found.activations_bytes / 2**20 == pytest.approx(activations_mib, rel=0.01)
    assert found.reserved_bytes >= found.peak_bytes


def test_grouped_heads_without_a_mask_stay_off_the_math_kernel():
    """On a T4 the math kernel would take several times the memory of expanded heads."""
    jina, card = BUILT_IN.get("jina-code-embeddings-1.5b").blueprint, CARDS["T4"]
    padded, whole = tracer_of(jina, "float16", card).traces(4, 2048)
    assert whole.peak_bytes <= padded.peak_bytes
    import torch

    heads = {"query": 12, "key": 2, "value": 2}
    tensors = {name: torch.empty(4, count, 2048, 128, dtype=torch.float16) for name, count in heads.items()}
    math = trace_attention(card, AttentionCall(**tensors, is_causal=True, grouped=True))
    assert math.peak_bytes > 2 * whole.peak_bytes


def test_a_curve_is_never_below_what_is_traced(folders):
    """A line through two points that runs below the truth between them would plan batches that do not fit."""
    tracer = tracer_of(read_blueprint(folders["qwen2"]), "float16", CARDS["T4"])
    from soloist.memory.prediction import Predictor

    curve = Predictor(tracer, CARDS["T4"]).curve((64, 512))
    for length in (72, 96, 160, 240, 336, 448):
        rows, traces = tracer.reference(length)
        traced = max(trace.peak_bytes for trace in traces)
        assert curve.activations_bytes(rows, length) >= 0.99 * traced


def test_a_configuration_that_lacks_a_field_is_named(tmp_path, folders):
    """`KeyError: 'hidden_size'` tells nobody which file to mend."""
    import json
    import shutil

    folder = shutil.copytree(folders["bert"], tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        PredictionError, match=r"broken/config.json has no hidden_size, so the memory cannot be predicted: add it"
    ):
        Network(read_blueprint(folder), "float32")
