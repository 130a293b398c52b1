"""Random model folders: their vectors are those of sentence-transformers, or a notice or a refusal says otherwise.

SOLOIST_FUZZ_FOLDERS is the number of folders. Their networks are three small ones; all else about them is drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from support.tiny_models import SENTENCES

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.errors import ModelLoadError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.models.settings import read_settings

FOLDERS = int(os.environ.get("SOLOIST_FUZZ_FOLDERS", "8"))
TEXTS = [*SENTENCES[:3], " ".join(SENTENCES[3:8]), "Short ONE"]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
lengths = st.none() | st.integers(12, 600)
SIDES = st.sampled_from(["left", "right"])
prompts = st.sampled_from([None, "", "one text: ", "Represent this: "])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these fields, each or not."""
    return st.fixed_dictionaries({}, optional=fields)


FOLDER = st.fixed_dictionaries({
    "sentence_bert_config.json": some(
        max_seq_length=lengths, document_length=lengths, query_length=lengths, do_lower_case=st.booleans(),
        unpad_inputs=st.sampled_from([None, True, False]),
        processing_kwargs=some(
            text=some(max_length=lengths, truncation=st.sampled_from([True, False, "only_first"]),
                      add_special_tokens=st.booleans(), pad_to_multiple_of=st.just(8)),
            common=some(max_length=lengths),
        ),
        processor_kwargs=some(model_max_length=st.integers(12, 600), truncation_side=SIDES),
        model_kwargs=some(attn_implementation=st.sampled_from(["eager", "sdpa"])),
    ),
    "config_sentence_transformers.json": some(
        prompts=some(query=prompts, document=prompts, passage=prompts, corpus=prompts),
        similarity_fn_name=st.sampled_from(["cosine", "dot", "euclidean"]), truncate_dim=st.integers(2, 40),
    ),
    "tokenizer_config.json": some(
        padding_side=SIDES, truncation_side=SIDES,
        model_max_length=st.sampled_from([20, 512, int(1e30)]),
    ),
    "1_Pooling/config.json": some(
        pooling_mode=st.sampled_from(MODES) | st.lists(st.sampled_from(MODES), min_size=2, max_size=2, unique=True),
        include_prompt=st.booleans(),
    ),
})  # fmt: skip


def write(base: Path, folder: Path, files: dict[str, dict[str, Any]], ending: str) -> None:
    """A copy of a base with these fields, and with another ending than Normalize where that is asked for."""
    shutil.copytree(base, folder)
    for name, changes in files.items():
        content = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    modules = json.loads((folder / "modules.json").read_text())[: 3 if ending == "normalize" else 2]
    if ending == "dense":
        width = pooling["embedding_dimension"] * (len(m) if isinstance(m := pooling["pooling_mode"], list) else 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            dense = Dense(width, 24)
        (folder / "2_Dense").mkdir()
        dense.save(str(folder / "2_Dense"))
        kind = "sentence_transformers.base.modules.dense.Dense"
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))


def ours(staged: StagedModel, *, packs: bool) -> np.ndarray:
    encoder = Encoder(staged, packs=packs)
    tokenized = encoder.tokenize(TEXTS)
    found = np.zeros((len(TEXTS), staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: 3):
        found[list(batch.rows)] = forward(staged.module, encoder.collate(tokenized, batch), "cpu")[: len(batch.rows)]
    return found


def require_alike(encode: Callable[..., np.ndarray], staged: StagedModel, *, packs: bool) -> None:
    """Hold our vectors against the library's; where it takes no text at all, we may refuse the model by name."""
    try:
        expected = unit(encode(TEXTS, batch_size=1))
    except ValueError:  # settings that contradict each other: the library finds that only now
        with contextlib.suppress(ModelLoadError):
            ours(staged, packs=packs)
        return
    np.testing.assert_allclose(unit(ours(staged, packs=packs)), expected, atol=1e-5)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros where a row has none or is not finite."""
    lengths_ = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(lengths_) & (lengths_ > 1e-6)
    return np.where(usable, vectors / np.where(usable, lengths_, 1), 0)


@settings(
    max_examples=FOLDERS, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    base=st.sampled_from(["bert", "qwen2", "xlm-roberta"]),
    files=FOLDER,
    ending=st.sampled_from(["normalize", "plain", "dense"]),
)
def test_no_vector_differs_without_a_word(
    tiny_models: dict[str, Path], base: str, files: dict[str, dict[str, Any]], ending: str
) -> None:
    """Wrong vectors with exit 0: nobody finds them but by a search that is worse than it should be."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        write(tiny_models[base], folder, files, ending)
        spec = resolve(str(folder))
        try:
            staged = stage(spec, "float32")
            for side in (staged, staged.for_queries()):
                Encoder(side)  # which a run makes before it embeds anything
        except ModelLoadError as refused:
            assert "\n" not in str(refused)
            return
        planned = read_settings(spec, blueprint_of(spec))
        assert (planned.max_tokens, planned.document_prompt, planned.dim, planned.similarity) == (
            staged.max_tokens, staged.document_prompt, staged.dim, staged.similarity,
        )  # fmt: skip
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        if not any("documents get its prompt" in notice for notice in staged.notices):
            for packs in (False, True):
                require_alike(model.encode_document, staged, packs=packs)
        require_alike(model.encode_query, staged.for_queries(), packs=True)
