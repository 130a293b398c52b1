"""What a folder's own files set beside weights and modules, and what of it cannot be followed. Pure: JSON in, no torch.

Every setting that sentence-transformers reads is in one of three places: it is followed (most of them by its own code,
which loads the modules), it is refused here by name, or it is a notice. tests/models/test_every_setting.py has a row
for each, and reads from the installed library which there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from soloist.errors import ModelLoadError
from soloist.models.limits import OwnLimits, knows_truncation, own_limits, own_longest, tokenizer_settings
from soloist.models.spec import ModelSpec
from soloist.types import Similarity

# Where sentence-transformers looks for the settings of a transformer; the first that is there counts.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PIPELINE_FILE = "config_sentence_transformers.json"
# How a tokenizer may be called (`processing_kwargs`): what cuts is followed, and these change no vector.
_CUTTING = frozenset({"max_length", "truncation"})
_HARMLESS = frozenset({
    "logits_to_keep", "pad_to_multiple_of", "padding", "padding_side", "return_token_type_ids", "stride", "verbose",
})  # fmt: skip
# The only values of these that change nothing.
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
    """The settings of one transformer: its pipeline's, its tokenizer's and its network's, as their files have them."""

    settings: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    network: Mapping[str, Any]
    where: Path

    def limits(self, name: str) -> OwnLimits:
        """The limits that they set.

        Raises:
            ModelLoadError: one of them is no number of tokens.
        """
        return own_limits(name, own_longest(self.settings, self.tokenizer, self.network), self.settings)


def read_transformer(place: Path) -> TransformerFiles:
    """The files of a transformer's folder; empty where they are missing or cannot be read."""
    path = next((place / name for name in TRANSFORMER_FILES if read_object(place / name)), place / TRANSFORMER_FILES[0])
    settings = read_object(path)
    overrides = settings.get("config_kwargs") or settings.get("config_args") or {}
    return TransformerFiles(
        settings=settings,
        tokenizer=read_object(place / "tokenizer_config.json"),
        network={**read_object(place / "config.json"), **overrides},
        where=path,
    )


def read_pipeline(folder: Path) -> Mapping[str, Any]:
    """The settings of the whole pipeline; empty where there are none."""
    return read_object(folder / PIPELINE_FILE)


def similarity_of(pipeline: Mapping[str, Any]) -> Similarity:
    """What the model was trained to be compared by; cosine where its files do not say, as sentence-transformers has
    it.
    """
    named = pipeline.get("similarity_fn_name")
    return next((known for known in get_args(Similarity) if known == named), "cosine")


def require_followed(spec: ModelSpec, files: TransformerFiles) -> None:
    """Refuse settings of a transformer that are not followed.

    Raises:
        ModelLoadError: there is one; the message names it, its file and the way on.
    """
    what = _not_followed(files.settings)
    if what is not None:
        raise ModelLoadError(
            f"{spec.name} cannot be loaded: {what}, which is not followed: take that setting out of {files.where} in a "
            "copy of the model, or choose another"
        )
    files.limits(spec.name)


def _not_followed(settings: Mapping[str, Any]) -> str | None:
    if settings.get("query_expansion") is not None:
        return "it adds tokens to its queries (query_expansion), as late-interaction models do"
    if settings.get("tokenizer_name_or_path") is not None:
        return "its tokenizer is in another folder (tokenizer_name_or_path)"
    modalities = settings.get("modality_config")
    if isinstance(modalities, Mapping) and "message" in modalities:
        return "it puts each text into a chat template (message in modality_config)"
    if isinstance(modalities, Mapping) and "text" not in modalities:
        return "it reads no text (modality_config)"
    foreign = [name for name, value in tokenizer_settings(settings).items() if not _is_followed(name, value)]
    if foreign:
        return f"it calls its tokenizer with {', '.join(sorted(foreign))} (processing_kwargs)"
    return None


def _is_followed(name: str, value: object) -> bool:
    if name == "truncation":
        return knows_truncation(value)
    return name in _CUTTING | _HARMLESS or (name in _HARMLESS_AS and value in (_HARMLESS_AS[name], None))


def read_object(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where the file is missing, or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
