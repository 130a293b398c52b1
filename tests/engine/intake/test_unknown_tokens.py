"""Words that a tokenizer fails at, and tokens without a row in the network's table: found in each text, by plan too."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from transformers import AutoTokenizer

from soloist.config import RunConfig, SourceConfig
from soloist.encoding.encoder import Encoder
from soloist.engine import run
from soloist.errors import EncodingError, ModelLoadError, VectorlessTextsError
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.planning.estimate import estimate_run
from soloist.retrieval.opened import open_run
from soloist.stores import RunFolder

TEXTS = ("river stone", "stone zzqq bridge", "river moon", "bridge", "stone")
FAILS = "WordLevel error: Missing [UNK] token from the vocabulary"


def grown(bert: Path, folder: Path, **special: str) -> Path:
    """A model whose tokenizer has a token more than its network has rows, as after a training that did not resize."""
    shutil.copytree(bert, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_special_tokens(special) if special else tokenizer.add_tokens(["zzqq"])
    tokenizer.save_pretrained(folder)
    return folder


def closed(folder: Path) -> Path:
    """A static table whose tokenizer has no token for words that it does not know: it fails at `zzqq` and `moon`."""
    words = ("river", "stone", "bridge")
    tokenizer = Tokenizer(token_models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    module = StaticEmbedding(tokenizer, embedding_weights=np.eye(3, dtype=np.float32))
    SentenceTransformer(modules=[module], device="cpu").save(str(folder), create_model_card=False)
    return folder


def test_texts_with_unknown_tokens_are_found_before_a_lease(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Catches "unexpected Exception" and an index out of range in mid-run, which on CUDA ends the whole process."""
    models = (str(grown(tiny_models["bert"], tmp_path / "grown")), str(closed(tmp_path / "closed")))
    (tmp_path / "chunks" / "docs").mkdir(parents=True)
    lines = [json.dumps({"id": f"a{at}", "text": text}) for at, text in enumerate(TEXTS)]
    (tmp_path / "chunks" / "docs" / "a.jsonl").write_text("\n".join(lines))
    config = RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=models, accelerator="cpu",
        lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
    )  # fmt: skip
    said = {}
    for do in (run, estimate_run):
        with pytest.raises(VectorlessTextsError) as caught:
            do(config)
        said[do] = str(caught.value)
    assert said[run] == said[estimate_run]
    assert said[run].startswith("1 text has a token without a vector in grown, 2 texts have no tokens in closed; 'a1'")

    result = run(dataclasses.replace(config, source=SourceConfig(on_bad_input="skip")))
    assert list(RunFolder.open(tmp_path / "run").shards.read_ids("docs", 0)) == ["a0", "a3", "a4"]
    assert f"closed: its tokenizer fails at words that it does not know ({FAILS}), so a text with such" in "\n".join(
        result.notices
    )
    opened = open_run(tmp_path / "run")
    known = opened.encode("grown", ["moon"])  # of letters that the tokenizer knows
    assert known.shape == (1, 32)
    for model, question in (("grown", "zzqq"), ("closed", "moon")):
        with pytest.raises(EncodingError, match=f"{model} makes no vector of the query '{question}': use other words"):
            opened.encode(model, ["stone", question])


def test_a_padding_token_without_a_vector_is_named(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Catches "index out of range in self" for a token that somebody added to be able to pad."""
    folder = grown(tiny_models["bert"], tmp_path / "padded", pad_token="<mypad>")
    with pytest.raises(ModelLoadError, match=r"^padded pads with the token <mypad>, but its network has vectors for"):
        Encoder(stage(resolve(str(folder)), "float32"))
