"""Every setting that sentence-transformers reads from a folder: followed to its own vectors, refused by name, or said.

The settings are listed by the installed library: one that is new fails `test_no_setting_is_left_out` until somebody
decides what becomes of it, and gives it a row.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import transformer as transformer_module
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    Normalize,
    Pooling,
    Transformer,
)
from support.tiny_models import SENTENCES, make_bert
from transformers import PreTrainedTokenizerBase

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.errors import ModelLoadError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.loading import StagedModel, stage
from soloist.models.own_settings import TRANSFORMER_FILES, TRANSFORMER_SETTINGS
from soloist.models.settings import read_settings

TEXTS = [*SENTENCES[:4], " ".join(SENTENCES[4:8]), "Short ONE"]
QUERIES = ["which of the rows is longer than the other?", "Grey WATER in the harbour"]
TRANSFORMER, PIPELINE, TOKENIZER, TOKENS = (
    "sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer_config.json", "tokenizer.json"
)  # fmt: skip
POOLING, DENSE, NORMALIZE = (f"{folder}/config.json" for folder in ("1_Pooling", "2_Dense", "2_Normalize"))
INS_AND_OUTS = ("module_input_name", "module_output_name")
PROMPTS = {"query": "a question: ", "document": "one text: "}
CASED = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
         "lowercase": False}  # fmt: skip
HIDDEN = {"text": {"method": "forward", "method_output_name": ["hidden_states", 1]}}
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting, what is written into which file for it, and what becomes of it."""

    setting: str
    files: Mapping[str, Any]
    base: str = "plain"
    refused: str | None = None
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        values = [str(value) for content in self.files.values() for value in content.values()]
        return f"{self.setting}-{'-'.join(values)}"[:70]


def of_transformer(setting: str, value: Any, *, files: Mapping[str, Any] | None = None, **more: Any) -> Row:
    name = setting.rpartition(".")[2]
    content = {"processing_kwargs": {"text": {name: value}}} if setting.startswith("text.") else {name: value}
    others = dict(files or {})
    return Row(setting=setting, files={**others, TRANSFORMER: {**content, **others.get(TRANSFORMER, {})}}, **more)


def of_text(name: str, value: Any, **more: Any) -> Row:
    return of_transformer(f"text.{name}", value, **more)


def of_pipeline(setting: str, value: Any, **more: Any) -> Row:
    return Row(setting=setting, files={PIPELINE: {setting: value}}, **more)


def of_pooling(**content: Any) -> Row:
    return Row(setting=next(iter(content)), files={POOLING: content, PIPELINE: {"prompts": PROMPTS}})


def of_dense(setting: str, **content: Any) -> Row:
    return Row(setting=setting, files={DENSE: content}, base="dense")


SHORT = {TRANSFORMER: {"max_seq_length": 12}}
LIMITS = [
    of_transformer("max_seq_length", 12),
    of_transformer("max_seq_length", 9999, notices=(r"ask for 9999 tokens .* has 512 positions: it reads 512",)),
    of_transformer("max_seq_length", "12", refused=r"sets max_seq_length to '12', which is not a number of tokens"),
    of_transformer("max_seq_length", 0, refused=r"sets max_seq_length to 0, which is not a number"),
    of_transformer("document_length", 10),
    of_transformer("query_length", 5),
    of_transformer("document_length", 30, files=SHORT),
    of_transformer("query_length", 5, files={TRANSFORMER: {"document_length": 9, "max_seq_length": 20}}),
    of_transformer("processor_kwargs", {"model_max_length": 9}),
    of_transformer("processor_kwargs", {"model_max_length": 9, "truncation_side": "left"}),
    of_transformer("tokenizer_args", {"model_max_length": 9}, files={TRANSFORMER: {"max_seq_length": 20}}),
    of_transformer("processing_kwargs", {"common": {"max_length": 8}}),
    of_transformer("processing_kwargs", {"text": {"max_length": 8}, "common": {"max_length": 10}}),
    of_transformer("processing_kwargs", {"text": {"max_length": 8}, "common": {"max_length": None}}),
    of_text("max_length", None, files={TRANSFORMER: {"document_length": 9, "query_length": 5}}),
    of_text("max_length", None, files={TRANSFORMER: {"document_length": 9, "max_seq_length": 12}}),
    of_text("max_length", 8, files={TRANSFORMER: {"max_seq_length": 0}}),
    of_text("max_length", 8, files={TRANSFORMER: {"document_length": 20}}),
    of_text("truncation", False, files=SHORT),
    of_text("truncation", "only_first", files=SHORT),
    of_text("truncation", "only_second", refused=r"calls its tokenizer with truncation \(processing_kwargs\)"),
    Row(setting="model_max_length", files={TOKENIZER: {"model_max_length": 11}}),
    Row(setting="model_max_length", files={TOKENIZER: {"model_max_length": int(1e30)}}),
    Row(setting="truncation_side", files={TOKENIZER: {"truncation_side": "left"}, **SHORT}),
    Row(setting="padding_side", files={TOKENIZER: {"padding_side": "left"}}, notices=(r"pads on the left",)),
]  # fmt: skip
CALLS = [
    *(of_text(name, value) for name, value in (
        ("padding", "max_length"), ("pad_to_multiple_of", 8), ("padding_side", "right"), ("stride", 2),
        ("verbose", False), ("return_token_type_ids", True), ("return_attention_mask", True),
    )),
    *(of_text(name, value, refused=rf"tokenizer with {name} \(processing_kwargs\), and soloist does not support that")
      for name, value in (
        ("add_special_tokens", False), ("is_split_into_words", True), ("return_attention_mask", False),
        ("return_overflowing_tokens", True), ("return_special_tokens_mask", True), ("return_offsets_mapping", True),
        ("return_length", True), ("return_tensors", "np"), ("tokenizer_kwargs", {"max_length": 5}), ("unheard_of", 1),
    )),
]  # fmt: skip
TRANSFORMERS = [
    of_transformer("transformer_task", "feature-extraction"),
    of_transformer("transformer_task", "fill-mask", refused="cannot be loaded"),
    of_transformer("modality_config", HIDDEN),
    of_transformer("modality_config", {"text": FORWARD, "message": FORWARD}, refused="every text into a chat template"),
    of_transformer("modality_config", {"image": FORWARD}, refused="reads image, not plain text"),
    of_transformer("module_output_name", "token_embeddings"),
    *(of_transformer("processing_kwargs", {part: {}}) for part in ("text", "common", "audio", "image", "video")),
    of_transformer("processing_kwargs", {"chat_template": {"add_generation_prompt": True}}),
    of_transformer("processing_kwargs", {"sound": {}}, notices=("Unknown keys in `processing_kwargs`",)),
    of_transformer("unpad_inputs", True, notices=("unpad_inputs=True was set",)),
    of_transformer("unpad_inputs", False),
    of_transformer("query_expansion", {"strategy": "fixed", "length": 32}, refused=r"adds tokens to its queries"),
    of_transformer("model_kwargs", {"attn_implementation": "eager"}),
    of_transformer("model_args", {"attn_implementation": "eager"}),
    of_transformer("config_kwargs", {"layer_norm_eps": 0.1}),
    of_transformer("config_args", {"layer_norm_eps": 0.1}),
    of_transformer("do_lower_case", True, files={TOKENS: {"normalizer": CASED}}),
    of_transformer("do_lower_case", False, files={TOKENS: {"normalizer": CASED}}),
    of_transformer("tokenizer_name_or_path", "elsewhere", refused="tokenizer is in another folder"),
]  # fmt: skip
PIPELINES = [
    of_pipeline("prompts", PROMPTS),
    of_pipeline("prompts", {"query": "q: "}, notices=(r"get the prompt 'q: ' and its documents get no prompt",)),
    of_pipeline("prompts", ["q: "], refused="prompts that are not an object of names and texts"),
    of_pipeline("default_prompt_name", "x", refused="has the default prompt 'x' but no prompt of that name"),
    Row(
        setting="default_prompt_name",
        files={PIPELINE: {"prompts": {"other": "o: "}, "default_prompt_name": "other"}},
        notices=("its default prompt 'other' is not used", "Default prompt name is set to 'other'"),
    ),
    of_pipeline("similarity_fn_name", "dot"),
    of_pipeline("truncate_dim", 16),
    of_pipeline("model_type", "SentenceTransformer"),
    of_pipeline("model_type", "SparseEncoder", refused="plain"),
    of_pipeline("requirements", {"sentence_transformers": ">=99"}, refused="cannot be loaded"),
    of_pipeline("__version__", {"sentence_transformers": "99.0"}, notices=("created with .* version 99.0",)),
]  # fmt: skip
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
POOLINGS = [
    *(of_pooling(pooling_mode=mode) for mode in (*MODES[:-1], ["mean", "cls"])),
    *(of_pooling(include_prompt=False, pooling_mode=mode) for mode in (*MODES, ["lasttoken", "max"])),
    of_pooling(embedding_dimension=None, word_embedding_dimension=32),
    of_pooling(pooling_mode=None, pooling_mode_cls_token=False, pooling_mode_max_tokens=True),
    of_pooling(include_prompt=True),
]
DENSES = [
    of_dense("in_features"),
    of_dense("out_features"),
    of_dense("bias", bias=True),
    of_dense("activation_function", activation_function="torch.nn.modules.activation.ReLU"),
    replace(
        of_dense("activation_function", activation_function="own.code.Act"),
        notices=("'own.code.Act' is not trusted, falling back to the default activation",),
    ),
    of_dense("use_residual", use_residual=True),
    of_dense("module_input_name", module_input_name="sentence_embedding"),
    of_dense("module_output_name", module_output_name="sentence_embedding"),
    replace(of_dense("unheard_of", unheard_of=1), notices=("Ignoring unrecognized Dense config",)),
    Row(setting="dropout", files={"3_Dropout/config.json": {"dropout": 0.9}}, base="dense"),
    Row(setting="normalize.module_input_name", files={NORMALIZE: dict.fromkeys(INS_AND_OUTS, "token_embeddings")}),
    Row(setting="normalize.module_output_name", files={NORMALIZE: dict.fromkeys(INS_AND_OUTS, "sentence_embedding")}),
]  # fmt: skip
ROWS = [*LIMITS, *CALLS, *TRANSFORMERS, *PIPELINES, *POOLINGS, *DENSES]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BERT that ends in Normalize, and one that ends in Dense and Dropout: the same network."""
    root = tmp_path_factory.mktemp("settings")
    plain = make_bert(root / "plain")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        modules = [Transformer(str(plain)), Pooling(32, "mean"), Dense(32, 32), Dropout(0.1)]
    SentenceTransformer(modules=modules, device="cpu").save(str(root / "dense"), create_model_card=False)
    return {"plain": plain, "dense": root / "dense"}


@pytest.fixture
def folder_of(bases: dict[str, Path], tmp_path: Path) -> Callable[[str, Mapping[str, Any]], Path]:
    """A copy of a base with other settings in its files; None takes one away."""

    def make(base: str, files: Mapping[str, Any]) -> Path:
        folder = Path(shutil.copytree(bases[base], tmp_path / "plain"))
        for name, changes in files.items():
            path = folder / name
            content = json.loads(path.read_text()) if path.exists() else {}
            if isinstance(content, dict):
                path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))
        return folder

    return make


def vectors(staged: StagedModel, texts: list[str], *, packs: bool) -> np.ndarray:
    """Unit vectors (texts, dim) as a run computes them."""
    encoder = Encoder(staged, packs=packs)
    tokenized = encoder.tokenize(texts)
    found = np.zeros((len(texts), staged.dim), dtype=np.float32)
    for batch in encoder.plan(tokenized, lambda length: 3):
        rows = forward(staged.module, encoder.collate(tokenized, batch), "cpu")
        found[list(batch.rows)] = rows[: len(batch.rows)]
    return unit_rows(found)[0]


def reference(folder: Path, texts: list[str], how: str) -> np.ndarray:
    """Unit vectors (texts, dim) by sentence-transformers itself, each text alone."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return unit_rows(getattr(model, how)(texts, batch_size=1).astype(np.float32))[0]


def assert_like_the_library(folder: Path, staged: StagedModel) -> None:
    """Documents, padded and packed, and queries are those of encode_document and encode_query."""
    documents, queries = (reference(folder, TEXTS, "encode_document"), reference(folder, QUERIES, "encode_query"))
    for packs, texts, expected, side in (
        (False, TEXTS, documents, staged),
        (True, TEXTS, documents, staged),
        (True, QUERIES, queries, staged.for_queries()),
    ):
        found = vectors(side, texts, packs=packs)
        assert np.einsum("ij,ij->i", found, expected).min() >= 0.99999
        assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_setting_is_followed_refused_or_said(row: Row, folder_of: Callable[..., Path]) -> None:
    """Vectors of a setting that was passed over look like any others."""
    folder = folder_of(row.base, row.files)
    spec = resolve(str(folder))
    if row.refused is not None:
        with pytest.raises(ModelLoadError, match=row.refused) as refused:
            stage(spec, "float32")
        assert "\n" not in str(refused.value)
        return
    staged = stage(spec, "float32")
    assert len(staged.notices) == len(row.notices), staged.notices
    for found, expected in zip(sorted(staged.notices), sorted(row.notices), strict=True):
        assert any(re.search(each, found) for each in row.notices), (found, expected)
    assert_like_the_library(folder, staged)
    assert_planned_alike(staged)


def assert_planned_alike(staged: StagedModel) -> None:
    """What a plan reads from the files is what the load gives."""
    settings = read_settings(staged.spec, blueprint_of(staged.spec))
    assert (settings.max_tokens, settings.document_prompt, settings.dim, settings.similarity) == (
        staged.max_tokens, staged.document_prompt, staged.dim, staged.similarity,
    )  # fmt: skip
    assert known_fingerprint(staged.spec, settings, "float32") == staged.fingerprint


def test_settings_that_contradict_each_other_are_refused_in_one_sentence(folder_of: Callable[..., Path]) -> None:
    """Such a model loads, and fails at its first text: that was an unexpected ValueError."""
    contradiction = {"max_seq_length": 12, "processing_kwargs": {"text": {"pad_to_multiple_of": 8}}}
    staged = stage(resolve(str(folder_of("plain", {TRANSFORMER: contradiction}))), "float32")
    with pytest.raises(ModelLoadError) as refused:
        Encoder(staged)
    assert str(refused.value).startswith(f"{staged.spec.name} cannot tokenize a plain text (ValueError: Truncation")
    assert str(refused.value).endswith("correct its settings in sentence_bert_config.json or tokenizer_config.json")


def test_no_setting_is_left_out() -> None:
    """A setting that a new version of the library reads would be passed over until somebody's vectors are wrong."""
    transformer = set(Transformer.config_keys) | set(inspect.signature(Transformer.__init__).parameters)
    transformer |= set(re.findall(r'"(\w+_args)":', inspect.getsource(Transformer._load_init_kwargs)))
    earlier = {"cache_dir"}  # which Transformer.__init__ still takes, by its decorator
    assert transformer - {"self", "model_name_or_path"} | earlier == TRANSFORMER_SETTINGS
    calls = set(inspect.signature(PreTrainedTokenizerBase.__call__).parameters)
    calls -= {"self", "text", "text_pair", "text_target", "text_pair_target", "kwargs"}
    read = "".join(
        inspect.getsource(each)
        for each in (
            BaseModel._parse_model_config, SentenceTransformer._parse_model_config, BaseModel._load_config_modules,
            BaseModel._get_model_type,
        )
    )  # fmt: skip
    pipeline = set(itertools.chain(*re.findall(r'config\.get\("(\w+)"|"(\w+)" in model_config', read))) - {""}
    modules = {*Pooling.config_keys, *Dense.config_keys, *Dropout.config_keys}
    modules |= {f"normalize.{key}" for key in Normalize.config_keys}
    known = {row.setting for row in ROWS}
    # Not from a file, or overridden by what soloist gives.
    transformer -= {"self", "model_name_or_path", "backend"}
    wanted = transformer | {f"text.{key}" for key in calls} | (pipeline - {"kwargs", "sentence_transformers"}) | modules
    assert sorted(wanted - known) == []


def test_no_file_of_settings_is_left_out() -> None:
    """Older folders name their settings after the network: a limit in one of them would be passed over."""
    names = re.findall(
        r'"(sentence_[\w-]+_config\.json)"', inspect.getsource(transformer_module.Transformer.load_config)
    )
    assert tuple(names) == TRANSFORMER_FILES


@pytest.mark.parametrize("name", TRANSFORMER_FILES[1:])
def test_the_settings_of_older_folders(name: str, folder_of: Callable[..., Path]) -> None:
    """The plan would be of another limit than the run's."""
    folder = folder_of("plain", {})
    (folder / TRANSFORMER).unlink()
    (folder / name).write_text(json.dumps({"max_seq_length": 12}))
    staged = stage(resolve(str(folder)), "float32")
    assert staged.max_tokens == 12
    assert_planned_alike(staged)
