"""The models that soloist knows by name, and how a requested name becomes a spec.

Pure: it looks at most at whether a folder exists. Knows nothing of torch, and never asks the network. The rows are in
`built_in`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from soloist.errors import ConfigError, UnknownModelError
from soloist.models.built_in import BUILT_IN_SPECS
from soloist.models.sparse_folders import TOKEN_WEIGHTS_FILE
from soloist.models.spec import ModelSpec

# Behind the name of a model: the weights of its tokens, a sparse member.
SPARSE_END = ":sparse"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Specs with distinct names, in a fixed order; never changed after it is made."""

    specs: tuple[ModelSpec, ...]

    @classmethod
    def of(cls, specs: Iterable[ModelSpec]) -> Catalogue:
        """A catalogue of these specs; where two share a name, the later one takes the place of the earlier."""
        return cls(specs=tuple({spec.name: spec for spec in specs}.values()))

    def get(self, name: str) -> ModelSpec:
        """The spec of that name.

        Raises:
            UnknownModelError: no spec has that name; the message names the nearest ones.
        """
        for spec in self.specs:
            if spec.name == name:
                return spec
        raise UnknownModelError(_unknown(name, self.names()))

    def names(self) -> tuple[str, ...]:
        """All names, in the catalogue's order."""
        return tuple(spec.name for spec in self.specs)

    def __contains__(self, name: object) -> bool:
        """Whether a spec has that name."""
        return name in self.names()


BUILT_IN = Catalogue.of(BUILT_IN_SPECS)

# Left out on purpose, by hub id, with the message for the user.
UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "jinaai/jina-embeddings-v4": (
            "jina-embeddings-v4 is not supported, because its own code fetches every text that starts with http and "
            "opens every text that is a file's path: use jina-code-embeddings-1.5b or qwen3-embedding-0.6b"
        ),
    }
)


def resolve(name: str, catalogue: Catalogue = BUILT_IN) -> ModelSpec:
    """The spec for a requested model: a catalogue name, else an existing folder, else a hub id such as `org/name`.

    A hub id of a model in the catalogue gets that model's row, under the requested name. Behind each of the three,
    `:sparse` asks for the token weights of that model.

    Raises:
        ConfigError: the model is left out on purpose, and the message says why; or its source in the catalogue does not
            exist.
        UnknownModelError: the name is none of the three.
    """
    if name in catalogue:
        return _require_source(catalogue.get(name))
    folder = at_home(name).absolute()
    if name and folder.is_dir():
        return ModelSpec(name=folder.name or folder.resolve().name, source=str(folder))
    if name.endswith(SPARSE_END):
        return _token_weights_of(resolve(name.removesuffix(SPARSE_END), catalogue))
    _refuse_unsupported(name)
    if is_hub_id(name):
        return _from_hub_id(name, catalogue)
    if _is_path(name):
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UnknownModelError(f"the folder {name} {state}: give a model's folder, a catalogue name or a hub id")
    raise UnknownModelError(_unknown(name, catalogue.names()))


def _token_weights_of(spec: ModelSpec) -> ModelSpec:
    """The member that the token weights of a model are.

    Raises:
        ConfigError: the model has no network.
    """
    if spec.kind == "lexical" or spec.loader == "wordllama":
        raise ConfigError(
            f"{spec.name} has no network, and so no weights of tokens: leave out {SPARSE_END}, or name a model that "
            f"has a {TOKEN_WEIGHTS_FILE}, such as bge-m3"
        )
    blueprint = replace(spec.blueprint, head="sparse") if spec.blueprint is not None else None
    return replace(
        spec, name=f"{spec.name}{SPARSE_END}", kind="sparse", head="sparse", dim=None, matryoshka_dims=(), note="",
        blueprint=blueprint,
    )  # fmt: skip


def is_hub_id(text: str) -> bool:
    """Whether the text has the form `org/name` of a model on the Hugging Face hub."""
    return _HUB_ID.fullmatch(text) is not None


def at_home(text: str) -> Path:
    """The path of a folder; `~/x` is below the user's home."""
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def _is_path(text: str) -> bool:
    return os.sep in text or text.startswith((".", "~"))


def _require_source(spec: ModelSpec) -> ModelSpec:
    """Refuse a model whose folder does not exist. Only models that are used need theirs."""
    if spec.kind == "lexical" or is_hub_id(spec.source) or Path(spec.source).is_dir():
        return spec
    raise ConfigError(
        f"the model {spec.name} has the source {spec.source}, which does not exist: attach that folder, or correct the "
        "source in the catalogue, which may be a hub id such as org/name too"
    )


def _from_hub_id(hub_id: str, catalogue: Catalogue) -> ModelSpec:
    for spec in catalogue.specs:
        if spec.source.lower() == hub_id.lower():
            return replace(spec, name=hub_id)
    return ModelSpec(name=hub_id, source=hub_id)


def _refuse_unsupported(name: str) -> None:
    for hub_id, reason in UNSUPPORTED.items():
        if name.lower() in (hub_id.lower(), hub_id.split("/")[1].lower()):
            raise ConfigError(reason)


def _unknown(name: str, names: tuple[str, ...]) -> str:
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.4)
    if near:
        meant = f"did you mean {' or '.join(by_lower[item] for item in near)}?"
    else:
        meant = f"choose one of {', '.join(names)}."
    return f"the model {name!r} is in no catalogue: {meant} A folder or a hub id such as org/name works too"
