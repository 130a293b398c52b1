"""Cross-encoders: a spec in, a network in host memory out that scores a question with a chunk.

A cross-encoder is loaded by sentence-transformers, and its scores are those of `CrossEncoder.predict`: its own prompt,
limit and activation function. It becomes a staged model whose "vector" has one number, so that all that holds of a
pass of a model holds of it: replicas, batches, halves where memory is short.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from soloist.errors import ModelLoadError
from soloist.models.cross_encoder_folders import CHOOSE_CROSS, require_cross_encoder
from soloist.models.limits import NO_LIMIT, OwnLimits, token_limit
from soloist.models.load_failures import LOAD_FAILURES, load_failure_text
from soloist.models.load_warnings import heard, quiet
from soloist.models.loading import LOADING, TORCH_DTYPES, StagedModel, require_plain_weights
from soloist.models.location import Location, locate
from soloist.models.module_facts import counts_positions, positions_of, weights_bytes
from soloist.models.remote_code import fetch_remote_code
from soloist.models.sides import Sides
from soloist.models.spec import ModelSpec
from soloist.models.weights_check import complaint, observed_loads
from soloist.types import DType

_MARKER = "config.json"  # most cross-encoders have no modules.json


class ScoreHead(torch.nn.Module):
    """The last module of the pipeline: scores through the model's activation function, in float32.

    `predict` of sentence-transformers also goes to float32 first, which tells more scores apart.
    """

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add the scores as `sentence_embedding`, (rows, 1)."""
        features["sentence_embedding"] = self.activation(features["scores"].float()).reshape(-1, 1)
        return features


def stage_cross_encoder(spec: ModelSpec, dtype: DType) -> StagedModel:
    """Load a cross-encoder into host memory.

    Raises:
        ModelLoadError: it is not a cross-encoder with one score for a pair, or its files are missing or damaged.
        ConfigError: the spec asks for more tokens than the model has.
    """
    with quiet():
        try:
            location = locate(spec, _MARKER)
            require_cross_encoder(spec, location.folder)
            require_plain_weights(spec, location.folder)
            if spec.trust_remote_code:
                fetch_remote_code(location.folder)
            with LOADING, heard() as said:
                encoder = _load(spec, dtype, location.folder)
        except LOAD_FAILURES as exc:
            raise ModelLoadError(load_failure_text(spec, exc)) from exc
    _require_one_score(spec, encoder)
    return _described(spec, dtype, location, encoder, tuple(said))


def _load(spec: ModelSpec, dtype: DType, folder: Path) -> CrossEncoder:
    with observed_loads() as reports:
        try:
            encoder = CrossEncoder(
                str(folder),
                device="cpu",
                local_files_only=not spec.trust_remote_code,
                trust_remote_code=spec.trust_remote_code,
                model_kwargs={"dtype": TORCH_DTYPES[dtype], "weights_only": True},
            )
        finally:
            for report in reports:
                fault = complaint(report, uses_pooler=True)
                if fault is not None:
                    raise ModelLoadError(f"{spec.name} cannot be loaded from {spec.source}: {fault}")
    # The card refers back to the module. Without that cycle the weights are freed with the last reference.
    encoder.model_card_data.model = None
    return encoder.eval().requires_grad_(False)


def _require_one_score(spec: ModelSpec, encoder: CrossEncoder) -> None:
    if encoder.num_labels != 1:
        raise ModelLoadError(
            f"{spec.name} cannot rerank, because it gives {encoder.num_labels} scores for a pair (num_labels), and a "
            f"ranking needs one; {CHOOSE_CROSS}"
        )


def _described(
    spec: ModelSpec, dtype: DType, location: Location, encoder: CrossEncoder, warnings: tuple[str, ...]
) -> StagedModel:
    prompt = encoder.prompts.get(encoder.default_prompt_name) if encoder.default_prompt_name else None
    module = SentenceTransformer(modules=[*encoder, ScoreHead(encoder.activation_fn)], device="cpu").eval()
    module.model_card_data.model = None
    max_tokens = _limited(spec, module)
    return StagedModel(
        spec=spec,
        kind="score",
        module=module,
        dtype=dtype,
        dim=1,
        max_tokens=max_tokens,
        query_max_tokens=max_tokens,
        counts_positions=counts_positions(module),
        keeps_end=False,
        document_prompt=prompt or "",
        query_prompt="",
        most_active=None,
        query_most_active=None,
        similarity="dot",
        has_unit_vectors=False,
        matryoshka_dims=(),
        revision=location.revision,
        fingerprint="",  # no file keeps its scores
        weights_bytes=weights_bytes(module),
        is_static=False,
        matmul="torch",
        sides=Sides(document=module, query=module),
        notices=warnings,
    )


def _limited(spec: ModelSpec, module: SentenceTransformer) -> int | None:
    """Set the limit of a question and a chunk together, and give it: that of sentence-transformers, or less.

    Its own limit may be beyond the network's positions, where a long pair would end in an error.
    """
    own = module.max_seq_length
    longest = own if own is not None and own < NO_LIMIT else None
    limit = token_limit(spec, "document", OwnLimits(longest=longest), positions_of(module))
    if limit is not None and limit != own:
        module.max_seq_length = limit
    return limit
