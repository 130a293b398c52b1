"""What soloist learns about the driver if its tool is absent, fails, hangs, or does not know."""

from __future__ import annotations

import pytest
from support.nvidia_smi import calls_file, stand_in

from soloist.devices.nvidia_driver import DriverCards, NvidiaSmi, driver_cards


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi with a script of its own first on the PATH."""
    return lambda script: monkeypatch.setenv("PATH", stand_in(tmp_path / "bin", script))


def machine(root, *, nodes: int, version: str = "", models: tuple[str, ...] = ()):
    """A folder with the files that the driver makes in /dev and /proc."""
    (root / "dev").mkdir(parents=True)
    for index in range(nodes):
        (root / "dev" / f"nvidia{index}").touch()
    (root / "dev" / "nvidiactl").touch()
    for index, model in enumerate(models):
        card = root / "proc/driver/nvidia/gpus" / f"0000:0{index}:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 52\n")
    if version:
        (root / "proc/driver/nvidia").mkdir(parents=True, exist_ok=True)
        (root / "proc/driver/nvidia/version").write_text(version)
    return root


@pytest.mark.parametrize(
    ("printed", "cards"),
    [
        ("Tesla T4, 535.104.05\nTesla T4, 535.104.05", DriverCards(names=("Tesla T4",) * 2, version="535.104.05")),
        ("[N/A], [N/A]", DriverCards(names=("NVIDIA GPU",), version=None)),
        ("NVIDIA GB10, [Unknown Error]", DriverCards(names=("NVIDIA GB10",), version=None)),
    ],
)
def test_cards_are_those_that_the_tool_lists(smi, tmp_path, printed, cards):
    """A field that the tool does not know would be taken for a card's name or for a version."""
    smi(f"printf '{printed}\\n'")
    assert driver_cards(root=tmp_path) == cards


@pytest.mark.parametrize(
    "script",
    [
        "echo 'No devices were found'; exit 6",
        "echo 'NVIDIA-SMI has failed because it could not talk'; exit 9",
        "exit 1",
    ],
)
def test_a_tool_that_fails_is_no_card(smi, tmp_path, script):
    """A machine that once had a card keeps the tool: its messages would be read as names of cards."""
    smi(script)
    assert driver_cards(root=tmp_path) is None


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\n", "470.82.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 13",
            "580.95.05",
        ),
        ("", None),
    ],
)
def test_without_the_tool_the_drivers_files_tell(smi, tmp_path, version, number):
    """A container may have the cards and not the tool."""
    smi("exit 127")
    root = machine(tmp_path / "machine", nodes=2, version=version, models=("Tesla T4", "Tesla T4"))
    assert driver_cards(root=root) == DriverCards(names=("Tesla T4", "Tesla T4"), version=number)


def test_a_card_of_the_machine_that_a_container_does_not_have_is_no_card(smi, tmp_path):
    """Every container sees the machine's /proc, even a container that must compute on the CPU."""
    smi("exit 127")
    root = machine(tmp_path / "machine", nodes=0, version="Kernel Module  580.95.05", models=("Tesla T4",))
    assert driver_cards(root=root) is None
    (root / "dev" / "nvidia0").touch()
    assert str(driver_cards(root=root)) == "Tesla T4"


def test_a_tool_that_hangs_is_asked_once(smi, tmp_path):
    """A card that fell off its bus hangs the tool: each lease of a run would wait for it."""
    smi("exec sleep 600")
    tool = NvidiaSmi(patience_seconds=0.3)
    assert driver_cards(tool, machine(tmp_path / "machine", nodes=1)) == DriverCards(
        names=("NVIDIA GPU",), version=None
    )
    assert tool.free_bytes("1234") is None
    assert len(calls_file(tmp_path / "bin").read_text().splitlines()) == 1


@pytest.mark.parametrize(("printed", "free"), [("15000", 15_000 * 2**20), ("[N/A]", None), ("", None)])
def test_free_memory_is_a_number_or_unknown(smi, tmp_path, printed, free):
    """A card that shares the host's memory has no figure: 0 would be a full card, and an error would end the run."""
    smi(f"echo '{printed}'")
    assert NvidiaSmi().free_bytes("abcd") == free
    (call,) = calls_file(tmp_path / "bin").read_text().splitlines()
    assert call.startswith("--id=GPU-abcd ")


def test_a_machine_without_the_tool_does_not_know(monkeypatch, tmp_path):
    """An error of the operating system would end a run that only asks."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert NvidiaSmi().free_bytes("abcd") is None
    assert driver_cards(root=tmp_path) is None
