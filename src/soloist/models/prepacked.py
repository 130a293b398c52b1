"""Linear layers of a network with weights that oneDNN has packed once, for the host's processor.

Knows torch's operators, and no network by name. torch multiplies float32 through MKL or OpenBLAS, and copies the bias
into every output first. oneDNN, in the same torch, is up to 2.4 times as fast on AMD processors, adds the bias as it
goes, and applies an activation before a value leaves the core. In bfloat16 torch uses oneDNN too, but packs the weights
again for every call.

One forward pass shows which layers share their input and which feed an activation. Where the vectors after the swap
are not those before it, the layers are put back.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Batches of one, two and three rows, short and long: a network may look at either.
_PROBE = (
    ["a short text"],
    ["which of the layers share an input, and which of them feed an activation?", "a short text"],
    ["one " * 70, "two", "and three"],
)
# How far a component may be from the one before the swap, as a share of the largest: by rounding, and no further. A
# layer that is not what it was moves components by their own size. Measured: 7e-7 and 1e-2.
_NEAR = {torch.float32: 1e-4, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation as oneDNN calls it."""

    name: Literal["none", "gelu", "swish"] = "none"
    algorithm: str = "none"


_NO_ACTIVATION = Activation()
# By the names of classes, since transformers has its own beside torch's. oneDNN's ReLU makes 0 of NaN, which would hide
# an overflow.
_ACTIVATIONS = {
    "GELUActivation": Activation("gelu", "none"),
    "NewGELUActivation": Activation("gelu", "tanh"),
    "GELUTanh": Activation("gelu", "tanh"),
    "GELU": Activation("gelu", "none"),
    "SiLU": Activation("swish"),
    "SiLUActivation": Activation("swish"),
}


class _PackedWeight:
    """Weights (out, in) in oneDNN's own layout, and their bias. Copies of a tree of modules share them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = bias.detach() if bias is not None else None

    def __deepcopy__(self, memo: dict[int, object]) -> _PackedWeight:
        return self

    def product(self, rows: torch.Tensor, activation: Activation) -> torch.Tensor:
        """(..., in) to (..., out), with the bias and the activation."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self.bias, activation.name, [], activation.algorithm
        )
        return out

    def plain(self) -> torch.Tensor:
        """The weights (out, in) as they were, bit for bit."""
        return self._packed.to_dense()


class _Product:
    """One product for the layers of a group. Each tree of modules has its own, because it holds what it computed."""

    def __init__(self, linears: Sequence[nn.Linear], activation: Activation) -> None:
        first, *others = linears
        weight = torch.cat([linear.weight for linear in linears]) if others else first.weight
        bias = torch.cat([linear.bias for linear in linears]) if others and first.bias is not None else first.bias
        self._weight = _PackedWeight(weight, bias)
        self._activation = activation
        self._heights = [linear.out_features for linear in linears]
        self._held: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def part(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        """What the layer of this index makes of the rows. The first layer that is asked computes for all."""
        if len(self._heights) == 1:
            return self._weight.product(rows, self._activation)
        held = self._held  # read once: two threads may use one tree
        if held is None or held[0] is not rows:
            held = (rows, self._weight.product(rows, self._activation).split_with_sizes(self._heights, dim=-1))
        self._held = held if index + 1 < len(self._heights) else None
        return held[1][index]

    def plain(self, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weight (out, in) and the bias of the layer of this index."""
        bias = self._weight.bias.split_with_sizes(self._heights)[index] if self._weight.bias is not None else None
        return self._weight.plain().split_with_sizes(self._heights)[index], bias


@dataclass(frozen=True, slots=True)
class _WeightFacts:
    """What a network may ask of weights that are not there: their dtype, shape and device. Whoever multiplies with
    them, or looks at their values, gets an AttributeError or a TypeError.
    """

    dtype: torch.dtype
    shape: torch.Size
    device: torch.device


class _Applied(nn.Module):
    """What stands in place of an activation that the product before it has applied."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows as they are."""
        return rows


class PackedLinear(nn.Module):
    """What stands in place of an `nn.Linear`."""

    def __init__(self, linear: nn.Linear, product: _Product, index: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype: torch.dtype = linear.weight.dtype
        self.has_bias = linear.bias is not None
        self._product, self._index = product, index

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        return self._product.part(rows, self._index)

    @property
    def weight(self) -> _WeightFacts:
        """The dtype, shape and device of the weights, for networks that ask for them."""
        return _WeightFacts(self.dtype, torch.Size((self.out_features, self.in_features)), torch.device("cpu"))

    @property
    def weight_bytes(self) -> int:
        """The bytes of weight and bias, without what oneDNN adds to odd shapes."""
        return (self.in_features + self.has_bias) * self.out_features * self.dtype.itemsize

    def linear(self) -> nn.Linear:
        """The layer as it was, with weights of its own."""
        weight, bias = self._product.plain(self._index)
        linear = empty_linear(self.in_features, self.out_features, self.dtype, bias=self.has_bias)
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
        return linear


def empty_linear(width: int, height: int, dtype: torch.dtype, *, bias: bool = True) -> nn.Linear:
    """A layer whose weights are whatever memory holds. Random ones would move torch's generator, which is not ours."""
    linear = nn.Linear(width, height, bias=bias, device="meta", dtype=dtype)
    return linear.to_empty(device="cpu").requires_grad_(False)


def packed_product(linear: nn.Linear, activation: nn.Module | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product of a layer, and of the activation behind it, with packed weights: (..., in) to (..., out).

    Raises:
        KeyError: oneDNN has no such activation.
    """
    known = _ACTIVATIONS[type(activation).__name__] if activation is not None else _NO_ACTIVATION
    product = _Product([linear], known)
    return lambda rows: product.part(rows, 0)


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this torch, on this processor, multiplies with packed weights of this dtype."""
    if dtype not in _NEAR or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        rows = torch.ones(2, 3, dtype=dtype)
        return packed_product(empty_linear(3, 1, dtype))(rows).shape == (2, 1)
    except (AttributeError, RuntimeError, NotImplementedError):  # another version of torch
        return False


def prepack(module: SentenceTransformer, *, in_bfloat16: bool = False) -> bool:
    """Pack the weights of a pipeline's linear layers, in place; False where the pipeline stays as it was.

    A product applies the activation behind it in float32. With `in_bfloat16` it does so in bfloat16 too, where
    torch's own activation is faster on some processors and slower on others. torch's reads rounded numbers.
    Call it before anybody else uses the pipeline. The plain weights are freed one layer after the other.
    """
    dtypes = _dtypes(module)
    if not dtypes or not all(map(can_prepack, dtypes)):
        return False
    with torch.no_grad():
        try:
            before, calls = _observed(module)
        except Exception:  # what a pipeline says to a plain text is told later, by its trial
            return False
        swaps = _swaps(calls, _tied(module), set(_NEAR) if in_bfloat16 else {torch.float32})
        calls.clear()  # they hold the plain weights
        while swaps:
            _put(module, swaps.pop())
        if is_packed(module) and not _is_near(module, before):
            plain_layers(module)
        return is_packed(module)


def plain_layers(module: nn.Module) -> tuple[nn.Linear, ...]:
    """Put plain layers, with weights of their own, in place of all packed ones of a tree; the new layers."""
    linears: dict[nn.Module, nn.Linear] = {}
    activations: dict[nn.Module, nn.Module] = {}
    for part in module.modules():
        if isinstance(part, PackedLinear):
            linears[part] = part.linear()
        elif isinstance(part, _Applied):
            activations[part] = part.activation
    _replace(module, {**activations, **linears})
    return tuple(linears.values())


def is_packed(module: nn.Module) -> bool:
    """Whether any layer of a tree has packed weights."""
    return any(isinstance(part, PackedLinear) for part in module.modules())


def packed_bytes(module: nn.Module) -> int:
    """The bytes of all packed weights of a tree, each counted once."""
    return sum(part.weight_bytes for part in module.modules() if isinstance(part, PackedLinear))


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A layer or an activation at work, with its input and its output."""

    part: nn.Module
    given: torch.Tensor
    made: torch.Tensor
    version: int  # of the input: it grows with each change in place


@dataclass(frozen=True, slots=True, eq=False)
class _Swap:
    """Layers that become one product, and the activation behind it."""

    linears: tuple[nn.Linear, ...]
    activation: nn.Module | None = None


def _observed(module: SentenceTransformer) -> tuple[list[torch.Tensor], list[_Call]]:
    """The vectors of the probe, and the calls of layers and activations in their order."""
    calls: list[_Call] = []

    def note(part: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        if len(given) == 1 and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor):
            calls.append(_Call(part, given[0], made, given[0]._version))

    with contextlib.ExitStack() as hooks:
        for part in module.modules():
            if _is_plain(part) or _as_onednn(part) is not None:
                hooks.callback(part.register_forward_hook(note).remove)
        return _vectors(module), calls


def _dtypes(module: nn.Module) -> set[torch.dtype]:
    """The dtypes of a pipeline's linear layers."""
    return {part.weight.dtype for part in module.modules() if _is_plain(part)}


def _vectors(module: SentenceTransformer) -> list[torch.Tensor]:
    return [module(module.preprocess(texts))["sentence_embedding"].float() for texts in _PROBE]


def _is_plain(part: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a part is a linear layer and nothing more."""
    return type(part) is nn.Linear and _is_untouched(part)


def _is_untouched(part: nn.Module) -> bool:
    """Whether nobody has given a part hooks or another way to compute."""
    return not (part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def _as_onednn(part: nn.Module) -> Activation | None:
    """The activation that a part is; None where it is none, or none that oneDNN has."""
    known = _ACTIVATIONS.get(type(part).__name__) if _is_untouched(part) else None
    return Activation("gelu", "tanh") if known and getattr(part, "approximate", "none") == "tanh" else known


def _tied(module: nn.Module) -> set[nn.Module]:
    """The layers whose weights another part has too."""
    users: defaultdict[torch.Tensor, set[nn.Module]] = defaultdict(set)
    for part in module.modules():
        for tensor in part.parameters(recurse=False):
            users[tensor].add(part)
    return {part for parts in users.values() if len(parts) > 1 for part in parts}


def _swaps(calls: Sequence[_Call], tied: set[nn.Module], activated: Container[torch.dtype]) -> list[_Swap]:
    """What to swap. `activated` are the dtypes whose products apply the activations behind them."""
    linears = [call for call in calls if isinstance(call.part, nn.Linear) and call.part not in tied]
    groups = _groups(linears)
    followers = _followers(linears, [call for call in calls if not isinstance(call.part, nn.Linear)], activated)
    return [_Swap(group, followers.get(group[0]) if len(group) == 1 else None) for group in groups]


def _groups(calls: Sequence[_Call]) -> list[tuple[nn.Linear, ...]]:
    """Layers that are called one after the other with the same input, wherever they are called; others alone."""
    seen: defaultdict[nn.Module, dict[tuple[nn.Module, ...], None]] = defaultdict(dict)
    for _, run in itertools.groupby(calls, key=lambda call: (id(call.given), call.version)):
        group = tuple(call.part for call in run)
        for part in group:
            seen[part][group] = None
    together = {
        group: None
        for groups in seen.values()
        for group in groups
        if all(list(seen[part]) == [group] for part in group) and _are_alike(group)
    }
    grouped = {part for group in together for part in group}
    return [*together, *((part,) for part in seen if part not in grouped)]  # type: ignore[list-item]


def _are_alike(group: Sequence[Any]) -> bool:
    """Whether layers may share a product."""
    kinds = {(part.in_features, part.bias is None, part.weight.dtype) for part in group}
    return len(kinds) == 1 and len(set(group)) == len(group)


def _followers(
    linears: Sequence[_Call], others: Sequence[_Call], activated: Container[torch.dtype]
) -> dict[nn.Linear, nn.Module]:
    """The activations that read layers' outputs and nothing else, by the layer, of layers of some dtypes."""
    made_by = {id(call.made): call.part for call in linears}
    sources: defaultdict[nn.Module, list[nn.Module | None]] = defaultdict(list)
    for call in others:
        sources[call.part].append(made_by.get(id(call.given)))
    times = Counter(call.part for call in linears)
    return {
        source: activation  # type: ignore[misc]
        for activation, found in sources.items()
        for source in found
        if source is not None
        and len(set(found)) == 1
        and len(found) == times[source]
        and source.weight.dtype in activated
    }


def _put(module: nn.Module, swap: _Swap) -> None:
    """Pack the weights of some layers, and put what multiplies with them in their places."""
    activation = swap.activation
    product = _Product(swap.linears, (_as_onednn(activation) if activation is not None else None) or _NO_ACTIVATION)
    new: dict[nn.Module, nn.Module] = {
        linear: PackedLinear(linear, product, index) for index, linear in enumerate(swap.linears)
    }
    if activation is not None:
        new[activation] = _Applied(activation)
    _replace(module, new)


def _replace(module: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put new parts in the places of others, wherever a tree has them."""
    for parent in list(module.modules()):
        if not isinstance(parent, _Applied):
            for name, child in list(parent._modules.items()):
                if child is not None and child in new:
                    setattr(parent, name, new[child])


def _is_near(module: SentenceTransformer, before: Sequence[torch.Tensor]) -> bool:
    """Whether the vectors of the probe differ from those before by rounding alone. NaN stays NaN."""
    try:
        after = _vectors(module)
    except Exception:  # a network that does more with its layers than to call them
        return False
    share = _NEAR[next(part.dtype for part in module.modules() if isinstance(part, PackedLinear))]
    return all(
        torch.allclose(new, old, rtol=0, atol=share * old.abs().nan_to_num().max().item(), equal_nan=True)
        for new, old in zip(after, before, strict=True)
    )
