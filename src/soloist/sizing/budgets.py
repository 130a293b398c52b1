"""How many tokens a batch should have: as given, as calibrated on this machine, or by a table whose figures say where
they come from.

It is what saturates a device. What its memory allows is the planner's part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from soloist.devices import Accelerator
from soloist.devices.accelerator import AcceleratorKind
from soloist.models.loading import StagedModel
from soloist.sizing.measurements import MachineCache, device_key
from soloist.types import BudgetSource

FILE_NAME = "calibrated.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """The budget for a kind of device and of model, in tokens with their padding, where nothing else says one.

    `smallest` and `largest` are what a calibration tries, and the powers of two between them.
    """

    kind: AcceleratorKind
    is_static: bool
    tokens: int
    smallest: int
    largest: int
    source: str

    @property
    def candidates(self) -> tuple[int, ...]:
        """The budgets to try, the smallest first."""
        return tuple(1 << power for power in range(self.smallest.bit_length() - 1, self.largest.bit_length()))


_CPU_SOURCE = (
    "measured on a core with AVX-512: MiniLM in bfloat16 took 6,315 packed tokens/s of processor time at 1,024 tokens "
    "a batch, 6,575 at 2,048 and 6,337 at 4,096"
)
_CUDA_SOURCE = "what text-embeddings-inference takes on a GPU, not measured here"
# A static model only looks up and averages: what a batch costs there is the overhead of a call.
_STATIC_SOURCE = "an assumption: enough that the overhead of a call does not count"
TABLE = (
    TableRow(kind="cpu", is_static=False, tokens=2_048, smallest=512, largest=8_192, source=_CPU_SOURCE),
    TableRow(kind="cuda", is_static=False, tokens=16_384, smallest=4_096, largest=65_536, source=_CUDA_SOURCE),
    TableRow(kind="simulated", is_static=False, tokens=16_384, smallest=4_096, largest=65_536, source=_CUDA_SOURCE),
    *(
        TableRow(kind=kind, is_static=True, tokens=131_072, smallest=32_768, largest=524_288, source=_STATIC_SOURCE)
        for kind in get_args(AcceleratorKind)
    ),
)


def table_row(kind: AcceleratorKind, is_static: bool) -> TableRow:
    """The table's row for a kind of device and of model."""
    return next(row for row in TABLE if (row.kind, row.is_static) == (kind, is_static))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The tokens of a full batch of one model, why so many, and on what device (see `device_key`)."""

    tokens: int
    source: BudgetSource
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """A budget that was measured on this machine: the median rates in tokens a second that it was chosen from, by
    budget, and when and with which versions that was.
    """

    tokens: int
    rates: Mapping[str, float]
    date: str
    versions: Mapping[str, str]


class CalibrationCache:
    """The calibrated budgets that a cache folder keeps. None as the folder: the user's own."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._cache = MachineCache(cache_dir, FILE_NAME)

    @property
    def path(self) -> Path:
        """The file."""
        return self._cache.path

    def knows(self, dtype: str, device_name: str) -> bool:
        """Whether any model was calibrated in a dtype on a device."""
        return self._cache.knows(dtype, device_name)

    def tokens(self, fingerprint: str, dtype: str, device_name: str, row: TableRow) -> int | None:
        """The budget of a model on a device; None where it was not calibrated, or to what no calibration tries."""
        tokens = self._cache.row(fingerprint, dtype, device_name).get("tokens")
        return tokens if type(tokens) is int and tokens in row.candidates else None

    def record(self, fingerprint: str, dtype: str, device_name: str, calibrated: CalibrationRecord) -> None:
        """Keep a calibration in the place of the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        self._cache.record(fingerprint, dtype, device_name, asdict(calibrated))


def choose_budget(
    given: int | None, recorded: Budget | None, calibrated: int | None, row: TableRow, device: str
) -> Budget:
    """The budget of a model: as given, else that with which a run was begun on such a device, else the calibrated one,
    else the table's.
    """
    if given is not None:
        return Budget(tokens=given, source="given", device=device)
    if recorded is not None and recorded.device == device:
        return recorded
    if calibrated is not None:
        return Budget(tokens=calibrated, source="calibrated", device=device)
    return Budget(tokens=row.tokens, source="table", device=device)


def run_budgets(
    given: int | None,
    staged: Mapping[str, StagedModel],
    accelerator: Accelerator,
    recorded: Mapping[str, Budget],
    calibrations: CalibrationCache,
) -> dict[str, Budget]:
    """The budget of each model of a run; `recorded` are those with which the run was begun."""
    device = device_key(accelerator)
    budgets: dict[str, Budget] = {}
    for name, model in staged.items():
        row = table_row(accelerator.kind, model.is_static)
        calibrated = calibrations.tokens(model.fingerprint, model.dtype, device, row)
        budgets[name] = choose_budget(given, recorded.get(name), calibrated, row, device)
    return budgets


def budget_of(record: Any) -> Budget | None:
    """The budget that a run wrote down; None where it wrote none, or the record is damaged."""
    try:
        found = Budget(tokens=record["tokens"], source=record["source"], device=record["device"])
    except (KeyError, TypeError):
        return None
    is_whole = type(found.tokens) is int and found.tokens >= 1 and found.source in get_args(BudgetSource)
    return found if is_whole and isinstance(found.device, str) else None
