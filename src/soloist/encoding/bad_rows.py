"""Counts bad rows, whose vectors are zero or not finite, while devices compute. Knows vectors and events, no devices.

A few bad rows are computed again in float32. If there are many, the dtype does not suit the model or the device. To
compute all of them again would take hours. So the run ends with an error that says what to do.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from soloist.arrays import Vectors
from soloist.encoding.found_rows import bad_rows_of
from soloist.errors import UnfitDTypeError
from soloist.events import BadRowsFound, EventSink
from soloist.models.dtype import wider_dtype
from soloist.models.loading import StagedModel
from soloist.types import DType, DTypeRequest

# Up to this share of a shard is computed again. Up to `FEW` rows are, whatever their share: a small shard has few rows.
SHARE = 0.01
FEW = 20


class BadRows:
    """The bad rows of one model in a pass. Several workers may report at once.

    `capability` of the devices decides which other dtype to choose; None where it is not known.
    `shared_dtype` is the `--dtype` of a run that has other models too; None if the run has only this model.
    """

    def __init__(
        self,
        staged: StagedModel,
        capability: tuple[int, int] | None,
        sink: EventSink,
        shared_dtype: DTypeRequest | None = None,
    ) -> None:
        self._staged = staged
        self._capability = capability
        self._shared_dtype = shared_dtype
        self._sink = sink
        self._lock = threading.Lock()
        self._shard, self._pass = _Tally(), _Tally()

    def begin_shard(self, rows: int) -> None:
        """Begin to count the rows of another shard."""
        self._shard = _Tally(rows)
        self._pass.rows += rows

    def look(self, device: str, ids: Sequence[str], vectors: Vectors) -> None:
        """Count and report the bad rows of a batch; `vectors` are (rows, dim), not yet normalised.

        Raises:
            UnfitDTypeError: there are too many to compute them again.
        """
        bad = tuple(ids[row] for row in bad_rows_of(self._staged, vectors))
        with self._lock:
            for tally in (self._shard, self._pass):
                tally.computed += len(ids)
                tally.bad += len(bad)
            # A run of many small shards has a few bad rows in each of them.
            too_many = self._shard.bad > max(FEW, SHARE * self._shard.rows) or (
                self._pass.bad > FEW + SHARE * self._pass.rows
            )
        if not bad:
            return
        name, dtype = self._staged.spec.name, self._staged.dtype
        self._sink.emit(BadRowsFound(model=name, device=device, dtype=dtype, rows=len(ids), ids=bad))
        if too_many:
            raise UnfitDTypeError(self._text(device, bad[0]))

    def _text(self, device: str, first: str) -> str:
        dtype, wider = self._staged.dtype, wider_dtype(self._staged.dtype, self._capability)
        way_on = self._with(wider) if wider else "leave the model out, or compute with --accelerator cpu"
        return (
            f"{self._staged.spec.name} gives vectors with NaN, infinity or only zeros in {dtype} on {device}, for "
            f"{self._pass.bad:,} of {self._pass.computed:,} chunks so far (among them {first!r}). That is too many "
            f"chunks to compute again in float32: {way_on}"
        )

    def _with(self, dtype: DType) -> str:
        """How this model gets another dtype. The others keep theirs, and so their vectors, only by a catalogue."""
        name, shared = self._staged.spec.name, self._shared_dtype
        if shared is None:
            return f"run again with --dtype {dtype}"
        for_all = f"or run again with --dtype {dtype}, which computes the other models again too"
        if shared in ("auto", "auto-fast"):
            own = f'set dtype = "{dtype}" under [models."{name}"] in a catalogue and run again with --catalogue'
            return f"{own}, {for_all}"
        # An explicit dtype wins over a catalogue's.
        return (
            f'set dtype in a catalogue, "{dtype}" for {name} and "{shared}" for the other models, and run again with '
            f"--catalogue and --dtype auto, {for_all}"
        )


class _Tally:
    """Rows of a shard or a pass, those that were computed so far, and the bad ones among them."""

    def __init__(self, rows: int = 0) -> None:
        self.rows = rows
        self.computed = self.bad = 0
