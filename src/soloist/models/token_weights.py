"""The lexical weights of a text by a network such as bge-m3's: a weight for each token, and the largest of each kept.

A folder that has them has a small linear layer beside its network, in `sparse_linear.pt`. The arithmetic is the one
that FlagEmbedding publishes: relu(linear(hidden state)) for each token, the largest weight of every token of the
vocabulary, and none for the special tokens. Knows torch; loads no network.

The multi-vector output of such a network would be a module beside this one. It reads the same hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from soloist.errors import ModelLoadError
from soloist.models.sparse_folders import TOKEN_WEIGHTS_FILE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SPECIAL = ("cls_token_id", "eos_token_id", "pad_token_id", "unk_token_id")


class TokenWeights(nn.Module):
    """Hidden states of tokens to one vector over the vocabulary for each text, in `sentence_embedding`.

    `words` is the size of the vocabulary, and the tokens in `special` get no weight. With `beside`, the vector is put
    behind the first `beside` numbers of the text's dense vector: (rows, beside + words).
    """

    def __init__(self, width: int, words: int, special: Sequence[int] = (), beside: int | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.words = words
        self.special = tuple(special)
        self.beside = beside

    @property
    def width(self) -> int:
        """How many numbers a text has."""
        return self.words + (self.beside or 0)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """`token_embeddings` is (rows, length, width), or (1, tokens, width) of rows without padding."""
        rows, row_of = _rows(features)
        weights = torch.relu(self._of_each_token(features["token_embeddings"])).reshape(-1)
        places = (row_of * self.words + features["input_ids"]).reshape(-1)
        found = weights.new_zeros(rows * self.words).scatter_reduce_(0, places, weights, "amax").view(rows, -1)
        for token in self.special:
            found[:, token] = 0
        if self.beside is not None:  # behind the pooling a row may come again, at the end
            found = torch.cat([features["sentence_embedding"][:rows, : self.beside].float(), found], dim=1)
        features["sentence_embedding"] = found
        return features

    def _of_each_token(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., width) to (...), float32.

        A product with one column would go through another kernel for other numbers of tokens, with other last bits.
        """
        return (hidden * self.linear.weight[0]).sum(-1, dtype=torch.float32) + self.linear.bias.float()


def with_token_weights(
    name: str, folder: Path, whole: SentenceTransformer, dtype: torch.dtype, beside: int | None = None
) -> SentenceTransformer:
    """The network of a model's pipeline, and the weights of its tokens behind it. The two pipelines share the network.

    With `beside`, the whole pipeline stays, and the weights stand behind so many numbers of its vectors. The file of
    the weights has only tensors, which was checked.

    Raises:
        ModelLoadError: the file has other tensors than the layer of this network.
    """
    from sentence_transformers import SentenceTransformer  # which has loaded the network

    network = whole.transformers_model
    assert network is not None
    config = network.config.get_text_config()
    weights = TokenWeights(config.hidden_size, config.vocab_size, _special_tokens(whole.tokenizer), beside)
    _read(name, folder / TOKEN_WEIGHTS_FILE, weights.linear)
    parts = [whole[0], weights] if beside is None else [*whole, weights]
    return SentenceTransformer(
        modules=[*parts[:-1], weights.to(dtype).requires_grad_(False)],
        device="cpu",
        prompts=whole.prompts,
        default_prompt_name=whole.default_prompt_name,
    ).eval()


def _read(name: str, path: Path, linear: nn.Linear) -> None:
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    given = tensors if isinstance(tensors, Mapping) else {}
    found = {key: tensor.shape for key, tensor in given.items() if isinstance(tensor, torch.Tensor)}
    wanted = {key: tensor.shape for key, tensor in linear.state_dict().items()}
    if found != wanted:
        raise ModelLoadError(
            f"{name} cannot be loaded: {path} has {_shapes(found)}, but the layer behind this network has "
            f"{_shapes(wanted)}: get the network and that file from one source"
        )
    linear.load_state_dict(given)


def _special_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that get no weight: those for a text's beginning, its end, padding and unknown words."""
    ids = (getattr(tokenizer, name, None) for name in _SPECIAL)
    return tuple(dict.fromkeys(token for token in ids if isinstance(token, int)))


def _rows(features: Mapping[str, Any]) -> tuple[int, torch.Tensor]:
    """The number of rows, and the row of each token, in the shape of the tokens or one that fits to it."""
    if "seq_idx" in features:  # rows without padding, one behind the other
        return len(features["cu_seq_lens_q"]) - 1, features["seq_idx"]
    ids = features["input_ids"]
    return len(ids), torch.arange(len(ids), device=ids.device)[:, None]


def _shapes(tensors: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(tensors.items())) or "no tensors"
