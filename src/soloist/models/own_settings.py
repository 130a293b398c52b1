"""The settings in a model's own files, and which of them soloist cannot follow. Pure: JSON in, no torch.

A setting that sentence-transformers reads is followed, or refused here by name, or it is a notice. Most are followed by
sentence-transformers' own code, which loads the modules. tests/models/test_every_setting.py has a row for every setting
that the installed library reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from soloist.errors import ModelLoadError
from soloist.models.limits import NO_LIMIT, OwnLimits, knows_truncation, own_limits, own_longest, tokenizer_settings
from soloist.models.spec import ModelSpec
from soloist.types import MemberKind, Similarity

# Where sentence-transformers looks for the settings of a transformer. The first file that is there counts.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PIPELINE_FILE = "config_sentence_transformers.json"
# Settings of such a file, by present and earlier names. sentence-transformers refuses a folder with another one.
TRANSFORMER_SETTINGS = frozenset({
    "backend", "cache_dir", "config_args", "config_kwargs", "do_lower_case", "document_length", "max_seq_length",
    "modality_config", "model_args", "model_kwargs", "module_output_name", "processing_kwargs", "processor_kwargs",
    "query_expansion", "query_length", "tokenizer_args", "tokenizer_name_or_path", "transformer_task", "unpad_inputs",
})  # fmt: skip
# How a tokenizer may be called (`processing_kwargs`): these cut texts, which is followed.
_CUTTING = frozenset({"max_length", "truncation"})
# These change no vector.
_HARMLESS = frozenset({
    "logits_to_keep", "pad_to_multiple_of", "padding", "padding_side", "return_token_type_ids", "stride", "verbose",
})  # fmt: skip
# These change no vector with this value alone.
_HARMLESS_AS: Mapping[str, object] = {
    "add_special_tokens": True,
    "is_split_into_words": False,
    "return_attention_mask": True,
    "return_overflowing_tokens": False,
    "return_tensors": "pt",
    "split_special_tokens": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerFiles:
    """The settings of one transformer, from the files of its pipeline, its tokenizer and its network."""

    settings: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    network: Mapping[str, Any]
    where: Path

    def limits(self, name: str) -> OwnLimits:
        """The limits that the files set.

        Raises:
            ModelLoadError: a limit is not a number of tokens.
        """
        stated = self.tokenizer.get("model_max_length")
        if stated is not None and not _is_limit(stated):
            raise ModelLoadError(
                f"{name} sets model_max_length to {stated!r}, which is not a number of tokens: correct it in "
                f"{self.where.with_name('tokenizer_config.json')}"
            )
        return own_limits(name, own_longest(self.settings, self.tokenizer, self.network), self.settings)


def read_transformer(folder: Path) -> TransformerFiles:
    """The files of a transformer's folder; empty where they are missing or cannot be read."""
    path = next(
        (folder / name for name in TRANSFORMER_FILES if read_object(folder / name)),
        folder / TRANSFORMER_FILES[0],
    )
    settings = read_object(path)
    overrides = settings.get("config_kwargs") or settings.get("config_args") or {}
    return TransformerFiles(
        settings=settings,
        tokenizer=read_object(folder / "tokenizer_config.json"),
        network={**read_object(folder / "config.json"), **overrides},
        where=path,
    )


def read_pipeline(folder: Path) -> Mapping[str, Any]:
    """The settings of the whole pipeline; empty where there are none."""
    return read_object(folder / PIPELINE_FILE)


def similarity_of(pipeline: Mapping[str, Any], kind: MemberKind = "dense") -> Similarity:
    """The comparison for which a model was trained. Where its files name none, it is that of sentence-transformers:
    cosine, and the dot product of sparse vectors.
    """
    named = pipeline.get("similarity_fn_name")
    return next((known for known in get_args(Similarity) if known == named), "dot" if kind == "sparse" else "cosine")


def require_followed(spec: ModelSpec, files: TransformerFiles, *, is_own_code: bool = False) -> None:
    """Refuse settings of a transformer that soloist cannot follow. A model's own code may know more settings.

    Raises:
        ModelLoadError: there is such a setting. The message names it, its file and what to do.
    """
    what = _not_followed(files.settings)
    unknown = sorted(files.settings.keys() - TRANSFORMER_SETTINGS)
    if unknown and not is_own_code:
        raise ModelLoadError(
            f"{spec.name} sets {', '.join(unknown)} in {files.where}, which the installed sentence-transformers does "
            "not know: remove that setting from the file, or install a version that knows it"
        )
    if what is not None:
        raise ModelLoadError(
            f"{spec.name} cannot be loaded: {what}, and soloist does not support that: remove that setting from "
            f"{files.where} in a copy of the model, or choose another model"
        )
    files.limits(spec.name)


def _not_followed(settings: Mapping[str, Any]) -> str | None:
    if settings.get("query_expansion") is not None:
        return "it adds tokens to its queries (query_expansion), as late-interaction models do"
    if settings.get("tokenizer_name_or_path") is not None:
        return "its tokenizer is in another folder (tokenizer_name_or_path)"
    modalities = settings.get("modality_config")
    if isinstance(modalities, Mapping) and "message" in modalities:
        return "it puts every text into a chat template (message in modality_config)"
    if isinstance(modalities, Mapping) and "text" not in modalities:
        return "it does not read texts (modality_config)"
    foreign = [name for name, value in tokenizer_settings(settings).items() if not _is_followed(name, value)]
    if foreign:
        return f"it calls its tokenizer with {', '.join(sorted(foreign))} (processing_kwargs)"
    return None


def _is_followed(name: str, value: object) -> bool:
    if name == "truncation":
        return knows_truncation(value)
    return name in _CUTTING | _HARMLESS or (name in _HARMLESS_AS and value in (_HARMLESS_AS[name], None))


def _is_limit(value: object) -> bool:
    """Whether a value is a whole number of tokens, or so high that it means no limit (some files have 1e30)."""
    if isinstance(value, float):
        return value >= NO_LIMIT
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require_pipeline(spec: ModelSpec, pipeline: Mapping[str, Any]) -> None:
    """Refuse settings of a whole pipeline with which sentence-transformers fails or gives no vectors.

    Raises:
        ModelLoadError: there is such a setting. The message names it, its file and what to do.
    """
    cut, default = pipeline.get("truncate_dim"), pipeline.get("default_prompt_name")
    prompts = pipeline.get("prompts", {})
    what = None
    if cut is not None and (isinstance(cut, bool) or not isinstance(cut, int) or cut < 1):
        what = f"sets truncate_dim to {json.dumps(cut)}, which is not a number of dimensions"
    elif not isinstance(prompts, dict):
        what = f"has prompts that are not an object of names and texts ({json.dumps(prompts)})"
    elif default is not None and default not in (*prompts, "query", "document"):
        what = f"has the default prompt {default!r} but no prompt of that name"
    if what is not None:
        raise ModelLoadError(f"{spec.name} {what}: correct or delete it in its {PIPELINE_FILE}")


def read_object(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where the file is missing, or has another value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
