"""The models of a run: found by name, loaded into host memory, and given an encoder. Knows nothing of passes."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from soloist.broken_imports import importing_libraries
from soloist.config import CalibrationConfig, FusionConfig, RunConfig
from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.encoding.vocabulary import unknown_words_text
from soloist.errors import ConfigError, ModelLoadError, SoloistError
from soloist.events import EventSink, ModelStaged, Notice
from soloist.fusion import Member, plan_fusion
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import SPARSE_END, resolve
from soloist.models.dtype import resolve_dtype
from soloist.models.files_here import is_bare_table
from soloist.models.loading import StagedModel, loads_without_networks, overflows_float16, stage
from soloist.models.location import find_settings
from soloist.models.matmul import fastest_matmul
from soloist.models.settings import read_settings
from soloist.models.sparse_folders import kind_of_folder
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue
from soloist.stores import folder_name
from soloist.types import DType, DTypeRequest, Matmul, MatmulRequest, MemberKind
from soloist.workers import interruptible

_UNPACKED = (
    "oneDNN cannot pack its weights here, so torch multiplies with them: the last bits of its vectors may differ from "
    "those that oneDNN would give"
)

MatmulOf = Callable[[str, DType], MatmulRequest]  # by the name of a model, and the dtype that it computes in


def select_models(config: RunConfig | CalibrationConfig) -> dict[str, ModelSpec]:
    """The models of a run by name, in the order of their passes.

    Raises:
        UnknownModelError: there is no model of that name.
        ConfigError: a model is named twice, or two models have one name.
    """
    catalogue = load_catalogue(config.catalogue)
    specs: dict[str, ModelSpec] = {}
    for asked in config.models:
        spec = _as_asked(resolve(asked, catalogue), config)
        known = specs.get(spec.name)
        if known == spec:
            raise ConfigError(f"the model {spec.name} is named twice: name each model once")
        if known is not None:
            raise ConfigError(
                f"two models have the name {spec.name} ({known.source} and {spec.source}): give one of them another "
                "name in a catalogue"
            )
        specs[spec.name] = spec
    require_distinct("models", specs)
    return specs


def import_libraries(
    specs: Iterable[ModelSpec], accelerator: Accelerator, check: Callable[[], object] = lambda: None
) -> None:
    """Import what networks need, and what predicts memory. On the host, tables and words do without both.

    The import takes seconds. It has a thread of its own, so that Ctrl-C is heard at once. `check` is called meanwhile,
    and may raise.

    Raises:
        InstallationError: a library is missing or damaged, or does not fit.
    """
    if accelerator.kind != "cpu" or not all(spec.kind == "lexical" or loads_without_networks(spec) for spec in specs):
        interruptible(_import_networks, check)


def _import_networks() -> None:
    with importing_libraries():  # here: what a signal makes of the wait in the other thread is no fault of a library
        importlib.import_module("soloist.memory.network")


def _as_asked(spec: ModelSpec, config: RunConfig | CalibrationConfig) -> ModelSpec:
    """The spec with the kind that its files show, and with the run's cut of sparse vectors."""
    kind = _kind(spec)
    top = config.sparse_top if isinstance(config, RunConfig) and kind == "sparse" else 0
    return replace(spec, kind=kind, sparse_top=top or None)


def _kind(spec: ModelSpec) -> MemberKind:
    """What a model makes of a text, by its files where they are on this machine."""
    if spec.kind == "lexical" or spec.loader == "wordllama" or spec.head != "dense":
        return spec.kind
    folder = find_settings(spec)
    return kind_of_folder(folder) if folder is not None else spec.kind


def require_dim(
    fusion: FusionConfig, specs: Mapping[str, ModelSpec], staged: Mapping[str, StagedModel] = MappingProxyType({})
) -> None:
    """Refuse a dim that the fusion cannot have, once the width of every model is known: mostly before one is loaded.

    Raises:
        FusionError: it cannot have it.
    """
    if fusion.dim is None:
        return
    dims = {name: staged[name].dim if name in staged else _known_dim(spec) for name, spec in specs.items()}
    members = [
        Member(name=name, dim=dim, matryoshka_dims=specs[name].matryoshka_dims)
        for name, dim in dims.items()
        if dim is not None
    ]
    if len(members) == len(specs):
        plan_fusion(fusion, members)


def _known_dim(spec: ModelSpec) -> int | None:
    """The width of a model's vectors, from its files or the catalogue; None where only the loaded model says it."""
    try:
        return read_settings(spec, blueprint_of(spec)).dim
    except SoloistError:  # whoever loads the model says what is wrong with it
        return None


def require_distinct(kind: str, names: Iterable[str]) -> None:
    """Refuse names that would share a folder on a file system that ignores case.

    Raises:
        ConfigError: two names would share a folder.
    """
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(folder_name(name).casefold(), name)
        if other != name:
            raise ConfigError(f"the {kind} {other} and {name} would share a folder: rename one of them")


def dtype_on(accelerator: Accelerator, spec: ModelSpec, requested: DTypeRequest) -> DType:
    """The format for a model on an accelerator (see `resolve_dtype`)."""
    return resolve_dtype(
        spec,
        requested,
        device_kind=accelerator.kind,
        capability=accelerator.card.capability,
        host_has_bfloat16=accelerator.multiplies_bfloat16,
    )


def stage_all(
    specs: Mapping[str, ModelSpec],
    config: RunConfig | CalibrationConfig,
    accelerator: Accelerator,
    sink: EventSink,
    check: Callable[[], object] = lambda: None,
    on_staged: Callable[[Mapping[str, StagedModel]], object] = lambda staged: None,
    matmul_of: MatmulOf = lambda name, dtype: "auto",
) -> dict[str, StagedModel]:
    """Every model in host memory before the first lease, so that a model that cannot be loaded fails the run early.

    `check` is called before every model, and often while a model loads; `on_staged` is called after every model with
    those that are staged. Both raise where the run should end. `matmul_of` says what the run's vectors were made with
    so far: as long as nobody asks for another library, that one stays, and with it the last bits of the vectors.
    """
    wanted: MatmulRequest = config.matmul if isinstance(config, RunConfig) else "auto"
    staged: dict[str, StagedModel] = {}
    for name, spec in specs.items():
        check()
        began = time.perf_counter()
        asked = functools.partial(matmul_of, name) if wanted == "auto" else lambda dtype: wanted
        model = interruptible(functools.partial(_staged, spec, config.dtype, asked, accelerator), check)
        staged[name] = model
        sink.emit(
            ModelStaged(
                model=name,
                source=spec.source,
                revision=model.revision,
                fingerprint=model.fingerprint,
                dim=model.dim,
                max_tokens=model.max_tokens,
                dtype=model.dtype,
                weights_bytes=model.weights_bytes,
                seconds=time.perf_counter() - began,
            )
        )
        for message in model.notices:
            sink.emit(Notice(about=name, message=message))
        is_packable = not (accelerator.copies_weights or model.is_static)
        if asked(model.dtype) not in ("auto", "torch", model.matmul) and is_packable:
            sink.emit(Notice(about=name, message=_UNPACKED))
        on_staged(staged)
    return staged


def _staged(
    spec: ModelSpec,
    requested: DTypeRequest,
    matmul_in: Callable[[DType], MatmulRequest],
    accelerator: Accelerator,
) -> StagedModel:
    known = replace(spec, overflows_float16=overflows_float16(spec))
    if _kind(spec) != spec.kind:  # it was downloaded just now
        raise ModelLoadError(
            f"{spec.name} is a sparse encoder, which its files show only now that they are here: run the same command "
            "again"
        )
    dtype = dtype_on(accelerator, known, requested)
    if is_bare_table(known):  # it multiplies nothing, so no library is measured
        return stage(known, dtype)
    return stage(known, dtype, matmul_on(accelerator, dtype, matmul_in(dtype)))


def matmul_on(accelerator: Accelerator, dtype: DType, requested: MatmulRequest) -> Matmul:
    """The library that multiplies on an accelerator. Devices have their own."""
    if accelerator.copies_weights:
        return "torch"
    return fastest_matmul(dtype) if requested == "auto" else requested


def _padding_text(cosine: float) -> str:
    return (
        f"its vectors depend on padding: a short text alone and the same text beside a longer one have vectors with a "
        f"cosine of {cosine:.4f}. So a run's vectors differ from those of sentence-transformers for single texts"
    )


def encoders_of(
    staged: Mapping[str, StagedModel], config: RunConfig, accelerator: Accelerator, sink: EventSink
) -> dict[str, Encoder]:
    """An encoder for every model, with packed rows where the config asks for them and the model allows for them."""
    packs = accelerator.packs_rows if config.packing == "auto" else config.packing == "on"
    encoders = {name: Encoder(model, packs=packs) for name, model in staged.items()}
    for model in staged.values():
        if model.sides.query is not model.sides.document:
            Encoder(model.for_queries())  # a route for queries without vectors is found now, and not by a search
    for name, encoder in encoders.items():
        if encoder.failure is not None:
            sink.emit(Notice(about=name, message=unknown_words_text(encoder.failure)))
        if encoder.padding_cosine is not None:
            sink.emit(Notice(about=name, message=_padding_text(encoder.padding_cosine)))
        if config.packing == "on" and not encoder.packs and not encoder.staged.is_static:
            sink.emit(Notice(about=name, message="its network cannot take packed rows, so its rows are padded"))
    return encoders


def together(encoders: Mapping[str, Encoder], config: RunConfig, accelerator: Accelerator) -> dict[str, Encoder]:
    """The same encoders, but one for two members whose vectors come from one network: a model, and its token weights.

    One pass of that network gives both.
    """
    found = dict(encoders)
    packs = accelerator.packs_rows if config.packing == "auto" else config.packing == "on"
    for sparse, dense in companions({name: encoder.staged.spec for name, encoder in encoders.items()}).items():
        both = Encoder(_staged_together(encoders[dense].staged, encoders[sparse].staged), packs=packs)
        found |= {dense: both, sparse: both}
    return found


def companions(specs: Mapping[str, ModelSpec]) -> dict[str, str]:
    """The members that are the token weights of another member, and that one: {"bge-m3:sparse": "bge-m3"}.

    One with another limit of tokens, other prompts or another revision has a pass of its own.
    """
    found = {f"{name}{SPARSE_END}": name for name in specs}
    return {
        sparse: dense
        for sparse, dense in found.items()
        if sparse in specs and specs[sparse].head == "sparse" and _as_read(specs[sparse]) == _as_read(specs[dense])
    }


def _as_read(spec: ModelSpec) -> ModelSpec:
    """What decides how texts come into a network, whatever is made of them."""
    return replace(
        spec, name="", kind="dense", head="dense", sparse_top=None, dim=None, matryoshka_dims=(), note="",
        blueprint=None,
    )  # fmt: skip


def _staged_together(dense: StagedModel, sparse: StagedModel) -> StagedModel:
    """A model and the weights of its tokens as one pipeline, whose rows are (dense.dim + sparse.dim)."""
    spec = replace(dense.spec, head="both", dim=None, matryoshka_dims=())
    return replace(stage(spec, dense.dtype, dense.matmul), members=(dense, sparse))
