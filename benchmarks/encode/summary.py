"""What the rounds say: rates, ratios, agreement, and how near to the machine's own limit. Pure but for the vectors."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encode.engines import IN_MEMORY, REFERENCE
from benchmarks.encode.rounds import Measured, Measurement
from soloist.arrays import Vectors

# soloist in float32 computes what the reference computes.
LOWEST_COSINE = 0.99999


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every engine had to do: chunks, and their lengths in tokens."""

    chunks: int
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens after truncation, special ones included."""
        return sum(self.lengths)


def flops(work: Work, *, matrix_parameters: int, layers: int, hidden: int) -> float:
    """Operations without padding: 2 for each parameter and token, and 4 layers x hidden x length^2 of attention.

    >>> flops(Work(chunks=2, lengths=(1, 3)), matrix_parameters=10, layers=1, hidden=2)
    160.0
    """
    attention = 4 * layers * hidden * sum(length**2 for length in work.lengths)
    return float(2 * matrix_parameters * work.tokens + attention)


def work_of(measurement: Measurement) -> Work:
    """The work, as the reference counted it in its warm-up."""
    reference = next(each for each in measurement.engines if each.engine.name == REFERENCE)
    lengths = tuple(reference.warm["lengths"])
    return Work(chunks=len(lengths), lengths=lengths)


def summarize(measurement: Measurement) -> dict[str, Any]:
    """The results, JSON-ready: the work, the roof of each precision, and a row for each engine."""
    work = work_of(measurement)
    by_name = {each.engine.name: each for each in measurement.engines}
    reference = _vectors(by_name[REFERENCE].vectors)
    lengths = sorted(work.lengths)
    return {
        "chunks": work.chunks,
        "tokens": work.tokens,
        "tokens_a_chunk": {"lowest": lengths[0], "median": statistics.median(lengths), "highest": lengths[-1]},
        "reference": REFERENCE,
        "roofs": {
            precision: _roof(work, found) for precision, found in measurement.roofs.items() if found
        },
        "engines": [_row(each, by_name, work, measurement, reference) for each in measurement.engines],
        "absent": measurement.absent,
    }  # fmt: skip


def faults_of(summary: dict[str, Any]) -> list[str]:
    """What makes the figures worthless: soloist computed something else than the reference."""
    faults = []
    for row in summary["engines"]:
        lowest = row["cosine"]["lowest"]
        if row["name"] in ("soloist float32", f"{IN_MEMORY} float32") and not lowest >= LOWEST_COSINE:
            faults.append(f"the vectors of {row['name']} agree with {summary['reference']} only to {lowest:.7f}")
        if row["notes"].get("tokens", summary["tokens"]) != summary["tokens"]:
            faults.append(f"{row['name']} read {row['notes']['tokens']:,} tokens, the reference {summary['tokens']:,}")
    return faults


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, lowest and highest."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def _row(
    measured: Measured,
    by_name: dict[str, Measured],
    work: Work,
    measurement: Measurement,
    reference: Vectors,
) -> dict[str, Any]:
    engine = measured.engine
    opponent = by_name.get(engine.opponent or "")
    roofs = measurement.roofs.get(engine.precision) or []
    return {
        "name": engine.name,
        "adapter": engine.adapter,
        "precision": engine.precision,
        "computes_in": measured.known.get("dtype") or measured.warm["notes"].get("dtype"),
        "batch_size": "its own" if engine.batching == "its own" else measured.batch_size,
        "batch_sizes_tried": {str(size): round(seconds, 3) for size, seconds in measured.searched.items()},
        "tokens_per_second": round(work.tokens / statistics.median(measured.seconds), 1),
        "chunks_per_second": round(work.chunks / statistics.median(measured.seconds), 2),
        "beside": engine.opponent,
        "soloist_is_faster_by": _ratios(measured, opponent),
        "share_of_roof": _shares(measured, work, roofs),
        "padding_share": measured.warm.get("padding_share"),
        "peak_rss_bytes": measured.peak_rss_bytes,
        "cosine": _agreement(_vectors(measured.vectors), reference),
        "seconds": measured.seconds,
        "wall_seconds": measured.wall_seconds,
        "notes": measured.warm["notes"],
        "versions": measured.known["versions"],
        "kernels": measured.warm["kernels"],
    }


def _ratios(measured: Measured, opponent: Measured | None) -> dict[str, float] | None:
    """Of each round its own ratio; their median beside the lowest and the highest. None without an opponent."""
    if opponent is None:
        return None
    return spread([mine / its for mine, its in zip(measured.seconds, opponent.seconds, strict=True)])


def _shares(measured: Measured, work: Work, roofs: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    if len(roofs) != len(measured.seconds):
        return None
    return spread(
        [
            _flops(work, roof) / seconds / roof["flops_per_second"]
            for roof, seconds in zip(roofs, measured.seconds, strict=True)
        ]
    )


def _roof(work: Work, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rounds' own roofs together, and the rate of each library, the fastest first."""
    rates = {name: round(statistics.median(each["rates"][name] for each in found)) for name in found[0]["rates"]}
    ranked = dict(sorted(rates.items(), key=lambda item: -item[1]))
    return {
        "flops": _flops(work, found[0]),
        "flops_per_second": spread([each["flops_per_second"] for each in found], 0),
        "library": next(iter(ranked)),
        "rates": ranked,
        "matrix_parameters": found[0]["matrix_parameters"],
    }


def _flops(work: Work, roof: dict[str, Any]) -> float:
    return flops(work, matrix_parameters=roof["matrix_parameters"], layers=roof["layers"], hidden=roof["hidden"])


def _agreement(vectors: Vectors, reference: Vectors) -> dict[str, float]:
    """Cosine of each row with the reference's: the lowest and the mean."""
    left, right = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (vectors.astype(float), reference))
    cosines = np.einsum("ij,ij->i", left, right)
    return {"lowest": float(cosines.min()), "mean": float(cosines.mean())}


def _vectors(path: Path) -> Vectors:
    found: Vectors = np.load(path)
    return found
