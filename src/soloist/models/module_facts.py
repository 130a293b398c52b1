"""What a loaded pipeline shows of itself. Knows sentence-transformers' modules and networks; loads nothing."""

from __future__ import annotations

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from transformers import CONFIG_MAPPING, PreTrainedModel

from soloist.models.limits import OwnLimits, usable_positions
from soloist.models.prepacked import packed_bytes
from soloist.models.token_weights import TokenWeights

# What networks call a table of positions.
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
_BARE = {StaticEmbedding, Normalize}


def positions_of(module: SentenceTransformer) -> int | None:
    """How many positions the network has for tokens; None where there is no limit."""
    network = module.transformers_model
    if network is None:
        return None
    config = network.config.get_text_config()
    return usable_positions(config.to_dict()) if config.model_type in CONFIG_MAPPING else _rows_of_a_table(network)


def counts_positions(module: SentenceTransformer) -> bool:
    """Whether the network has a number of positions, which padding on the left would shift."""
    return not is_static(module) and positions_of(module) is not None


def _rows_of_a_table(network: PreTrainedModel) -> int | None:
    """The positions of a network whose code comes with the model; None where it has no table of them.

    The RoBERTa family counts from behind its padding index, so two of its positions are never used.
    """
    for part in network.modules():
        for name in _POSITION_TABLES:
            table = getattr(part, name, None)
            if isinstance(table, torch.nn.Embedding):
                first = getattr(part, "padding_idx", None)
                return table.num_embeddings - (first + 1 if isinstance(first, int) else 0)
    return None


def is_sparse(module: SentenceTransformer) -> bool:
    """Whether the pipeline gives every word of a vocabulary a weight."""
    return any(isinstance(part, (SparseStaticEmbedding, SpladePooling)) for part in module)


def width_of(module: SentenceTransformer) -> int | None:
    """The dimensions of a pipeline's vectors; None where no module says it.

    SpladePooling knows its own only after a pass. They are the words that its network predicts.
    """
    if any(isinstance(part, SpladePooling) for part in module) and module.transformers_model is not None:
        words: int = module.transformers_model.config.get_text_config().vocab_size
        return words
    last = module[-1]
    if isinstance(last, TokenWeights):
        return last.width
    width: int | None = module.get_embedding_dimension()
    return width


def has_special_tokens(module: SentenceTransformer) -> bool:
    """Whether a pipeline's tokenizer adds special tokens to a text, if it has any."""
    return not isinstance(module[0], SparseStaticEmbedding)


def has_unit_vectors(module: SentenceTransformer) -> bool:
    """Whether the last module of a pipeline gives vectors length 1."""
    last = module[-1]
    return isinstance(last, Normalize) and last.module_output_name == "sentence_embedding" and not module.truncate_dim


def weights_bytes(module: SentenceTransformer) -> int:
    """The bytes of all parameters, buffers and packed weights, each counted once."""
    plain: int = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    return plain + packed_bytes(module)


def is_static(module: SentenceTransformer) -> bool:
    """Whether the pipeline is a table of token vectors, without a network."""
    return isinstance(module[0], StaticEmbedding)


def is_bare_table(module: SentenceTransformer) -> bool:
    """Whether the pipeline is a table of token vectors and nothing that multiplies or brings code of its own."""
    return isinstance(module[0], StaticEmbedding) and all(type(part) in _BARE for part in module)


def uses_pooler(module: SentenceTransformer) -> bool:
    """Whether a pipeline reads the output of the network's own pooler. Most pipelines do not."""
    configs = [part.modality_config for part in module.modules() if isinstance(part, Transformer)]
    return any("pooler_output" in str(way["method_output_name"]) for config in configs for way in config.values())


def lift_static_limit(module: SentenceTransformer) -> OwnLimits:
    """The limit of a static model's tokenizer, which is lifted: it cuts in silence, and the encoder cuts and counts."""
    if module.tokenizer.truncation is None:
        return OwnLimits()
    cut = module.tokenizer.truncation
    own = OwnLimits(longest=int(cut["max_length"]), keeps_end=cut["direction"] == "left")
    module.tokenizer.no_truncation()
    return own
