"""Descriptions of accelerators mean one thing each, or are refused in one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.nvidia_smi import calls_file, stand_in

from soloist.devices import open_accelerator
from soloist.errors import AcceleratorError
from soloist.memory.cards import CARDS


def test_gigabytes_are_powers_of_ten():
    """15.83 GB read as GiB would simulate a larger card than a T4."""
    accelerator = open_accelerator("simulated:2x15.83GB")
    assert accelerator.devices == ("sim:0", "sim:1")
    assert accelerator.memory("sim:1").total_bytes == 15_830_000_000
    assert open_accelerator("simulated:1x1GiB").memory("sim:0").total_bytes == 2**30


@pytest.mark.parametrize("text", ["", "gpu", "simulated", "simulated:0x1GB", "simulated:2x15.83", "cuda:", "cpu:0"])
def test_other_descriptions_are_refused(text):
    """A description that is half understood would run on something else than was asked for."""
    with pytest.raises(
        AcceleratorError, match=r"is unknown: give auto, cpu, cuda, cuda:0,1, simulated:2xT4 or simulated:2x"
    ):
        open_accelerator(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_that_is_not_there_is_an_error(monkeypatch):
    """A quiet change to the CPU would take hours where minutes were expected."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(AcceleratorError, match="no CUDA device that torch can use: choose --accelerator cpu"):
        open_accelerator("cuda")
    assert open_accelerator("auto").kind == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("description", ["auto", "cuda"])
def test_a_gpu_that_torch_cannot_use_is_told(description, tmp_path, monkeypatch):
    """With a wrong version of the driver or of torch, `auto` would take the CPU without a word."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", stand_in(tmp_path, "echo 'Tesla T4, 470.82.01'"))
    reason = f"torch {torch.__version__} is built without CUDA" if torch.version.cuda is None else "the driver 470.82"
    with pytest.raises(AcceleratorError) as caught:
        open_accelerator(description)
    assert f"this machine has a GPU (Tesla T4) that torch cannot use, because {reason}" in str(caught.value)
    assert open_accelerator("cpu").kind == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has counted the CUDA devices of this machine")
@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_gpu_that_is_hidden_is_not_asked_for(visible, tmp_path, monkeypatch):
    """A user who hides the cards wants the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("PATH", stand_in(tmp_path, "echo 'Tesla T4, 470.82.01'"))
    assert open_accelerator("auto").kind == "cpu"
    assert not calls_file(tmp_path).exists()
    with pytest.raises(AcceleratorError, match=r"^CUDA_VISIBLE_DEVICES hides all CUDA devices: remove it, or choose"):
        open_accelerator("cuda")


def test_the_cpu_has_the_hosts_memory_and_holds_nothing_itself():
    """A CPU that reports its host's use as its own would never be empty at a lease."""
    stats = open_accelerator("cpu").memory("cpu")
    assert stats.allocated_bytes == stats.reserved_bytes == 0
    assert 0 < stats.free_bytes < stats.total_bytes
    assert stats.peak_bytes > 0


@pytest.mark.parametrize("text", ["simulated:2xT5", "simulated:1xteapot"])
def test_a_card_that_nobody_knows_is_refused_with_those_that_are_known(text):
    """A card that is taken for another would plan for memory that is not there."""
    with pytest.raises(
        AcceleratorError, match=r"cannot be simulated: choose one of T4, L4, .*, or give a size such as"
    ):
        open_accelerator(text)


def test_a_cards_name_may_be_written_in_any_case():
    """`t4` is what people type."""
    assert open_accelerator("simulated:2xt4").card == CARDS["T4"]
    assert open_accelerator("simulated:8xA100-80GB").devices[-1] == "sim:7"


def test_a_row_is_all_that_a_new_card_needs(monkeypatch):
    """A second list of cards somewhere would leave a new row out, in the devices or in the error that lists them."""
    card = replace(CARDS["L4"], name="L40S", device_name="NVIDIA L40S", total_bytes=47_800_000_000)
    monkeypatch.setattr("soloist.devices.accelerator.CARDS", {**CARDS, card.name: card})
    accelerator = open_accelerator("simulated:2xl40s")
    assert (accelerator.card, accelerator.devices) == (card, ("sim:0", "sim:1"))
    assert accelerator.memory("sim:1").total_bytes == card.total_bytes
    with pytest.raises(AcceleratorError, match=r"choose one of T4, .*, L40S, or give a size"):
        open_accelerator("simulated:1xL41")
