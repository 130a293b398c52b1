"""Staging: a spec in, a model in host memory out. The one module of this package that imports torch.

Knows how sentence-transformers loads, and hides it. Knows nothing of devices: what is staged here is on the CPU, in
evaluation mode, and mapped from its files where their dtype is the asked one (measured: 489 MB of float32 weights
add 3 MB to the process; another dtype is a copy). Never runs a pickle, and runs a model's own code only where its
spec says `trust_remote_code`.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from soloist.errors import ModelLoadError
from soloist.models.borrowed_code import fetch_borrowed_code
from soloist.models.dtype import family_overflows_float16
from soloist.models.fingerprint import content_digests, fingerprint
from soloist.models.location import (
    WORDLLAMA_TOKENIZER,
    WORDLLAMA_WEIGHTS,
    Location,
    find_settings,
    locate,
    network_config,
    network_type,
    weight_files,
)
from soloist.models.refusals import require_dense_encoder
from soloist.models.settings import require_dims, require_positions, static_token_limit
from soloist.models.sides import Sides, sides_of
from soloist.models.spec import ModelSpec
from soloist.models.weights_check import LoadReport, complaint, integers_in, observed_loads
from soloist.types import DType

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

# What transformers, tokenizers, safetensors and a model's own code raise when files are missing, damaged or foreign.
_LOAD_FAILURES = (
    OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, AttributeError, ArithmeticError,
    AssertionError, SafetensorError, StrictDataclassError, UnpicklingError,
)  # fmt: skip
_NOISY_LOGGERS = ("sentence_transformers", "huggingface_hub", "transformers")

_shared_sides: weakref.WeakValueDictionary[str, Sides] = weakref.WeakValueDictionary()
# The limits that static models' tokenizers had, which staging lifts; so they are kept with the modules.
_static_limits: weakref.WeakKeyDictionary[SentenceTransformer, int] = weakref.WeakKeyDictionary()
# transformers keeps the dtype of a load in globals, so loads take turns; downloads, which may hang, do not.
_lock = threading.Lock()
_quieting = threading.Lock()
_before_quiet: list[tuple[bool, list[int]]] = []  # progress bars and levels of loggers, once for each who is at work


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagedModel:
    """A model in host memory, ready to be copied to a device.

    `module` is shared by all that stage the same weights: leave it as it is, and on the CPU. `max_tokens` includes
    special tokens and the prompt, and is None for models that read everything, as most static ones do.
    `weights_bytes` counts parameters and buffers once, in `dtype`. `revision` is the hub commit, where known. `sides`
    has the pipeline of queries too, which is another where the model has routes.
    """

    spec: ModelSpec
    module: SentenceTransformer
    dtype: DType
    dim: int
    max_tokens: int | None
    document_prompt: str
    query_prompt: str
    matryoshka_dims: tuple[int, ...]
    revision: str | None
    fingerprint: str
    weights_bytes: int
    is_static: bool
    sides: Sides
    query_max_tokens: int | None

    def for_queries(self) -> StagedModel:
        """The same model for questions, which have a prompt, a limit and, with routes, a pipeline of their own."""
        return replace(
            self,
            module=self.sides.query,
            document_prompt=self.query_prompt,
            max_tokens=self.query_max_tokens,
            weights_bytes=_weights_bytes(self.sides.query),
            is_static=_is_static(self.sides.query),
        )


def stage(spec: ModelSpec, dtype: DType) -> StagedModel:
    """Load a model straight into host memory, or share the one that is already there.

    Raises:
        ModelLoadError: the weights are missing, damaged, incomplete, or not those that the spec describes.
        ConfigError: the spec asks for more tokens or dimensions than the model has.
    """
    with _quiet():
        try:
            location = locate(spec)
            require_dense_encoder(spec, location.folder)
            _require_floats(spec, location.folder)
            if spec.trust_remote_code and spec.loader != "wordllama":
                fetch_borrowed_code(location.folder)
            contents = content_digests(spec, location)
            with _lock:
                sides = _share(spec, dtype, location, contents)
        except _LOAD_FAILURES as exc:
            raise ModelLoadError(_explain(spec, exc)) from exc
    return _describe(spec, dtype, location, contents, sides)


def overflows_float16(spec: ModelSpec) -> bool:
    """Whether the activations exceed float16: the spec says so, or the model is of a family that is known to.

    Reads the model's configuration, so it may download the model.

    Raises:
        ModelLoadError: the model's files cannot be found or read.
    """
    if spec.overflows_float16:
        return True
    with _quiet():
        try:
            folder = locate(spec).folder
            require_dense_encoder(spec, folder)
            return family_overflows_float16(network_type(folder))
        except _LOAD_FAILURES as exc:
            raise ModelLoadError(_explain(spec, exc)) from exc


def _share(spec: ModelSpec, dtype: DType, location: Location, contents: Mapping[str, str]) -> Sides:
    """One module of a side per content, dtype and limit, for as long as anyone holds it."""
    key = fingerprint(contents, dtype=dtype, code=spec.trust_remote_code, max_tokens=spec.max_tokens)
    sides = _shared_sides.get(key)
    if sides is None:
        load = _load_wordllama if spec.loader == "wordllama" else _load_pipeline
        whole = load(spec, dtype, location.folder).eval().requires_grad_(False)
        # The card refers back to the module; without that cycle the last holder's end frees the weights at once.
        whole.model_card_data.model = None
        sides = sides_of(spec.name, whole)
        for module in sides.distinct():
            module.model_card_data.model = None
            _set_limit(spec, module)
        _shared_sides[key] = sides
    return sides


def _set_limit(spec: ModelSpec, module: SentenceTransformer) -> None:
    if _is_static(module):
        _lift_truncation(module)
    elif (limit := _token_limit(spec, module)) is not None:
        module.max_seq_length = limit


def _lift_truncation(module: SentenceTransformer) -> None:
    """A static model's tokenizer may cut texts in silence: keep its limit, for the encoder to cut and count by."""
    if module.tokenizer.truncation is not None:
        _static_limits[module] = int(module.tokenizer.truncation["max_length"])
        module.tokenizer.no_truncation()


def _load_pipeline(spec: ModelSpec, dtype: DType, folder: Path) -> SentenceTransformer:
    module = None
    with observed_loads() as reports:
        try:
            module = SentenceTransformer(
                str(folder),
                device="cpu",
                # Code that a model is trusted to run may be in another repository than its weights.
                local_files_only=not spec.trust_remote_code,
                trust_remote_code=spec.trust_remote_code,
                model_kwargs={"dtype": TORCH_DTYPES[dtype], "weights_only": True},
            )
        finally:
            _require_right_weights(spec, module, reports)  # which says more than an error that follows from them
    # Not where transformers loaded it: it keeps some buffers, such as rotary frequencies, in float32 on purpose.
    return module if module.transformers_model is not None else module.to(TORCH_DTYPES[dtype])


def _require_floats(spec: ModelSpec, folder: Path) -> None:
    found = integers_in(weight_files(folder)) if spec.loader != "wordllama" else None
    if found is not None:
        raise ModelLoadError(f"{spec.name} cannot be loaded from {folder}: {found}")


def _load_wordllama(spec: ModelSpec, dtype: DType, folder: Path) -> SentenceTransformer:
    """wordllama's table as a static embedding: the mean of its token vectors is what the package computes."""
    tokenizer = Tokenizer.from_file(str(folder / WORDLLAMA_TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = load_file(folder / WORDLLAMA_WEIGHTS)["embedding.weight"].to(TORCH_DTYPES[dtype])
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu")


def _describe(
    spec: ModelSpec, dtype: DType, location: Location, contents: Mapping[str, str], sides: Sides
) -> StagedModel:
    module = sides.document
    dim = _dim(spec, module)
    max_tokens = _token_limit(spec, module)
    document_prompt = _prompt(spec.document_prompt, module, ("document", "passage", "corpus"))
    query_prompt = _prompt(spec.query_prompt, module, ("query",))
    return StagedModel(
        spec=spec,
        module=module,
        dtype=dtype,
        dim=dim,
        max_tokens=max_tokens,
        document_prompt=document_prompt,
        query_prompt=query_prompt,
        matryoshka_dims=spec.matryoshka_dims,
        revision=location.revision,
        fingerprint=fingerprint(contents, document_prompt=document_prompt, max_tokens=max_tokens, dim=dim, dtype=dtype),
        weights_bytes=_weights_bytes(module),
        is_static=_is_static(module),
        sides=sides,
        query_max_tokens=_token_limit(spec, sides.query),
    )


def _dim(spec: ModelSpec, module: SentenceTransformer) -> int:
    dim: int | None = module.get_embedding_dimension()
    if dim is None:
        raise ModelLoadError(f"{spec.name} does not say how long its vectors are: add Pooling to its modules.json")
    require_dims(spec, dim)
    return dim


def _token_limit(spec: ModelSpec, module: SentenceTransformer) -> int | None:
    """The smallest of the spec's limit, the pipeline's own, and the positions that the model has."""
    if _is_static(module):
        return static_token_limit(spec, _static_limits.get(module))
    positions = _positions(module)
    require_positions(spec, positions)
    limits = [limit for limit in (spec.max_tokens, module.max_seq_length, positions) if limit is not None]
    return int(min(limits)) if limits and math.isfinite(min(limits)) else None


def _positions(module: SentenceTransformer) -> int | None:
    """How many tokens the model can tell the place of; None where it does not say.

    The RoBERTa family begins to count after its padding index, so two of its positions are never used.
    """
    network = module.transformers_model
    if network is None:
        return None
    for part in network.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            first = getattr(part, "padding_idx", None)
            return table.num_embeddings - (first + 1 if isinstance(first, int) else 0)
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _prompt(given: str | None, module: SentenceTransformer, names: tuple[str, ...]) -> str:
    """The spec's prompt, else the one that encode_document or encode_query of sentence-transformers takes."""
    if given is not None:
        return given
    own: dict[str, str] = module.prompts
    name = next((name for name in names if name in own), module.default_prompt_name)
    return own.get(name, "") if name is not None else ""


def _weights_bytes(module: SentenceTransformer) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _is_static(module: SentenceTransformer) -> bool:
    return isinstance(module[0], StaticEmbedding)


def _require_right_weights(spec: ModelSpec, module: SentenceTransformer | None, reports: list[LoadReport]) -> None:
    for report in reports:
        found = complaint(report, uses_pooler=module is not None and _uses_pooler(module))
        if found is not None:
            raise ModelLoadError(f"{spec.name} cannot be loaded from {spec.source}: {found}")


def _uses_pooler(module: SentenceTransformer) -> bool:
    """Whether a pipeline reads what the network's own pooler gives, which most pipelines leave aside."""
    found = [part.modality_config for part in module.modules() if isinstance(part, Transformer)]
    return any("pooler_output" in str(way["method_output_name"]) for config in found for way in config.values())


def _explain(spec: ModelSpec, exc: BaseException) -> str:
    what = f"{spec.name} cannot be loaded from {spec.source}"
    table = f'[models."{spec.name}"]'
    if "trust_remote_code" in str(exc):
        return (
            f"{what}: it runs code of its own, read that code and set trust_remote_code = true under {table} in the "
            "catalogue"
        )
    if isinstance(exc, StrictDataclassError):  # a field of the configuration; its cause says which
        return f"{what} ({_first_sentence(exc.__cause__ or exc)}): correct that value in {_network_config(spec)}"
    if isinstance(exc, LocalEntryNotFoundError):
        hub = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return f"{what} (it is not on this machine, and {hub}): name its folder as source under {table} in a catalogue"
    return (
        f"{what} ({_first_sentence(exc)}): attach complete weights and name their folder as source under {table} in a "
        "catalogue"
    )


def _network_config(spec: ModelSpec) -> Path | str:
    """The file that a network's configuration was read from, or the name that it has in every model."""
    folder = find_settings(spec)
    return (network_config(folder) if folder is not None else None) or "its config.json"


def _first_sentence(exc: BaseException) -> str:
    if str(exc).startswith("Error(s) in loading state_dict for "):  # of a module beside the network: keys follow below
        first, *others = (line.strip() for line in str(exc).splitlines())
        return f"its {first.removeprefix('Error(s) in loading state_dict for ')} {' '.join(others)}".rstrip(". ")
    line = next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
    return line.split(". ")[0].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings on stderr while a model loads: soloist reports with events."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    with _quieting:
        switches = transformers_logging.is_progress_bar_enabled(), [logger.level for logger in loggers]
        _before_quiet.append(_before_quiet[0] if _before_quiet else switches)
        transformers_logging.disable_progress_bar()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _quieting:
            bars, levels = _before_quiet.pop()
            if not _before_quiet:  # the last of those who are at work
                for logger, level in zip(loggers, levels, strict=True):
                    logger.setLevel(level)
                if bars:
                    transformers_logging.enable_progress_bar()
