"""Rows that are packed without padding give the vectors of padded rows, each on its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from soloist.encoding import packed_attention, packing
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.types import Batch

TEXTS = ["lease shard vector " * times for times in (9, 1, 4, 4, 60, 4, 1)] + ["x", "a text of its own"]
NEAR = {"float32": 1 - 1e-5, "bfloat16": 0.999}


@pytest.fixture(scope="module")
def all_tiny_models(tiny_models, tmp_path_factory):
    """Those of the session, and networks whose attention has a bias of positions."""
    from support.tiny_models import make_deberta_v2, make_mpnet, make_t5

    root = tmp_path_factory.mktemp("more_models")
    makers = {"mpnet": make_mpnet, "t5": make_t5, "deberta-v2": make_deberta_v2}
    return {**tiny_models, **{name: make(root / name) for name, make in makers.items()}}


def encoded(encoder, tokenized, budget):
    """Vectors by the encoder's own plan of so many tokens a batch."""
    vectors = np.zeros((len(tokenized.ids), encoder.staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: max(1, budget // length)):
        found = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")
        vectors[list(batch.rows)] = found[: len(batch.rows)]
    return unit_rows(vectors)[0]


@pytest.mark.parametrize("matmul", ["torch", "onednn+numpy"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model", "packs"),
    [("bert", True), ("xlm-roberta", True), ("qwen2", True), ("mpnet", False), ("t5", False), ("deberta-v2", False)],
)
def test_packed_rows_have_the_vectors_of_padded_ones(all_tiny_models, model, packs, dtype, matmul):
    """Rows would see their neighbours, count positions from the wrong place, or a bias of positions would be lost."""
    staged = stage(resolve(str(all_tiny_models[model])), dtype, matmul)
    padded = Encoder(staged)
    tokenized = padded.tokenize(TEXTS)
    expected = encoded(padded, tokenized, 256)
    packed = Encoder(staged, packs=True)
    assert packed.packs == packs
    found = encoded(packed, tokenized, 256)
    assert np.einsum("ij,ij->i", found, expected).min() >= NEAR[dtype]
    if packs:
        lengths = tokenized.lengths
        assert packed.computed_tokens(lengths, packed.plan(tokenized, lambda length: 4)) == sum(lengths)
        alone = [encoded(packed, packed.tokenize([text]), 256)[0] for text in TEXTS]
        assert np.array_equal(found, alone), "the vector of a row depends on those beside it"


def test_a_model_that_packs_still_takes_padded_rows(all_tiny_models):
    """sentence-transformers' own encode of the same module would break, or change."""
    staged = stage(resolve(str(all_tiny_models["bert"])), "float32")
    before = staged.module.encode(TEXTS)
    assert Encoder(staged, packs=True).packs
    assert np.array_equal(staged.module.encode(TEXTS), before)


def test_a_window_of_attention_is_not_packed(all_tiny_models, monkeypatch):
    """Its rows would see all tokens."""
    staged = stage(resolve(str(all_tiny_models["qwen2"])), "float32")
    monkeypatch.setattr(staged.module[0].model.layers[0].self_attn, "sliding_window", 4)
    assert not Encoder(staged, packs=True).packs


def test_attention_that_is_not_understood_is_refused():
    """A bias or a cap of another network would be left out without a word."""
    heads = torch.randn(1, 2, 6, 8)
    features = packing.flat_features([np.arange(4), np.arange(2)])
    with packing.apart(features), pytest.raises(packed_attention.UnpackableError, match="softcap"):
        packed_attention._attention(torch.nn.Module(), heads, heads, heads, None, softcap=30.0)


def test_too_few_tokens_for_the_kernel_are_made_more():
    """One chunk of a few tokens would have other bits alone than among others."""
    features = packing.flat_features([np.array([5, 6, 7, 8, 9, 10])], 1)
    assert features["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10] * 2 + [5, 6, 7, 8]]
    assert features["position_ids"].tolist() == [[2, 3, 4, 5, 6, 7] * 2 + [2, 3, 4, 5]]
    assert features["cu_seq_lens_q"].tolist() == [0, 6, 12, 16]


def test_tokens_are_filled_up_to_a_multiple():
    """oneDNN keeps what it compiles for each number of tokens: memory would grow with the run."""
    rows = [np.array([5, 6, 7]), np.array([8, 9])]
    features = packing.flat_features(rows, fewest=4, multiple=8)
    assert features["input_ids"].tolist() == [[5, 6, 7, 8, 9, 5, 6, 7]]
    assert features["cu_seq_lens_q"].tolist() == [0, 3, 5, 8]
    whole = packing.flat_features([*rows, np.array([5, 6, 7])], fewest=1, multiple=8)
    assert whole["cu_seq_lens_q"].tolist() == [0, 3, 5, 8]


def test_batches_are_of_neighbouring_lengths(all_tiny_models):
    """Rows of one length that are apart cost a call of attention each."""
    staged = stage(resolve(str(all_tiny_models["bert"])), "float32")
    encoder = Encoder(staged, packs=True)
    tokenized = encoder.tokenize(TEXTS)
    batches = encoder.plan(tokenized, lambda length: max(1, 60 // length))
    lengths = [tokenized.lengths[row] for batch in batches for row in batch.rows]
    assert lengths == sorted(tokenized.lengths, reverse=True)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(TEXTS)))
    assert all(sum(tokenized.lengths[row] for row in batch.rows) <= 60 or len(batch.rows) == 1 for batch in batches)
    assert isinstance(batches[0], Batch)


def test_a_padding_token_in_a_text_has_no_position(all_tiny_models):
    """The RoBERTa family passes over it when it counts, and texts about tokenizers have it."""
    staged = stage(resolve(str(all_tiny_models["xlm-roberta"])), "float32")
    texts = ["set pad_token to <pad> before the batch is made", "<pad> <pad> first", "none"]
    packed = Encoder(staged, packs=True)
    tokenized = packed.tokenize(texts)
    assert any(staged.module.tokenizer.pad_token_id in ids for ids in tokenized.ids), "the text has no padding token"
    expected = staged.module.encode(texts, normalize_embeddings=True)
    assert np.einsum("ij,ij->i", encoded(packed, tokenized, 256), expected).min() > 1 - 1e-5


def test_a_window_that_only_the_mask_knows_of_is_not_packed():
    """Networks with chunks of attention have no attribute that says so."""
    features = packing.flat_features([np.arange(4), np.arange(2)])
    with packing.apart(features), pytest.raises(packed_attention.UnpackableError, match="window"):
        packed_attention._mask(batch_size=1, q_length=6, kv_length=6, local_size=4)


def test_frequencies_of_the_longest_row_are_not_packed(all_tiny_models):
    """A row beside a longer one would be turned by other angles."""
    staged = stage(resolve(str(all_tiny_models["qwen2"])), "float32")
    rotary = next(part for part in staged.module[0].model.modules() if hasattr(part, "rope_type"))
    before, rotary.rope_type = rotary.rope_type, "longrope"
    try:
        assert not packed_attention.prepare(staged.module)
    finally:
        rotary.rope_type = before


def test_a_module_that_mixes_rows_is_not_packed(all_tiny_models):
    """In bfloat16 rows that leak into their neighbours are within what the format itself costs."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import CNN

    folder = SentenceTransformer(str(all_tiny_models["bert"]), device="cpu")
    torch.manual_seed(0)
    cnn = CNN(folder[0].get_embedding_dimension(), out_channels=16)
    mixed = SentenceTransformer(modules=[folder[0], cnn, type(folder[1])(cnn.get_embedding_dimension())], device="cpu")
    staged = dataclasses.replace(
        stage(resolve(str(all_tiny_models["bert"])), "bfloat16"), module=mixed.to(torch.bfloat16).eval(), dim=48
    )
    assert not Encoder(staged, packs=True).packs


@pytest.mark.parametrize("packs", [True, False])
def test_a_product_behind_the_pooling_is_as_well_of_a_row_alone(all_tiny_models, packs):
    """Of a few rows it goes through another kernel: an incremental run would differ from a fresh one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    base = SentenceTransformer(str(all_tiny_models["bert"]), device="cpu")
    torch.manual_seed(0)
    wide = Dense(base.get_embedding_dimension(), 96)
    module = SentenceTransformer(modules=[*base, wide], device="cpu").eval()
    staged = dataclasses.replace(stage(resolve(str(all_tiny_models["bert"])), "float32"), module=module, dim=96)
    encoder = Encoder(staged, packs=packs)
    assert encoder.packs == packs
    tokenized = encoder.tokenize(["one length of text"] * 16)
    rows = [
        forward(module, encoder.collate(tokenized, Batch(rows=tuple(range(count)), padded_length=12)), "cpu")[0]
        for count in (1, 2, 3, 4, 9, 16)
    ]
    assert all(np.array_equal(rows[0], row) for row in rows)


def test_a_row_without_tokens_is_in_no_packed_batch(all_tiny_models):
    """It would get the vector of the row beside it."""
    encoder = Encoder(stage(resolve(str(all_tiny_models["bert"])), "float32"), packs=True)
    ids = tuple(np.arange(length, dtype=np.int32) for length in (3, 0, 5, 0))
    tokenized = TokenizedTexts(ids=ids, dropped=(0,) * 4)
    batches = encoder.plan(tokenized, lambda length: 2)
    assert sorted(row for batch in batches for row in batch.rows) == [0, 2]


def test_encoders_that_share_a_module_do_not_undo_each_other(all_tiny_models):
    """The packed batches of one would go through attention that does not keep rows apart."""
    staged = stage(resolve(str(all_tiny_models["bert"])), "float32")
    first = Encoder(staged, packs=True)
    before = encoded(first, first.tokenize(TEXTS), 64)
    Encoder(staged, packs=False)
    Encoder(dataclasses.replace(staged, document_prompt="passage: "), packs=True)
    assert np.array_equal(encoded(first, first.tokenize(TEXTS), 64), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packing_is_tried_as_lanes_compute(dtype):
    """With two threads for a product its bits follow from its size, and a model that packs would be padded."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert Encoder(stage(resolve("all-MiniLM-L6-v2"), dtype), packs=True).packs
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
