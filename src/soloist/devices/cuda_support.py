"""Why torch cannot use a card of this machine: its build, the driver, or missing kernels. Does not import torch.

The caller passes what torch and the driver say about themselves. So tests need no card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from soloist.devices.nvidia_driver import DriverCards
from soloist.errors import AcceleratorError

Capability = tuple[int, int]

INSTALL = "https://pytorch.org/get-started"
# The oldest driver on Linux for each major version of CUDA ("CUDA Toolkit Release Notes", minor version compatibility).
_OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
# The builds of torch 2.10 and later that have kernels for a card, by the least capability of the card
# (https://github.com/pytorch/pytorch/issues/172352, and issue 190385 on the end of the builds for CUDA 12.6).
_BUILDS = (
    ((10, 0), "a torch that is built for CUDA 12.8 or newer"),
    ((7, 5), "a torch that is built for CUDA 12.6 or newer"),
    ((5, 0), "torch 2.10 to 2.13, built for CUDA 12.6"),
)
# Cards that are part of a processor (Jetson). They do not run code for other cards, and other cards do not run theirs.
_INTEGRATED = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)})
_CODE = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<only>[af]?)")
_NONE_SEEN = "No CUDA GPUs are available"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """The installed torch: its version, the version of CUDA that it is built for, and its code (`get_arch_list`)."""

    version: str
    cuda: str | None
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaCard:
    """A card that torch sees: torch's name for the device, the driver's name for the card, and its capability."""

    device: str
    name: str
    capability: Capability


def runs_on(capability: Capability, architectures: Sequence[str]) -> bool:
    """Whether a card has code among these architectures.

    Machine code (`sm_XY`) runs on cards of the same major version whose minor version is the same or higher. PTX
    (`compute_XY`) is compiled for any later card. With the suffix `a` both are for one version alone.
    """
    return any(_runs_on(capability, code) for text in architectures if (code := _CODE.fullmatch(text)) is not None)


def _runs_on(capability: Capability, code: re.Match[str]) -> bool:
    built = int(code["major"]), int(code["minor"])
    if code["only"] == "a":
        return capability == built
    if code["kind"] == "compute" and not code["only"]:
        return capability >= built
    if (capability in _INTEGRATED or built in _INTEGRATED) and capability != built:
        return False
    return capability[0] == built[0] and capability >= built


def require_kernels(cards: Sequence[CudaCard], build: TorchBuild) -> None:
    """Refuse cards for which torch has no code.

    Raises:
        AcceleratorError: there is such a card. The message names it, and what to install.
    """
    if not any(map(_CODE.fullmatch, build.architectures)):  # built for another maker's cards, or it does not say
        return
    lacking = [card for card in cards if not runs_on(card.capability, build.architectures)]
    if not lacking:
        return
    card, others = lacking[0], [card.device for card in cards if card not in lacking]
    fitting = next((words for least, words in _BUILDS if card.capability >= least), "a torch that has them")
    without = f"leave the card out with --accelerator {_listed(others)}" if others else "choose --accelerator cpu"
    raise AcceleratorError(
        f"torch {build.version} has no kernels for {card.device}, a {card.name} of capability "
        f"{card.capability[0]}.{card.capability[1]} (it has {', '.join(build.architectures)}): install {fitting} "
        f"({INSTALL}), or {without}"
    )


def _listed(devices: Sequence[str]) -> str:
    """`cuda:0,2` for cuda:0 and cuda:2."""
    return "cuda:" + ",".join(device.removeprefix("cuda:") for device in devices)


def unusable(cards: DriverCards, build: TorchBuild, visible: str | None, torch_says: str) -> AcceleratorError:
    """The error for cards of the driver of which torch sees none.

    `visible` is the value of CUDA_VISIBLE_DEVICES, and `torch_says` what torch raises when it is to use a card.
    """
    reason, remedy = _reason(cards, build, visible, torch_says)
    return AcceleratorError(
        f"this machine has a GPU ({cards}) that torch cannot use, because {reason}: {remedy}, or choose "
        "--accelerator cpu"
    )


def _reason(cards: DriverCards, build: TorchBuild, visible: str | None, torch_says: str) -> tuple[str, str]:
    """Why torch sees none of the cards, and what to do."""
    if build.cuda is None:
        return f"torch {build.version} is built without CUDA", f"install a torch with CUDA ({INSTALL})"
    oldest = _OLDEST_DRIVERS.get(_numbers(build.cuda)[0])
    if cards.version is not None and oldest is not None and _numbers(cards.version) < _numbers(oldest):
        return (
            f"the driver {cards.version} is too old for torch {build.version}, which needs {oldest} or newer",
            _newer_driver_or_older_torch(cards.version, build.cuda),
        )
    if visible is not None and torch_says.startswith(_NONE_SEEN):
        return f"CUDA_VISIBLE_DEVICES is {visible!r} and names no card", "name a card in it, or remove it"
    return (
        f"torch {build.version} says: {_first_sentence(torch_says)}",
        "check whether nvidia-smi works, and repair the driver",
    )


def _newer_driver_or_older_torch(driver: str, cuda: str) -> str:
    """The remedy where the driver is too old for a version of CUDA."""
    fitting = [
        major
        for major, oldest in _OLDEST_DRIVERS.items()
        if major < _numbers(cuda)[0] and _numbers(oldest) <= _numbers(driver) and major > 11  # none is built for 11
    ]
    older = f", install a torch that is built for CUDA {max(fitting)} ({INSTALL})" if fitting else ""
    return f"update the driver{older}"


def hides_all(visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every card on purpose: it is empty, or its first number is negative."""
    return visible is not None and (not visible.strip() or visible.strip().startswith("-"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z)])\. |\n", text.strip(), maxsplit=1)[0].rstrip(".")
