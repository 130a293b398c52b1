"""Whether torch can use a card, by what torch and the driver say of themselves: there is no card here to ask."""

from __future__ import annotations

import re

import pytest

from soloist.devices.cuda_support import CudaCard, TorchBuild, hides_all, require_kernels, runs_on, unusable
from soloist.devices.nvidia_driver import DriverCards
from soloist.errors import AcceleratorError

# As torch says of itself (`torch.cuda.get_arch_list()`): 2.10 for CUDA 12.6 and 12.8, 2.13 for CUDA 13.0.
CUDA_12_6 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CUDA_12_8 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
CUDA_13_0 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ("sm_80",), True),  # code for a lower minor version
        ((8, 9), CUDA_13_0, True),  # an L4, for which no build has code of its own
        ((8, 0), ("sm_86",), False),  # code for a higher one
        ((6, 0), ("sm_75",), False),
        ((7, 5), ("sm_70",), True),  # a T4 and code for a V100
        ((9, 0), ("sm_80", "sm_86"), False),  # another major version
        ((9, 0), ("sm_80", "compute_80"), True),  # PTX is compiled for later cards
        ((7, 5), ("compute_80",), False),  # and not for earlier ones
        ((9, 0), ("sm_90a",), True),
        ((9, 0), ("compute_90a",), True),
        ((10, 0), ("sm_90a", "compute_90a"), False),  # with an `a`, for this version alone
        ((10, 3), ("sm_100f",), True),
        ((10, 3), ("sm_100a",), False),
        ((12, 1), CUDA_13_0, True),
        ((13, 0), CUDA_13_0, True),  # a card to come, by PTX
        ((13, 0), CUDA_12_8, False),
        ((6, 0), CUDA_12_6, True),
        ((6, 0), CUDA_12_8, False),
        ((8, 7), ("sm_80", "sm_90"), False),  # a Jetson
        ((8, 7), ("sm_87",), True),
        ((8, 9), ("sm_87",), False),
    ],
)
def test_code_runs_on_the_cards_that_the_rules_of_cuda_say(capability, architectures, runs):
    """A rule that is too strict refuses an L4. A rule that is too loose fails in the middle of a pass on a P100."""
    assert runs_on(capability, architectures) is runs


P100 = CudaCard(device="cuda:0", name="Tesla P100-PCIE-16GB", capability=(6, 0))
T4 = CudaCard(device="cuda:1", name="Tesla T4", capability=(7, 5))


def test_a_card_without_kernels_is_named_with_the_torch_that_has_them():
    """`no kernel image is available` in the first pass says neither which card nor what to install."""
    with pytest.raises(AcceleratorError) as caught:
        require_kernels([P100], TorchBuild(version="2.10.0+cu128", cuda="12.8", architectures=CUDA_12_8))
    assert str(caught.value) == (
        "torch 2.10.0+cu128 has no kernels for cuda:0, a Tesla P100-PCIE-16GB of capability 6.0 (it has sm_70, sm_75, "
        "sm_80, sm_86, sm_90, sm_100, sm_120): install torch 2.10 to 2.13, built for CUDA 12.6 "
        "(https://pytorch.org/get-started), or choose --accelerator cpu"
    )


def test_beside_a_card_that_works_the_other_can_be_left_out():
    """A small card for the screen would stop every run on the large card."""
    build = TorchBuild(version="2.10.0+cu128", cuda="12.8", architectures=CUDA_12_8)
    with pytest.raises(AcceleratorError, match=r"leave the card out with --accelerator cuda:1$"):
        require_kernels([P100, T4], build)
    require_kernels([T4], build)


def test_a_card_that_is_newer_than_torch_needs_a_newer_build():
    """An old build does not help with a new card."""
    card = CudaCard(device="cuda:0", name="NVIDIA B200", capability=(10, 0))
    with pytest.raises(AcceleratorError, match=r"install a torch that is built for CUDA 12\.8 or newer"):
        require_kernels([card], TorchBuild(version="2.10.0+cu126", cuda="12.6", architectures=CUDA_12_6))


@pytest.mark.parametrize("architectures", [(), ("gfx90a", "gfx942")])
def test_a_torch_that_names_no_architectures_of_nvidia_is_not_judged(architectures):
    """A build for the cards of another maker would be refused on all these cards."""
    require_kernels([T4], TorchBuild(version="2.13.0", cuda=None, architectures=architectures))


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ..."


@pytest.mark.parametrize(
    ("cards", "build", "visible", "torch_says", "message"),
    [
        (
            DriverCards(names=("Tesla T4", "Tesla T4"), version="470.82.01"),
            TorchBuild(version="2.13.0+cu130", cuda="13.0"), "0,1", TOO_OLD,
            "this machine has a GPU (Tesla T4) that torch cannot use, because the driver 470.82.01 is too old for "
            "torch 2.13.0+cu130, which needs 580.65.06 or newer: update the driver, or choose --accelerator cpu",
        ),
        (
            DriverCards(names=("Tesla T4",), version="550.54.15"),
            TorchBuild(version="2.13.0+cu130", cuda="13.0"), None, TOO_OLD,
            "because the driver 550.54.15 is too old for torch 2.13.0+cu130, which needs 580.65.06 or newer: update "
            "the driver, install a torch that is built for CUDA 12 (https://pytorch.org/get-started), or choose",
        ),
        (
            DriverCards(names=("Tesla T4",), version=None),
            TorchBuild(version="2.13.0+cu130", cuda="13.0"), None, TOO_OLD,
            "because torch 2.13.0+cu130 says: The NVIDIA driver on your system is too old (found version 11040): check",
        ),
        (
            DriverCards(names=("NVIDIA L4",), version="580.95.05"),
            TorchBuild(version="2.13.0+cpu", cuda=None), None, "Torch not compiled with CUDA enabled",
            "because torch 2.13.0+cpu is built without CUDA: install a torch with CUDA "
            "(https://pytorch.org/get-started), or choose --accelerator cpu",
        ),
        (
            DriverCards(names=("NVIDIA L4",), version="580.95.05"),
            TorchBuild(version="2.13.0+cu130", cuda="13.0"), "7", "No CUDA GPUs are available",
            "because CUDA_VISIBLE_DEVICES is '7' and names no card: name a card in it, or remove it, or choose",
        ),
    ],
)  # fmt: skip
def test_the_reason_is_told(cards, build, visible, torch_says, message):
    """A run that takes the CPU without a word takes hours instead of minutes."""
    error = unusable(cards, build, visible, torch_says)
    assert re.search(re.escape(message), str(error)), error


@pytest.mark.parametrize(
    ("visible", "hides"), [(None, False), ("", True), (" ", True), ("-1", True), ("0", False), ("GPU-1234", False)]
)
def test_an_empty_variable_is_a_wish(visible, hides):
    """A user who hides the cards wants the CPU, but would get an error."""
    assert hides_all(visible) is hides
