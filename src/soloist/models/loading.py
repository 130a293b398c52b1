"""Staging: a spec in, a model in host memory out.

Knows which models need sentence-transformers, and imports it for those. Knows nothing of devices: a staged model is on
the CPU and in evaluation mode. Its weights are mapped from their files where those have the wanted dtype: 489 MB of
float32 weights added 3 MB to the process. Another dtype is a copy, and so are weights that are packed for the host. No
pickle is ever run, and a model's own code only where its spec says `trust_remote_code`.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from soloist.broken_imports import importing_libraries
from soloist.errors import ModelLoadError
from soloist.models.dtype import family_overflows_float16
from soloist.models.fingerprint import content_digests, fingerprint
from soloist.models.limits import OwnLimits, limit_notices, own_limits, padding_notices, token_limit
from soloist.models.load_failures import LOAD_FAILURES, load_failure_text
from soloist.models.load_warnings import heard, quiet
from soloist.models.location import (
    WORDLLAMA_TOKENIZER,
    WORDLLAMA_WEIGHTS,
    Location,
    find_settings,
    locate,
    network_type,
    weight_files_of,
)
from soloist.models.module_facts import (
    counts_positions,
    has_unit_vectors,
    is_static,
    lift_static_limit,
    positions_of,
    weights_bytes,
    width_of,
)
from soloist.models.own_settings import read_pipeline, similarity_of
from soloist.models.pipeline import Task
from soloist.models.prepacked import is_packed, prepack
from soloist.models.prompts import choose_prompts
from soloist.models.refusals import require_encoder
from soloist.models.remote_code import fetch_remote_code
from soloist.models.settings import require_dims, require_own_settings, static_token_limit
from soloist.models.sides import Sides, sides_of
from soloist.models.sparse_folders import kind_of_folder, most_active
from soloist.models.spec import ModelSpec
from soloist.models.token_table import TablePipeline, can_read_table, read_table, table_pipeline
from soloist.models.token_weights import with_token_weights
from soloist.models.weights_check import fault_in_pickles
from soloist.types import DType, Matmul, ModelKind, Similarity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_Load: TypeAlias = "Callable[[ModelSpec, torch.dtype, Path], SentenceTransformer | TablePipeline]"
TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_shared_sides: weakref.WeakValueDictionary[str, Sides] = weakref.WeakValueDictionary()
# transformers keeps the dtype of a load in globals, so loads take turns. Downloads do not: they may hang.
LOADING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class _AtLoad:
    """What only the load shows of a module: its limits before staging changed them, and the warnings of libraries."""

    limits: OwnLimits
    warnings: tuple[str, ...]


# Kept for as long as the modules: callers share modules.
_own_pipelines: weakref.WeakKeyDictionary[SentenceTransformer, Sides] = weakref.WeakKeyDictionary()
_at_load: weakref.WeakKeyDictionary[SentenceTransformer, _AtLoad] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagedModel:
    """A model in host memory, ready to be copied to a device.

    - `kind` says whether its vectors are dense or sparse, or scores of pairs. A sparse vector has a dimension for each
      word, and a score is a vector of one.
    - `module` is the pipeline of documents. Callers with the same weights share it: leave it unchanged on the CPU.
    - `max_tokens` is the limit of documents, special tokens and prompt included; None where there is no limit, as for
      most static models. `query_max_tokens` is the limit of queries.
    - `counts_positions` is True where padding on the left would shift the positions of tokens.
    - `keeps_end` is True where the limit cuts off the beginning of a text.
    - `most_active` is how many words of a document keep their weight, if it is sparse; None for all. The settings of
      the model and of the run say it. `query_most_active` is the same for queries, by the model's settings alone.
    - `similarity` is the comparison for which the model was trained.
    - `has_unit_vectors` is True where the model's own vectors have length 1.
    - `revision` is the commit on the hub, where it is known.
    - `contents` are the sha256 of every file that decides its vectors, by name (see `content_digests`).
    - `weights_bytes` counts parameters and buffers once, in `dtype`.
    - `matmul` is the library that multiplies with the weights on the host.
    - `sides` has the pipeline of queries too, which is another one where the model has routes.
    - `notices` tell the user how the model's files were followed.
    - `members` are those whose numbers stand beside each other in a row of this one; empty for a member itself.
    """

    spec: ModelSpec
    kind: ModelKind
    module: SentenceTransformer
    dtype: DType
    dim: int
    max_tokens: int | None
    query_max_tokens: int | None
    counts_positions: bool
    keeps_end: bool
    document_prompt: str
    query_prompt: str
    most_active: int | None
    query_most_active: int | None
    similarity: Similarity
    has_unit_vectors: bool
    matryoshka_dims: tuple[int, ...]
    revision: str | None
    fingerprint: str
    weights_bytes: int
    is_static: bool
    matmul: Matmul
    sides: Sides
    notices: tuple[str, ...]
    members: tuple[StagedModel, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def predicts_words(self) -> bool:
        """Whether a batch has a number for each token and each word, as that of a SPLADE has."""
        return self.kind == "sparse" and self.spec.head == "dense"

    def member(self, name: str) -> StagedModel:
        """The member of this name, one of two whose numbers stand beside each other, or the only one."""
        return next((member for member in self.members if member.spec.name == name), self)

    def for_queries(self) -> StagedModel:
        """The same model for queries, which have their own prompt, limit and, with routes, pipeline."""
        return replace(
            self,
            module=self.sides.query,
            document_prompt=self.query_prompt,
            max_tokens=self.query_max_tokens,
            most_active=self.query_most_active,
            counts_positions=counts_positions(self.sides.query),
            keeps_end=_at_load[self.sides.query].limits.keeps_end,
            weights_bytes=weights_bytes(self.sides.query),
            is_static=is_static(self.sides.query),
        )


def stage(spec: ModelSpec, dtype: DType, matmul: Matmul = "torch") -> StagedModel:
    """Load a model into host memory, or share the one that is already there.

    With `onednn` the weights of its linear layers are packed for the host, where its network allows that, and with
    `onednn+numpy` too. Devices can have such a model: a replica gets plain layers.

    Raises:
        ModelLoadError: the weights are missing, damaged, incomplete, or not those that the spec describes.
        ConfigError: the spec asks for more tokens or dimensions than the model has.
    """
    with _failures_told(spec):
        location = locate(spec)
        require_encoder(spec, location.folder)
        require_plain_weights(spec, location.folder)
        if spec.trust_remote_code and spec.loader != "wordllama":
            fetch_remote_code(location.folder)
        require_own_settings(spec, location.folder)
        contents = content_digests(spec, location)
    load = _loader(spec, location.folder)
    with _failures_told(spec), LOADING:
        sides = _share(spec, dtype, matmul, location, contents, load)
    return _describe(spec, dtype, location, contents, sides, matmul)


def overflows_float16(spec: ModelSpec) -> bool:
    """Whether the activations exceed float16: by the spec, or because the family of the network is known for it.

    This reads the model's configuration, and so it may download the model.

    Raises:
        ModelLoadError: the model's files cannot be found or read.
    """
    if spec.overflows_float16:
        return True
    with _failures_told(spec):
        folder = locate(spec).folder
        require_encoder(spec, folder)
        return family_overflows_float16(network_type(folder))


@contextlib.contextmanager
def _failures_told(spec: ModelSpec) -> Iterator[None]:
    """Within this libraries are quiet, and what they raise becomes a sentence about the model."""
    with quiet():
        try:
            yield
        except LOAD_FAILURES as exc:
            raise ModelLoadError(load_failure_text(spec, exc)) from exc


def _share(
    spec: ModelSpec, dtype: DType, matmul: Matmul, location: Location, contents: Mapping[str, str], load: _Load
) -> Sides:
    """The same modules for the same files, pipeline settings, dtype, limit and library, while a caller holds them."""
    key = fingerprint(
        contents,
        pipeline=read_pipeline(location.folder),
        dtype=dtype,
        code=spec.trust_remote_code,
        max_tokens=spec.max_tokens,
        matmul=matmul,
        head=spec.head,
    )
    sides = _shared_sides.get(key)
    if sides is None and spec.head != "dense":
        sides = _shared_sides[key] = _with_token_weights(spec, dtype, matmul, location, load)
    if sides is None:
        with heard() as said:
            whole = load(spec, TORCH_DTYPES[dtype], location.folder).eval().requires_grad_(False)
        _forget_card(whole)
        sides = sides_of(spec.name, whole, TORCH_DTYPES[dtype])
        for module in sides.distinct():
            _forget_card(module)
            _set_limit(spec, module, tuple(said))
        if matmul != "torch" and not sides.share_parts():
            for module in sides.distinct():
                prepack(module, in_bfloat16=matmul == "onednn+numpy")
        _shared_sides[key] = sides
    return sides


def _forget_card(module: SentenceTransformer | TablePipeline) -> None:
    """A card refers back to its module. Without that cycle the weights are freed with the last reference."""
    if not isinstance(module, TablePipeline):
        module.model_card_data.model = None


def _with_token_weights(spec: ModelSpec, dtype: DType, matmul: Matmul, location: Location, load: _Load) -> Sides:
    plain = replace(spec, head="dense")
    own = _share(plain, dtype, matmul, location, content_digests(plain, location), load)
    whole = own.document
    beside = width_of(whole) if spec.head == "both" else None
    module = with_token_weights(spec.name, location.folder, whole, TORCH_DTYPES[dtype], beside)
    _forget_card(module)
    _at_load[module], _own_pipelines[module] = _at_load[whole], own
    return Sides(document=module, query=module)


def _set_limit(spec: ModelSpec, module: SentenceTransformer, warnings: tuple[str, ...]) -> None:
    if is_static(module):
        _at_load[module] = _AtLoad(limits=lift_static_limit(module), warnings=warnings)
        return
    limits = _own_limits(spec, module)
    _at_load[module] = _AtLoad(limits=limits, warnings=warnings)
    longest = token_limit(spec, "document", OwnLimits(longest=limits.longest), positions_of(module))
    module.max_seq_length = longest or module.max_seq_length


def _own_limits(spec: ModelSpec, module: SentenceTransformer) -> OwnLimits:
    first = module[0]
    settings = {name: getattr(first, name, None) for name in ("processing_kwargs", "document_length", "query_length")}
    return own_limits(spec.name, module.max_seq_length, settings)


def require_plain_weights(spec: ModelSpec, folder: Path) -> None:
    """Refuse weights in a pickle of more than tensors.

    Raises:
        ModelLoadError: the folder has such weights, or a part of a file only.
    """
    fault = fault_in_pickles(weight_files_of(spec, folder)) if spec.loader != "wordllama" else None
    if fault is not None:
        raise ModelLoadError(f"{spec.name} cannot be loaded from {folder}: {fault}")


def _loader(spec: ModelSpec, folder: Path) -> _Load:
    """What loads a model. For all but tables of vectors the first call imports sentence-transformers, for seconds."""
    if spec.loader == "wordllama":
        return _load_wordllama
    if _has_own_table(spec, folder):
        return _load_table
    with importing_libraries():
        from soloist.models.pipelines import load_pipeline

    return load_pipeline


def loads_without_networks(spec: ModelSpec) -> bool:
    """Whether a model is a table on this machine that `stage` loads without transformers and sentence-transformers."""
    folder = find_settings(spec)
    return folder is not None and (spec.loader == "wordllama" or _has_own_table(spec, folder))


def _has_own_table(spec: ModelSpec, folder: Path) -> bool:
    """Whether a folder is a table of vectors in the plainest form; False where its load will say what is wrong."""
    try:
        return spec.head == "dense" and can_read_table(folder)
    except (*LOAD_FAILURES, ModelLoadError):
        return False


def _load_table(spec: ModelSpec, dtype: torch.dtype, folder: Path) -> TablePipeline:
    return read_table(folder, dtype)


def _load_wordllama(spec: ModelSpec, dtype: torch.dtype, folder: Path) -> TablePipeline:
    """wordllama's table. Like the package itself, the pipeline takes the mean of token vectors."""
    tokenizer = Tokenizer.from_file(str(folder / WORDLLAMA_TOKENIZER))
    tokenizer.no_truncation()
    return table_pipeline(tokenizer, load_file(folder / WORDLLAMA_WEIGHTS)["embedding.weight"].to(dtype))


def _describe(
    spec: ModelSpec, dtype: DType, location: Location, contents: Mapping[str, str], sides: Sides, matmul: Matmul
) -> StagedModel:
    module = sides.document
    kind = kind_of_folder(location.folder) if spec.head == "dense" else spec.kind
    dim = _dim(spec, module)
    own, known = read_pipeline(location.folder), _at_load[module]
    actives = [most_active(own, top) if kind == "sparse" else None for top in (spec.sparse_top, None)]
    prompts = choose_prompts(spec, own)
    max_tokens = _token_limit(spec, module, "document")
    return StagedModel(
        spec=spec,
        kind=kind,
        module=module,
        dtype=dtype,
        dim=dim,
        max_tokens=max_tokens,
        query_max_tokens=_token_limit(spec, sides.query, "query"),
        counts_positions=counts_positions(module),
        keeps_end=known.limits.keeps_end,
        document_prompt=prompts.document,
        query_prompt=prompts.query,
        most_active=actives[0],
        query_most_active=actives[1],
        similarity=similarity_of(own, kind) if spec.head == "dense" else "dot",
        has_unit_vectors=has_unit_vectors(module),
        matryoshka_dims=spec.matryoshka_dims,
        revision=location.revision,
        fingerprint=fingerprint(
            contents,
            document_prompt=prompts.document,
            max_tokens=max_tokens,
            dim=dim,
            dtype=dtype,
            **({"most_active": actives[0]} if kind == "sparse" else {}),
        ),
        weights_bytes=weights_bytes(module),
        is_static=is_static(module),
        matmul=matmul if is_packed(module) else "torch",
        sides=sides,
        notices=(*known.warnings, *prompts.notices, *_limit_notices(spec, module)),
        contents=contents,
    )


def _dim(spec: ModelSpec, module: SentenceTransformer) -> int:
    dim = width_of(module)
    if dim is None:
        raise ModelLoadError(
            f"{spec.name} does not say how many dimensions its vectors have: add a Pooling module to its modules.json"
        )
    require_dims(spec, dim)
    return dim


def _token_limit(spec: ModelSpec, module: SentenceTransformer, task: Task) -> int | None:
    own = _at_load[module].limits
    if is_static(module):
        return static_token_limit(spec, own.longest)
    return token_limit(spec, task, own, positions_of(module))


def _limit_notices(spec: ModelSpec, module: SentenceTransformer) -> tuple[str, ...]:
    network = module.transformers_model
    if network is None:
        return ()
    config = network.config.get_text_config().to_dict()
    side = getattr(module.tokenizer, "padding_side", "right")
    return (*limit_notices(spec, _at_load[module].limits, config), *padding_notices(side, config))
