"""The token budget of a batch: as given, as calibrated on this machine, or by a table with the source of its figures.

A budget is what saturates a device. The planner adds what its memory allows.
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
    """The default budget for a kind of device and a kind of model, in tokens with their padding.

    A calibration tries `smallest`, `largest` and the powers of two between them.
    """

    kind: AcceleratorKind
    is_static: bool
    is_sparse: bool = False
    tokens: int
    smallest: int
    largest: int
    source: str

    @property
    def candidates(self) -> tuple[int, ...]:
        """The budgets that a calibration tries, the smallest first."""
        return tuple(1 << power for power in range(self.smallest.bit_length() - 1, self.largest.bit_length()))


_CPU_SOURCE = (
    "measured on a core with AVX-512: MiniLM in bfloat16 reached 6,315 packed tokens/s of processor time at 1,024 "
    "tokens a batch, 6,575 at 2,048 and 6,337 at 4,096"
)
_CUDA_SOURCE = "the default of text-embeddings-inference on a GPU, not measured here"
_SPARSE_CPU_SOURCE = (
    "an assumption: a core holds two numbers for each token and each word of the vocabulary, 125 MB at 512 tokens and "
    "30,522 words"
)
# A static model only looks vectors up and averages them: a batch costs the overhead of a call.
_STATIC_SOURCE = "an assumption: large enough that the overhead of a call does not matter"
TABLE = (
    TableRow(kind="cpu", is_static=False, tokens=2_048, smallest=512, largest=8_192, source=_CPU_SOURCE),
    TableRow(kind="cuda", is_static=False, tokens=16_384, smallest=4_096, largest=65_536, source=_CUDA_SOURCE),
    TableRow(kind="simulated", is_static=False, tokens=16_384, smallest=4_096, largest=65_536, source=_CUDA_SOURCE),
    TableRow(
        kind="cpu", is_static=False, is_sparse=True, tokens=512, smallest=128, largest=2_048, source=_SPARSE_CPU_SOURCE
    ),
    *(
        TableRow(kind=kind, is_static=True, tokens=131_072, smallest=32_768, largest=524_288, source=_STATIC_SOURCE)
        for kind in get_args(AcceleratorKind)
    ),
)


def table_row(kind: AcceleratorKind, is_static: bool, is_sparse: bool = False) -> TableRow:
    """The table's row for a kind of device and a kind of model. A sparse model has a row of its own on the CPU."""
    rows = [row for row in TABLE if (row.kind, row.is_static) == (kind, is_static)]
    return next((row for row in rows if row.is_sparse == is_sparse), rows[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The tokens of a full batch of one model, the source of that number, and the device (see `device_key`)."""

    tokens: int
    source: BudgetSource
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """A budget that was measured on this machine. `rates` are the median tokens a second by budget; `date` and
    `versions` say when and with which packages.
    """

    tokens: int
    rates: Mapping[str, float]
    date: str
    versions: Mapping[str, str]


class CalibrationCache:
    """The calibrated budgets in a cache folder; None for the user's cache folder."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._cache = MachineCache(cache_dir, FILE_NAME)

    @property
    def path(self) -> Path:
        """The file that keeps them."""
        return self._cache.path

    def knows(self, dtype: str, device_name: str) -> bool:
        """Whether any model was calibrated in this dtype on this device."""
        return self._cache.knows(dtype, device_name)

    def tokens(self, fingerprint: str, dtype: str, device_name: str, row: TableRow) -> int | None:
        """The calibrated budget of a model on a device; None where there is none, or none that a calibration tries."""
        tokens = self._cache.row(fingerprint, dtype, device_name).get("tokens")
        return tokens if type(tokens) is int and tokens in row.candidates else None

    def record(self, fingerprint: str, dtype: str, device_name: str, calibrated: CalibrationRecord) -> None:
        """Keep a calibration. It replaces the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        self._cache.record(fingerprint, dtype, device_name, asdict(calibrated))


def choose_budget(
    given: int | None, recorded: Budget | None, calibrated: int | None, row: TableRow, device: str
) -> Budget:
    """The budget of a model: as given, else the one that the run recorded on such a device, else the calibrated one,
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
    """The budget of each model of a run. `recorded` are the budgets with which the run was begun."""
    device = device_key(accelerator)
    budgets: dict[str, Budget] = {}
    for name, model in staged.items():
        row = table_row(accelerator.kind, model.is_static, model.predicts_words)
        calibrated = calibrations.tokens(model.fingerprint, model.dtype, device, row)
        budgets[name] = choose_budget(given, recorded.get(name), calibrated, row, device)
    return budgets


def budget_of(record: Any) -> Budget | None:
    """The budget in a run's record; None where there is none, or the record is damaged."""
    try:
        budget = Budget(tokens=record["tokens"], source=record["source"], device=record["device"])
    except (KeyError, TypeError):
        return None
    is_valid = type(budget.tokens) is int and budget.tokens >= 1 and budget.source in get_args(BudgetSource)
    return budget if is_valid and isinstance(budget.device, str) else None
