"""How fast the machine multiplies matrices of a model's own shapes: the roof that an engine can reach.

The roof is that of the fastest library at hand, whichever one the engines use. Runs in a worker of the base
environment; libraries are imported when they are asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.encode.adapters import Setup

TORCH = "torch.mm, all threads together"
_SECONDS = 1.0

# By width: token vectors (rows, width).
Inputs = Mapping[int, Any]
Multiply = Callable[[Inputs], object]


def multiply(setup: Setup, rows: int) -> dict[str, Any]:
    """Multiply `rows` token vectors with all weight matrices of the model, for a second or so with each library.

    Says the highest rate in operations a second, and whose it is; the rates of all; and what of the model decides how
    many operations a text costs.
    """
    network = _network(setup)
    shapes = _shapes(network)
    parameters = sum(height * width * count for (height, width), count in shapes.items())
    rates = {name: 2 * rows * parameters * each for name, each in _passes_per_second(setup, shapes, rows).items()}
    best = max(rates, key=lambda name: rates[name])
    return {
        "flops_per_second": rates[best],
        "library": best,
        "rates": rates,
        "matrix_parameters": parameters,
        "layers": network.config.num_hidden_layers,
        "hidden": network.config.hidden_size,
    }


def _network(setup: Setup) -> Any:
    from sentence_transformers import SentenceTransformer

    network = SentenceTransformer(setup.folder, device="cpu").transformers_model
    if network is None:
        raise ValueError(f"{setup.model} multiplies no matrices")
    return network


def _shapes(network: Any) -> Counter[tuple[int, int]]:
    """The shapes of the weights that every token is multiplied with; no pipeline reads the pooler."""
    import torch

    return Counter(
        (module.out_features, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
    )


def _passes_per_second(setup: Setup, shapes: Counter[tuple[int, int]], rows: int) -> dict[str, float]:
    """Batches a second that pass all products, by library: on the first device, or on all cores of the host."""
    import torch

    torch.set_num_threads(setup.threads)
    device, dtype = setup.devices[0], getattr(torch, setup.precision)
    weights = [torch.randn(shape, device=device).to(dtype) for shape in shapes.elements()]
    widths = {width for _, width in shapes}

    def inputs() -> Inputs:
        return {width: torch.randn(rows, width, device=device).to(dtype) for width in widths}

    together = inputs()
    rate = 1 / _fastest(lambda: _torch(weights)(together), device)
    if device != "cpu":
        return {"torch.mm": rate}
    return {TORCH: rate, **_on_every_core(_ways(weights), [inputs() for _ in range(setup.threads)])}


def _ways(weights: Sequence[Any]) -> dict[str, Multiply]:
    """The libraries of the host, each of which multiplies one batch with all weights."""
    import torch

    ways = {"torch.mm": _torch(weights), "oneDNN with packed weights": _packed(weights)}
    return {**ways, "numpy": _numpy(weights)} if weights[0].dtype is torch.float32 else ways


def _torch(weights: Sequence[Any]) -> Multiply:
    import torch

    return lambda inputs: [torch.mm(inputs[weight.shape[1]], weight.t()) for weight in weights]


def _packed(weights: Sequence[Any]) -> Multiply:
    """What torch's own compiler makes of linear layers."""
    import torch

    operators: Any = torch.ops.mkldnn
    packed = [(weight.shape[1], operators._reorder_linear_weight(weight, None)) for weight in weights]
    return lambda inputs: [
        operators._linear_pointwise(inputs[width], weight, None, "none", [], "none") for width, weight in packed
    ]


def _numpy(weights: Sequence[Any]) -> Multiply:
    arrays = [weight.numpy().T for weight in weights]
    return lambda inputs: [inputs[array.shape[0]].numpy() @ array for array in arrays]


def _on_every_core(ways: Mapping[str, Multiply], inputs: Sequence[Inputs]) -> dict[str, float]:
    """Batches a second of all cores, each with one thread and a batch of its own, as soloist's workers compute."""
    import threadpoolctl
    import torch

    cores = len(inputs)
    found = {}
    with (
        ThreadPoolExecutor(cores, initializer=lambda: torch.set_num_threads(1)) as pool,
        threadpoolctl.threadpool_limits(1, user_api="blas"),  # numpy's; torch's are linked into it
    ):
        for name, way in ways.items():
            seconds = _fastest(lambda way=way: list(pool.map(way, inputs)), "cpu")  # type: ignore[misc]
            found[f"{name}, a thread for each core"] = cores / seconds
    return found


def _fastest(compute: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of several rounds: what others take of the machine is not the roof's."""
    import torch

    seconds: list[float] = []
    until = time.perf_counter() + _SECONDS
    while not seconds or time.perf_counter() < until or len(seconds) < 3:
        began = time.perf_counter()
        compute()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
