"""What soloist knows of a model before it is loaded. Pure values; no torch, no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soloist.models.blueprint import Blueprint
from soloist.types import DTypeRequest, Head, MemberKind

Loader = Literal["sentence-transformers", "wordllama"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One member of an ensemble.

    - `kind` says what it makes of a text: a vector, a sparse vector over a vocabulary, or its words.
    - `sparse_top` is how many of its largest weights a document keeps, if it is sparse; None for all.
    - `source` is a hub id or a local folder.
    - `head` says what of its network is taken. A member `NAME:sparse` is the token weights of the model NAME.
    - `package` is a Python package with the same weights, used where it is installed.
    - `dim` and `max_tokens` are None where only the loaded model knows them.
    - A prompt of None means that of the model's own files, and an empty one means no prompt.
    - `overflows_float16` is True where activations exceed 65,504.
    - `blueprint` is the shape of the network, for planning where the model's files are not on this machine.
    """

    name: str
    source: str
    kind: MemberKind = "dense"
    head: Head = "dense"
    sparse_top: int | None = None
    package: str | None = None
    revision: str | None = None
    dim: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    max_tokens: int | None = None
    document_prompt: str | None = None
    query_prompt: str | None = None
    dtype: DTypeRequest = "auto"
    overflows_float16: bool = False
    trust_remote_code: bool = False
    licence: str | None = None
    non_commercial: bool = False
    loader: Loader = "sentence-transformers"
    note: str = ""
    blueprint: Blueprint | None = None
