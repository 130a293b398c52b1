"""How much of a network is traced: two layers where that shows the peak of all, and everything where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import tiny_models

from benchmarks.predicted_memory import ROOMY, Comparison, Shape
from soloist.memory import network
from soloist.memory.cards import CARDS
from soloist.memory.network import Network, network_to_trace
from soloist.memory.prediction import Predictor, tracer_of
from soloist.models.blueprint import read_blueprint
from soloist.models.catalogue import BUILT_IN


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    return tiny_models.make_deberta_v2(tmp_path_factory.mktemp("deberta") / "model")


@pytest.mark.parametrize("shape", [(2, 64), (8, 128), (4, 384)])
def test_a_network_that_keeps_every_layers_output_is_traced_whole(deberta, shape):
    """DeBERTa's outputs of all layers live until its pass is over: two layers promise memory that is not there."""
    blueprint, card = read_blueprint(deberta), CARDS["T4"]
    predictor = Predictor(tracer_of(blueprint, "float16", card), card)
    full = predictor.replayed(Network(blueprint, "float16").trace(*shape, card, masked=True))
    short = predictor.replayed(Network(blueprint, "float16", layers=2).trace(*shape, card, masked=True))
    assert predictor.predict(*shape).peak_bytes == pytest.approx(full.peak_bytes, rel=0.02)
    assert short.activations_bytes < full.activations_bytes


def test_predictions_for_it_are_those_of_simulated_devices(deberta):
    """The trace may be whole and the prediction wrong all the same."""
    comparison = Comparison(deberta, "float32")
    for shape in (Shape(rows=4, length=64, masked=True), Shape(rows=8, length=128, masked=False)):
        assert comparison.predicted(shape, ROOMY) == pytest.approx(comparison.simulated(shape, ROOMY), rel=0.02)


def test_growth_below_another_peak_is_found(deberta):
    """Wide embeddings may have the peak of two layers and of three, and not that of twenty-four."""
    blueprint, card = read_blueprint(deberta), CARDS["T4"]
    wide = replace(blueprint, config={**blueprint.config, "embedding_size": 8192})
    two, three = (Network(wide, "float32", layers=n).trace(2, 16, card, masked=True) for n in (2, 3))
    assert two.peak_bytes == three.peak_bytes
    assert network_to_trace(wide, "float32", card).layers == blueprint.config["num_hidden_layers"]


@pytest.mark.parametrize("name", ["bge-small-en-v1.5", "qwen3-embedding-0.6b", "embeddinggemma-300m"])
def test_usual_networks_are_traced_by_two_layers_and_probed_once(name, monkeypatch):
    """Traces of 28 layers for every length make `soloist plan` slow; so would a probe for every dtype and card."""
    monkeypatch.setattr(network, "_deepening", {})
    probes = []
    monkeypatch.setattr(network, "_deepens", lambda *given: probes.append(given) or _deepens(*given))
    blueprint = BUILT_IN.get(name).blueprint
    for dtype, card in (("float16", "T4"), ("float32", "T4"), ("float16", "L4")):
        assert network_to_trace(blueprint, dtype, CARDS[card]).layers == 2
    assert len(probes) == 1


_deepens = network._deepens
