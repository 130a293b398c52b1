"""One text has one vector, whatever the mode, the devices and the shards; and it is sentence-transformers' own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.static_models import as_sentence_transformer

from soloist.devices.accelerator import CpuAccelerator
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.user_catalogue import load_catalogue

MODELS = ("qwen2", "xlm-roberta")
PACKAGED = ("all-MiniLM-L6-v2", "wordllama")


def vectors_of(folder, all_vectors, models=MODELS):
    """Every vector of a run, keyed by collection and model."""
    return {(c, m): all_vectors(folder, c, m)[1] for c in ("alpha", "beta") for m in models}


def assert_identical(left, right):
    """Equal to the bit."""
    assert left.keys() == right.keys()
    for key, vectors in left.items():
        assert np.array_equal(vectors, right[key]), key


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_exclusive_and_standard_give_the_same_bits(embed, all_vectors, dtype):
    """Batches that depend on the mode would move vectors by up to 2e-3 in bf16."""
    _, exclusive = embed(mode="exclusive", dtype=dtype)
    _, standard = embed(mode="standard", dtype=dtype)
    assert_identical(vectors_of(exclusive, all_vectors), vectors_of(standard, all_vectors))
    for collection in ("alpha", "beta"):
        for shard in exclusive.shards.indices(collection):
            assert np.array_equal(
                exclusive.shards.read_fused(collection, shard)[1], standard.shards.read_fused(collection, shard)[1]
            )


def test_one_two_and_three_devices_give_the_same_bits(embed, all_vectors):
    """A row that lands on another device must not have another vector."""
    runs = [embed(accelerator=f"simulated:{count}x1GB")[1] for count in (1, 2, 3)]
    first = vectors_of(runs[0], all_vectors)
    for other in runs[1:]:
        assert_identical(first, vectors_of(other, all_vectors))


def test_the_simulation_gives_the_bits_of_the_cpu(embed, all_vectors, monkeypatch):
    """A rehearsal that computes something else rehearses nothing."""
    _, packed = embed(accelerator="cpu", token_budget=4096)
    monkeypatch.setattr(CpuAccelerator, "packs_rows", False)  # batches as on a device
    _, cpu = embed(accelerator="cpu", token_budget=4096, matmul="torch")  # and products
    _, simulated = embed(accelerator="simulated:2x1GB", token_budget=4096)
    padded = vectors_of(simulated, all_vectors)
    assert_identical(vectors_of(cpu, all_vectors), padded)
    for key, vectors in vectors_of(packed, all_vectors).items():
        assert not np.array_equal(vectors, padded[key]), "the CPU did not pack"
        np.testing.assert_allclose(vectors, padded[key], atol=1e-5)


def test_lanes_do_not_move_a_vector(embed, all_vectors):
    """A batch that is computed beside another would change it, or the number of threads stay changed."""
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            runs.append(embed(accelerator="cpu", token_budget=256, shard_chunks=50)[1])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_identical(*(vectors_of(each, all_vectors) for each in runs))


def test_shards_and_budgets_do_not_move_a_vector_on_the_cpu(embed, all_vectors):
    """Padding that depends on a row's neighbours would."""
    _, one = embed(accelerator="cpu", shard_chunks=32, token_budget=512)
    _, other = embed(accelerator="cpu", shard_chunks=1000, token_budget=8192)
    assert_identical(vectors_of(one, all_vectors), vectors_of(other, all_vectors))


def test_a_batch_that_is_split_gives_the_same_bits(embed, all_vectors, long_texts, crowded):
    """Halves that are padded anew would give other vectors than the whole."""
    _, roomy = embed(models=("xlm-roberta",))
    result, tight = embed(models=("xlm-roberta",), accelerator="simulated:2x4MB")
    assert result.models[0].batch_sizes.splits > 0
    for collection in ("alpha", "beta"):
        expected = all_vectors(roomy, collection, "xlm-roberta")
        found = all_vectors(tight, collection, "xlm-roberta")
        assert expected[0] == found[0]
        assert np.array_equal(expected[1], found[1])


@pytest.mark.parametrize("name", ["qwen2", "xlm-roberta", "bert"])
def test_tiny_models_agree_with_sentence_transformers(embed, all_vectors, config, name):
    """The reference implementation is what users compare with."""
    _, folder = embed(models=(name,))
    staged = stage(resolve(name, load_catalogue(config.catalogue)), "float32")
    assert_agrees(folder, all_vectors, name, as_sentence_transformer(staged.module))


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("accelerator", ["cpu", "simulated:2x1GB"])
def test_packaged_models_agree_with_sentence_transformers(embed, all_vectors, name, accelerator):
    """Real weights, real tokenizers, texts beyond the model's limit among them."""
    _, folder = embed(models=(name,), accelerator=accelerator)
    staged = stage(resolve(name, load_catalogue(None)), "float32")
    assert_agrees(folder, all_vectors, name, as_sentence_transformer(staged.module))


def assert_agrees(folder, all_vectors, name, module):
    """Cosine of at least 0.99999 a row with the reference's own `encode_document`."""
    for collection in ("alpha", "beta"):
        texts = [
            text
            for shard in folder.shards.indices(collection)
            for text in folder.shards.read_shard(collection, shard).texts
        ]
        expected = module.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)
        found = all_vectors(folder, collection, name)[1]
        assert np.einsum("ij,ij->i", expected, found).min() >= 0.99999


# The first six components of unit vectors in float32: of sentence-transformers 6.2 on the CPU for all-MiniLM-L6-v2, of
# the package's own inference for wordllama.
GOLDEN_TEXTS = [
    "A lease gives one model every device.",
    "  def encode(texts):\n    return model(texts)\n",
    "Überraschung: 東京 🚲",
]
GOLDEN = {
    "all-MiniLM-L6-v2": [
        [0.012605, -0.048212, 0.005197, -0.061814, 0.009692, 0.049365],
        [-0.019399, -0.033814, -0.064131, 0.020013, -0.034460, 0.027055],
        [0.088949, 0.066909, 0.093569, -0.011038, -0.003889, -0.035121],
    ],
    "wordllama": [
        [0.033945, 0.123256, 0.080212, 0.094653, 0.018376, -0.017857],
        [0.014823, 0.105433, -0.149999, -0.025286, -0.035919, 0.026275],
        [-0.096638, -0.034077, -0.010734, -0.096876, -0.000688, 0.060380],
    ],
}


@pytest.mark.parametrize("accelerator", ["cpu", "simulated:2x1GB"])
def test_golden_vectors(embed, all_vectors, tmp_path, accelerator):
    """Reference and product run on the same library here; a change of that library must show as well."""
    folder = tmp_path / "golden" / "texts"
    folder.mkdir(parents=True)
    (folder / "texts_chunks.json").write_text(json.dumps(GOLDEN_TEXTS))
    _, run = embed(models=tuple(GOLDEN), chunks_root=folder.parent, accelerator=accelerator)
    for model, expected in GOLDEN.items():
        found = all_vectors(run, "texts", model)[1]
        assert np.allclose(found[:, :6], expected, atol=2e-6), model
