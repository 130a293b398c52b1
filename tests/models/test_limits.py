"""Where a network's places end, and what a model reads: what sentence-transformers reads, as far as the network can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.tiny_models import SENTENCES, make_bert, make_gpt2, make_qwen2, make_t5, make_xlnet
from transformers import AutoConfig, AutoModel

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.errors import ConfigError, ModelLoadError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.limits import OwnLimits, own_limits, token_limit, usable_positions
from soloist.models.loading import StagedModel, stage
from soloist.models.settings import read_settings
from soloist.models.spec import ModelSpec

SIZES = {
    "vocab_size": 64, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 16, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "embedding_size": 32,
}  # fmt: skip
KINDS = (
    "albert", "bert", "biogpt", "deberta-v2", "distilbert", "electra", "esm", "eurobert", "gemma3_text", "gpt2",
    "gpt_neox", "gte", "jina_embeddings_v3", "llama", "modernbert", "mpnet", "nomic_bert", "opt", "qwen2", "qwen3",
    "roberta", "xlm-roberta",
)  # fmt: skip


def network(kind: str, **fields: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoModel.from_config(AutoConfig.for_model(kind, **{**SIZES, **fields})).eval()


def reads(net: torch.nn.Module, tokens: int) -> bool:
    """Whether a text of so many tokens goes through a network."""
    ids = torch.full((1, tokens), 7)
    try:
        with torch.inference_mode():
            return bool(torch.isfinite(net(input_ids=ids, attention_mask=torch.ones_like(ids))[0]).all())
    except (IndexError, RuntimeError):
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_networks_places_is_where_it_fails(kind: str) -> None:
    """Too early an end cuts texts that sentence-transformers reads; too late a one ends the run in an IndexError."""
    net = network(kind)
    end = usable_positions(net.config.to_dict())
    if end is None:
        assert reads(net, 40)
    else:
        assert reads(net, end)
        assert not reads(net, end + 1)


def test_deberta_with_relative_places_alone_has_no_end() -> None:
    """The newer DeBERTas have no table of positions, and their catalogue's limit would be refused."""
    net = network("deberta-v2", position_biased_input=False, relative_attention=True, pos_att_type=["p2c"])
    assert usable_positions(net.config.to_dict()) is None
    assert reads(net, 40)


def own(**fields: int | None) -> OwnLimits:
    return OwnLimits(**fields)


@pytest.mark.parametrize(
    ("max_tokens", "limits", "end", "document", "query"),
    [
        (None, own(longest=256), 512, 256, 256),
        (None, own(longest=256, document=300, query=32), 512, 300, 32),
        (None, own(longest=9999), 512, 512, 512),
        (None, own(longest=32768), None, 32768, 32768),
        (None, own(), None, None, None),
        (None, own(), 512, 512, 512),
        (400, own(longest=256), 512, 400, 400),
        (40_000, own(longest=32768), None, 40_000, 40_000),
        (100, own(longest=256, document=50, query=32), 512, 100, 32),
        (20, own(longest=256, query=32), 512, 20, 20),
    ],
)
def test_the_order_of_limits(max_tokens, limits, end, document, query) -> None:
    """A catalogue's limit takes the place of the model's own, up to the end of the network's places."""
    spec = replace(resolve("org/none"), max_tokens=max_tokens)
    assert token_limit(spec, "document", limits, end) == document
    assert token_limit(spec, "query", limits, end) == query


def test_no_limit_beyond_the_places() -> None:
    """A text would end the run in an IndexError, hours later."""
    with pytest.raises(ConfigError, match="org/none has 512 positions, fewer than its max_tokens of 513"):
        token_limit(replace(resolve("org/none"), max_tokens=513), "document", own(), 512)


@pytest.mark.parametrize("huge", [int(1e30), 1e30, 10**9, float("inf"), None])
def test_a_number_that_no_text_reaches_is_no_limit(huge: object) -> None:
    """transformers writes 10^30 where a tokenizer has no limit, which no machine integer holds."""
    assert own_limits("m", huge, {"document_length": huge}) == OwnLimits()


@pytest.mark.parametrize("odd", [-1, 0, True, 2.5, "many"])
def test_what_is_no_number_of_tokens_is_refused(odd: object) -> None:
    """A traceback of the tokenizer would name neither the setting nor the model."""
    with pytest.raises(
        ModelLoadError, match=r"m sets document_length to .*, which is not a number of tokens: correct it"
    ):
        own_limits("m", None, {"document_length": odd})


def edit(path: Path, **changes: object) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def unit_vectors(staged: StagedModel, texts: list[str], *, packs: bool) -> np.ndarray:
    encoder = Encoder(staged, packs=packs)
    tokenized = encoder.tokenize(texts)
    found = np.zeros((len(texts), staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: 3):
        found[list(batch.rows)] = forward(staged.module, encoder.collate(tokenized, batch), "cpu")[: len(batch.rows)]
    return unit_rows(found)[0]


def assert_like_the_library(spec: ModelSpec, texts: list[str]) -> StagedModel:
    """Both ways of putting rows together give what encode_document gives to each text alone."""
    staged = stage(spec, "float32")
    model = SentenceTransformer(spec.source, device="cpu", local_files_only=True)
    expected = unit_rows(model.encode_document(texts, batch_size=1))[0]
    for packs in (False, True):
        np.testing.assert_allclose(unit_vectors(staged, texts, packs=packs), expected, atol=1e-5)
    settings = read_settings(spec, blueprint_of(spec))
    assert (settings.max_tokens, settings.dim) == (staged.max_tokens, staged.dim)
    return staged


LONG = [" ".join(SENTENCES) * 2, *SENTENCES[:2]]


@pytest.mark.parametrize("make", [make_t5, make_xlnet])
def test_models_without_places_or_limits_read_everything(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """10^30 as a limit ended the run in an OverflowError."""
    folder = make(tmp_path / "model")
    edit(folder / "tokenizer_config.json", model_max_length=int(1e30))
    staged = assert_like_the_library(resolve(str(folder)), LONG)
    assert (staged.max_tokens, staged.query_max_tokens, staged.counts_positions) == (None, None, False)


def test_a_rotary_model_reads_what_its_files_say(tmp_path: Path) -> None:
    """`max_position_embeddings` is no end of such a network: its own longer limit was refused, and cut in silence."""
    folder = make_qwen2(tmp_path / "qwen2", max_position_embeddings=64)
    assert assert_like_the_library(resolve(str(folder)), LONG).max_tokens == 64
    edit(folder / "sentence_bert_config.json", max_seq_length=300)
    assert assert_like_the_library(resolve(str(folder)), LONG).max_tokens == 300
    assert stage(replace(resolve(str(folder)), max_tokens=900), "float32").max_tokens == 900


def test_left_padding_before_a_table_of_places(tmp_path: Path) -> None:
    """A row's vector would follow from the length of its neighbours, by 2e-1 and more."""
    folder = make_gpt2(tmp_path / "gpt2")
    staged = assert_like_the_library(resolve(str(folder)), list(SENTENCES))
    assert [notice for notice in staged.notices if "pads on the left" in notice]


def test_two_sides_of_one_model(tmp_path: Path) -> None:
    """Questions were cut where documents are."""
    folder = Path(shutil.copytree(make_bert(tmp_path / "bert"), tmp_path / "sides"))
    edit(folder / "sentence_bert_config.json", document_length=20, query_length=6)
    staged = stage(resolve(str(folder)), "float32")
    assert (staged.max_tokens, staged.query_max_tokens, staged.for_queries().max_tokens) == (20, 6, 6)
