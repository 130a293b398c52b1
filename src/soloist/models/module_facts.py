"""What a loaded pipeline shows of itself. Knows sentence-transformers' modules by their names, and networks.

It loads nothing, and does not import sentence-transformers: a table of vectors does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from soloist.models.limits import OwnLimits, usable_positions
from soloist.models.prepacked import packed_bytes
from soloist.models.token_table import TokenTable, UnitRows
from soloist.models.token_weights import TokenWeights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

# What networks call a table of positions.
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
_LIBRARY = "sentence_transformers."


def is_a(part: torch.nn.Module, *names: str) -> bool:
    """Whether a module is of one of these classes of sentence-transformers, or of a class that is made from one."""
    return any(kind.__name__ in names and kind.__module__.startswith(_LIBRARY) for kind in type(part).__mro__)


def positions_of(module: SentenceTransformer) -> int | None:
    """How many positions the network has for tokens; None where there is no limit."""
    network = module.transformers_model
    if network is None:
        return None
    from transformers import CONFIG_MAPPING  # which has loaded the network

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
    return any(is_a(part, "SparseStaticEmbedding", "SpladePooling") for part in module)


def width_of(module: SentenceTransformer) -> int | None:
    """The dimensions of a pipeline's vectors; None where no module says it.

    SpladePooling knows its own only after a pass. They are the words that its network predicts.
    """
    if any(is_a(part, "SpladePooling") for part in module) and module.transformers_model is not None:
        words: int = module.transformers_model.config.get_text_config().vocab_size
        return words
    last = module[-1]
    if isinstance(last, TokenWeights):
        return last.width
    width: int | None = module.get_embedding_dimension()
    return width


def has_special_tokens(module: SentenceTransformer) -> bool:
    """Whether a pipeline's tokenizer adds special tokens to a text, if it has any."""
    return not is_a(module[0], "SparseStaticEmbedding")


def has_unit_vectors(module: SentenceTransformer) -> bool:
    """Whether the last module of a pipeline gives vectors length 1."""
    last = module[-1]
    if isinstance(last, UnitRows):
        return True
    is_norm = is_a(last, "Normalize") and last.module_output_name == "sentence_embedding"
    return is_norm and not module.truncate_dim


def weights_bytes(module: SentenceTransformer) -> int:
    """The bytes of all parameters, buffers and packed weights, each counted once."""
    plain: int = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    return plain + packed_bytes(module)


def is_static(module: SentenceTransformer) -> bool:
    """Whether the pipeline is a table of token vectors, without a network."""
    return is_table(module[0])


def is_table(part: torch.nn.Module) -> bool:
    """Whether a module is a table of token vectors."""
    return isinstance(part, TokenTable) or is_a(part, "StaticEmbedding")


def is_bare_table(module: SentenceTransformer) -> bool:
    """Whether the pipeline is a table of token vectors and nothing that multiplies or brings code of its own."""
    return is_static(module) and all(_is_bare(part) for part in module)


def _is_bare(part: torch.nn.Module) -> bool:
    if isinstance(part, (TokenTable, UnitRows)):
        return True
    kind = type(part)  # not one that is made from it, which may compute anything
    return kind.__name__ in ("StaticEmbedding", "Normalize") and kind.__module__.startswith(_LIBRARY)


def uses_pooler(module: SentenceTransformer) -> bool:
    """Whether a pipeline reads the output of the network's own pooler. Most pipelines do not."""
    configs = [part.modality_config for part in module.modules() if is_a(part, "Transformer")]
    return any("pooler_output" in str(way["method_output_name"]) for config in configs for way in config.values())


def lift_static_limit(module: SentenceTransformer) -> OwnLimits:
    """The limit of a static model's tokenizer, which is lifted: it cuts in silence, and the encoder cuts and counts."""
    if module.tokenizer.truncation is None:
        return OwnLimits()
    cut = module.tokenizer.truncation
    own = OwnLimits(longest=int(cut["max_length"]), keeps_end=cut["direction"] == "left")
    module.tokenizer.no_truncation()
    return own
