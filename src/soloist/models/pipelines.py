"""Pipelines as sentence-transformers loads them from a folder. The only module of staging that imports it.

Its import takes seconds, so `loading` imports this module for the models that need it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder

from soloist.errors import ModelLoadError
from soloist.models.module_facts import uses_pooler
from soloist.models.sparse_folders import kind_of_folder
from soloist.models.spec import ModelSpec
from soloist.models.weights_check import LoadReport, complaint, observed_loads


def load_pipeline(spec: ModelSpec, dtype: torch.dtype, folder: Path) -> SentenceTransformer:
    """The pipeline of a folder, with weights of this dtype.

    Raises:
        ModelLoadError: the weights are not those of the network that the folder describes.
        Exception: what the libraries raise where files are missing, damaged or foreign.
    """
    kind = SparseEncoder if kind_of_folder(folder) == "sparse" else SentenceTransformer
    module = None
    with observed_loads() as reports:
        try:
            module = kind(
                str(folder),
                device="cpu",
                # Code that a model is trusted to run may be in another repository than its weights.
                local_files_only=not spec.trust_remote_code,
                trust_remote_code=spec.trust_remote_code,
                model_kwargs={"dtype": dtype, "weights_only": True},
            )
        finally:
            _require_right_weights(spec, module, reports)  # its message says more than an error that follows
    if isinstance(module, SparseEncoder):
        module = _as_pipeline(module)
    # transformers keeps some buffers, such as rotary frequencies, in float32 on purpose: not where it loaded the model.
    return module if module.transformers_model is not None else module.to(dtype)


def _as_pipeline(encoder: SparseEncoder) -> SentenceTransformer:
    """The modules of a sparse encoder in the class that all else is written for. They compute the same."""
    return SentenceTransformer(
        modules=list(encoder),
        device="cpu",
        prompts=encoder.prompts,
        default_prompt_name=encoder.default_prompt_name,
    )


def _require_right_weights(spec: ModelSpec, module: SentenceTransformer | None, reports: list[LoadReport]) -> None:
    for report in reports:
        fault = complaint(report, uses_pooler=module is not None and uses_pooler(module))
        if fault is not None:
            raise ModelLoadError(f"{spec.name} cannot be loaded from {spec.source}: {fault}")
