"""Whether torch can use the CUDA cards of this machine. It asks torch and the driver; `cuda_support` has the rules."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from soloist.devices.cuda_support import CudaCard, TorchBuild, hides_all, require_kernels, unusable
from soloist.devices.nvidia_driver import driver_cards
from soloist.errors import AcceleratorError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def has_cuda() -> bool:
    """Whether torch sees a CUDA device.

    Raises:
        AcceleratorError: it sees none, but there is a card that it cannot use. The message says why.
    """
    if torch.cuda.is_available():
        return True
    visible = os.environ.get(_VISIBLE)
    # If torch cannot use a card, it does not say why: `device_count` of c10 catches the error, and returns 0.
    cards = driver_cards() if not hides_all(visible) else None
    if cards is not None:
        raise unusable(cards, _build(), visible, _refusal_of_torch())
    return False


def none_there() -> AcceleratorError:
    """The error if CUDA is asked for, but torch sees no device and the driver sees no card."""
    if hides_all(os.environ.get(_VISIBLE)):
        return AcceleratorError(f"{_VISIBLE} hides all CUDA devices: remove it, or choose --accelerator cpu")
    return AcceleratorError("this machine has no CUDA device that torch can use: choose --accelerator cpu")


def require_usable(indices: Sequence[int]) -> None:
    """Refuse devices for which torch has no kernels.

    Raises:
        AcceleratorError: there is such a device. The message names the card, and what to install.
    """
    require_kernels([_card(index) for index in indices], _build())


def _card(index: int) -> CudaCard:
    properties = torch.cuda.get_device_properties(index)  # makes no context
    return CudaCard(device=f"cuda:{index}", name=properties.name, capability=(properties.major, properties.minor))


def _build() -> TorchBuild:
    return TorchBuild(
        version=torch.__version__, cuda=torch.version.cuda, architectures=tuple(torch.cuda.get_arch_list())
    )


def _refusal_of_torch() -> str:
    """The text of the error that torch raises when it tries to use a card."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as exc:
        return str(exc)
    return "nothing"
