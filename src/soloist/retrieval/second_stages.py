"""The cross-encoders that a run is asked to rerank with. Light to import: torch comes with the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from soloist.errors import ConfigError
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.retrieval.second_stage import SecondStage

DEPTH = 100  # of the first stage's chunks, where nobody says how many


def depth_of(asked: object, k: int, rows: int) -> int:
    """How many chunks of the first stage are scored, of so many: as asked, or 100, or `k` if that is more.

    Raises:
        ConfigError: it is not a number of 1 or more, or fewer than `k`.
    """
    if asked is None:
        return min(rows, max(DEPTH, k))
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ConfigError(f"the rerank depth is {asked!r}: give a whole number of 1 or more")
    if asked < k:
        raise ConfigError(
            f"the rerank depth is {asked}, and {count_text(k, 'hit')} are asked for, but hits come only from the "
            f"chunks that are scored: give a depth of {k} or more, or ask for {count_text(asked, 'hit')}"
        )
    return min(rows, asked)


class SecondStages:
    """The cross-encoders that an opened run was asked to rerank with, each loaded once."""

    def __init__(self, catalogue: Path | None, accelerator: str, lock_dir: Path | None) -> None:
        self._catalogue = catalogue
        self._accelerator = accelerator
        self._lock_dir = lock_dir
        self._stages: dict[str, SecondStage] = {}

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed so far by all of them."""
        return tuple(notice for stage in self._stages.values() for notice in stage.notices)

    def asked(self, model: object, depth: object) -> SecondStage | None:
        """The loaded cross-encoder of this name or folder; None where there is to be no second stage.

        Raises:
            ConfigError: a depth is given without a model; or the model is not known, or not a cross-encoder.
            ModelLoadError: the model cannot be loaded, or is not a cross-encoder with one score for a pair.
        """
        if model is None:
            if depth is not None:
                raise ConfigError("a rerank depth is given without a model: name a cross-encoder, or leave both out")
            return None
        name = str(model)
        if name not in self._stages:
            from soloist.retrieval.second_stage import SecondStage

            stage = SecondStage(name, catalogue=self._catalogue, accelerator=self._accelerator, lock_dir=self._lock_dir)
            stage.load()
            self._stages[name] = stage
        return self._stages[name]
