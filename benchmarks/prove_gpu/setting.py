"""What a part is given, and what it gives back. Values only; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class CannotBeShownError(Exception):
    """The devices of this machine cannot show what a part checks. The message says why, and what ran instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The devices, as `--devices` names them, and the folder that all parts work in.

    With `small`, models have few layers and there are few texts: the sizes of a rehearsal.
    """

    devices: str
    work: Path
    small: bool

    @property
    def is_cuda(self) -> bool:
        """Whether the devices are real."""
        return self.devices.startswith("cuda")

    @property
    def models(self) -> Path:
        """The folder with a folder for each model."""
        return self.work / "models"

    @property
    def machine(self) -> Path:
        """The folder of locks, which stands for the machine where devices are simulated."""
        return self.work / "machine"

    def folder(self, name: str) -> Path:
        """A new folder of a part's own."""
        made = self.work / "parts" / name
        made.mkdir(parents=True)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a part saw: a sentence of figures for people, all figures, and a sentence for each thing that is wrong."""

    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
