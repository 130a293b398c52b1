"""How fast the machine multiplies matrices of a model's own shapes: the roof that an engine can reach.

Runs in a worker of the base environment; torch is imported when it is asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.encode.adapters import Setup

_SECONDS = 1.0


def multiply(setup: Setup, rows: int) -> dict[str, Any]:
    """Multiply `rows` token vectors with all weight matrices of the model, for a second or so, on the first device.

    Says the rate in operations a second, and what of the model decides how many operations a text costs.
    """
    import torch

    torch.set_num_threads(setup.threads)
    network = _network(setup)
    shapes = _shapes(network)
    pairs = [
        (torch.randn(rows, width, device=setup.devices[0]), torch.randn(height, width, device=setup.devices[0]))
        for (height, width), count in shapes.items()
        for _ in range(count)
    ]
    dtype = getattr(torch, setup.precision)
    pairs = [(left.to(dtype), right.to(dtype)) for left, right in pairs]
    operations = 2 * rows * sum(height * width * count for (height, width), count in shapes.items())
    return {
        "flops_per_second": operations / _fastest(pairs),
        "matrix_parameters": sum(height * width * count for (height, width), count in shapes.items()),
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


def _fastest(pairs: list[Any]) -> float:
    """Seconds of the fastest round through all products: what others take of the machine is not the roof's."""
    import torch

    seconds: list[float] = []
    until = time.perf_counter() + _SECONDS
    while not seconds or time.perf_counter() < until or len(seconds) < 3:
        began = time.perf_counter()
        for left, right in pairs:
            torch.mm(left, right.t())
        if pairs[0][0].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
