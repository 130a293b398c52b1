"""Staging: a spec in, a model in host memory out. The one module of this package that imports torch.

Knows how sentence-transformers loads, and hides it. Knows nothing of devices: what is staged here is on the CPU, in
evaluation mode, and mapped from its files where their dtype is the asked one (measured: 489 MB of float32 weights
add 3 MB to the process; another dtype is a copy). Never runs a pickle, and runs a model's own code only where its
spec says `trust_remote_code`.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers import __version__ as ST_VERSION  # noqa: N812
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers import __version__ as TRANSFORMERS_VERSION  # noqa: N812

from soloist.errors import ModelLoadError
from soloist.models.dtype import family_overflows_float16
from soloist.models.fingerprint import content_digests, fingerprint
from soloist.models.limits import OwnLimits, limit_notices, own_limits, padding_notices, places, token_limit
from soloist.models.load_warnings import heard, quiet
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
from soloist.models.module_list import trust_text
from soloist.models.own_settings import read_pipeline, similarity_of
from soloist.models.pipeline import Task
from soloist.models.prompts import choose_prompts
from soloist.models.refusals import require_dense_encoder
from soloist.models.remote_code import fetch_remote_code
from soloist.models.settings import require_dims, require_own_settings, static_token_limit
from soloist.models.sides import Sides, sides_of
from soloist.models.spec import ModelSpec
from soloist.models.weights_check import LoadReport, complaint, fault_in_pickles, observed_loads
from soloist.types import DType, Similarity

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

# What networks call a table of places.
_TABLES_OF_PLACES = ("position_embeddings", "embed_positions", "wpe")
# What transformers, tokenizers, safetensors and a model's own code raise when files are missing, damaged or foreign.
_LOAD_FAILURES = (
    OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, AttributeError, ArithmeticError,
    AssertionError, SafetensorError, StrictDataclassError, UnpicklingError,
)  # fmt: skip

_shared_sides: weakref.WeakValueDictionary[str, Sides] = weakref.WeakValueDictionary()
# transformers keeps the dtype of a load in globals, so loads take turns; downloads, which may hang, do not.
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class _AtLoad:
    """What only the load itself shows of a module: the limits before staging set its own, and what libraries said."""

    limits: OwnLimits
    warnings: tuple[str, ...]


# Kept with the modules, for all who share them.
_at_load: weakref.WeakKeyDictionary[SentenceTransformer, _AtLoad] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagedModel:
    """A model in host memory, ready to be copied to a device.

    `module` is shared by all that stage the same weights: leave it as it is, and on the CPU. `max_tokens` includes
    special tokens and the prompt, and is None for models that read everything, as most static ones do;
    `query_max_tokens` is that of queries. `counts_places` where the network has a table of places, which padding at the
    left would shift. `similarity` is what the model was trained to be compared by, and `has_unit_vectors` where its own
    vectors have length 1. `weights_bytes` counts parameters and buffers once, in `dtype`. `revision` is the hub commit,
    where known. `sides` has the pipeline of queries too, which is another where the model has routes. `notices` are
    what a user should know of how the model's files were followed.
    """

    spec: ModelSpec
    module: SentenceTransformer
    dtype: DType
    dim: int
    max_tokens: int | None
    query_max_tokens: int | None
    counts_places: bool
    keeps_end: bool
    document_prompt: str
    query_prompt: str
    similarity: Similarity
    has_unit_vectors: bool
    matryoshka_dims: tuple[int, ...]
    revision: str | None
    fingerprint: str
    weights_bytes: int
    is_static: bool
    sides: Sides
    notices: tuple[str, ...]

    def for_queries(self) -> StagedModel:
        """The same model for questions, which have a prompt, a limit and, with routes, a pipeline of their own."""
        return replace(
            self,
            module=self.sides.query,
            document_prompt=self.query_prompt,
            max_tokens=self.query_max_tokens,
            counts_places=_counts_places(self.sides.query),
            keeps_end=_at_load[self.sides.query].limits.keeps_end,
            weights_bytes=_weights_bytes(self.sides.query),
            is_static=_is_static(self.sides.query),
        )


def stage(spec: ModelSpec, dtype: DType) -> StagedModel:
    """Load a model straight into host memory, or share the one that is already there.

    Raises:
        ModelLoadError: the weights are missing, damaged, incomplete, or not those that the spec describes.
        ConfigError: the spec asks for more tokens or dimensions than the model has.
    """
    with quiet():
        try:
            location = locate(spec)
            require_dense_encoder(spec, location.folder)
            _require_plain_weights(spec, location.folder)
            if spec.trust_remote_code and spec.loader != "wordllama":
                fetch_remote_code(location.folder)
            require_own_settings(spec, location.folder)
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
    with quiet():
        try:
            folder = locate(spec).folder
            require_dense_encoder(spec, folder)
            return family_overflows_float16(network_type(folder))
        except _LOAD_FAILURES as exc:
            raise ModelLoadError(_explain(spec, exc)) from exc


def _share(spec: ModelSpec, dtype: DType, location: Location, contents: Mapping[str, str]) -> Sides:
    """One module of a side per content, pipeline settings, dtype and limit, for as long as anyone holds it."""
    key = fingerprint(
        contents,
        pipeline=read_pipeline(location.folder),
        dtype=dtype,
        code=spec.trust_remote_code,
        max_tokens=spec.max_tokens,
    )
    sides = _shared_sides.get(key)
    if sides is None:
        load = _load_wordllama if spec.loader == "wordllama" else _load_pipeline
        with heard() as said:
            whole = load(spec, dtype, location.folder).eval().requires_grad_(False)
        # The card refers back to the module; without that cycle the last holder's end frees the weights at once.
        whole.model_card_data.model = None
        sides = sides_of(spec.name, whole, TORCH_DTYPES[dtype])
        for module in sides.distinct():
            module.model_card_data.model = None
            _set_limit(spec, module, tuple(said))
        _shared_sides[key] = sides
    return sides


def _set_limit(spec: ModelSpec, module: SentenceTransformer, warnings: tuple[str, ...]) -> None:
    if _is_static(module):
        _at_load[module] = _AtLoad(limits=_static_limits(module), warnings=warnings)
        return
    limits = _own_limits(spec, module)
    _at_load[module] = _AtLoad(limits=limits, warnings=warnings)
    longest = token_limit(spec, "document", OwnLimits(longest=limits.longest), _places(module))
    module.max_seq_length = longest or module.max_seq_length


def _static_limits(module: SentenceTransformer) -> OwnLimits:
    """A static model's tokenizer may cut texts in silence: lift its limit, for the encoder to cut and count by."""
    if module.tokenizer.truncation is None:
        return OwnLimits()
    cut = module.tokenizer.truncation
    own = OwnLimits(longest=int(cut["max_length"]), keeps_end=cut["direction"] == "left")
    module.tokenizer.no_truncation()
    return own


def _own_limits(spec: ModelSpec, module: SentenceTransformer) -> OwnLimits:
    first = module[0]
    settings = {name: getattr(first, name, None) for name in ("processing_kwargs", "document_length", "query_length")}
    return own_limits(spec.name, module.max_seq_length, settings)


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


def _require_plain_weights(spec: ModelSpec, folder: Path) -> None:
    found = fault_in_pickles(weight_files(folder)) if spec.loader != "wordllama" else None
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
    own, known = read_pipeline(location.folder), _at_load[module]
    prompts = choose_prompts(spec, own)
    max_tokens = _token_limit(spec, module, "document")
    return StagedModel(
        spec=spec,
        module=module,
        dtype=dtype,
        dim=dim,
        max_tokens=max_tokens,
        query_max_tokens=_token_limit(spec, sides.query, "query"),
        counts_places=_counts_places(module),
        keeps_end=known.limits.keeps_end,
        document_prompt=prompts.document,
        query_prompt=prompts.query,
        similarity=similarity_of(own),
        has_unit_vectors=_has_unit_vectors(module),
        matryoshka_dims=spec.matryoshka_dims,
        revision=location.revision,
        fingerprint=fingerprint(
            contents, document_prompt=prompts.document, max_tokens=max_tokens, dim=dim, dtype=dtype
        ),
        weights_bytes=_weights_bytes(module),
        is_static=_is_static(module),
        sides=sides,
        notices=(*known.warnings, *prompts.notices, *_limit_notices(spec, module)),
    )


def _dim(spec: ModelSpec, module: SentenceTransformer) -> int:
    dim: int | None = module.get_embedding_dimension()
    if dim is None:
        raise ModelLoadError(
            f"{spec.name} does not say what dimension its vectors have: add a Pooling module to its modules.json"
        )
    require_dims(spec, dim)
    return dim


def _token_limit(spec: ModelSpec, module: SentenceTransformer, task: Task) -> int | None:
    own = _at_load[module].limits
    if _is_static(module):
        return static_token_limit(spec, own.longest)
    return token_limit(spec, task, own, _places(module))


def _limit_notices(spec: ModelSpec, module: SentenceTransformer) -> tuple[str, ...]:
    network = module.transformers_model
    if network is None:
        return ()
    config = network.config.get_text_config().to_dict()
    side = getattr(module.tokenizer, "padding_side", "right")
    return (*limit_notices(spec, _at_load[module].limits, config), *padding_notices(side, config))


def _places(module: SentenceTransformer) -> int | None:
    """How many tokens the network can tell the place of; None where there is no end to it."""
    network = module.transformers_model
    if network is None:
        return None
    config = network.config.get_text_config()
    return places(config.to_dict()) if config.model_type in CONFIG_MAPPING else _rows_of_a_table(network)


def _counts_places(module: SentenceTransformer) -> bool:
    return not _is_static(module) and _places(module) is not None


def _rows_of_a_table(network: PreTrainedModel) -> int | None:
    """Of a network whose code comes with the model: how many places its table has, where it has one.

    The RoBERTa family begins to count after its padding index, so two of its positions are never used.
    """
    for part in network.modules():
        for name in _TABLES_OF_PLACES:
            table = getattr(part, name, None)
            if isinstance(table, torch.nn.Embedding):
                first = getattr(part, "padding_idx", None)
                return table.num_embeddings - (first + 1 if isinstance(first, int) else 0)
    return None


def _has_unit_vectors(module: SentenceTransformer) -> bool:
    """Whether the last thing that the model does with a vector is to give it length 1."""
    last = module[-1]
    return isinstance(last, Normalize) and last.module_output_name == "sentence_embedding" and not module.truncate_dim


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
        return f"{what}: {trust_text(spec.name)}"
    if isinstance(exc, StrictDataclassError):  # a field of the configuration; its cause says which
        return f"{what} ({_first_sentence(exc.__cause__ or exc)}): correct that value in {_network_config(spec)}"
    if isinstance(exc, ImportError) and "sentence_transformers" in str(exc):
        return f"{what} ({_first_sentence(exc)}): install a version of sentence-transformers that has that module"
    if isinstance(exc, (ImportError, ValueError)) and (lacking := _lacking_package(str(exc))):
        return (
            f"{what} ({_first_sentence(exc)}): install {lacking}, or take the setting that asks for it out of its "
            "config.json or its sentence_bert_config.json"
        )
    if isinstance(exc, LocalEntryNotFoundError):
        hub = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return f"{what} (it is not on this machine, and {hub}): name its folder as source under {table} in a catalogue"
    if Path(spec.source).is_dir() and not isinstance(exc, (OSError, SafetensorError)):
        return (
            f"{what} ({_first_sentence(exc)}): its files do not fit the installed sentence-transformers {ST_VERSION} "
            f"and transformers {TRANSFORMERS_VERSION}, correct them or get the model again"
        )
    return (
        f"{what} ({_first_sentence(exc)}): attach complete weights and name their folder as source under {table} in a "
        "catalogue"
    )


def _lacking_package(message: str) -> str | None:
    """The package that a library's message asks for, by what it says to install."""
    if "FlashAttention" in message:
        return "flash-attn"
    found = re.search(r"pip install (?:-U |--upgrade )?[\"'`]?([A-Za-z][\w.-]*)", message)
    return found[1].rstrip(".") if found is not None else None


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
