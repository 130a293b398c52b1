"""What a run.json says of how the vectors of its run were made. Opens no file."""

from __future__ import annotations

from typing import Any

from soloist.types import VectorDType


def declared_dtype(summary: Any) -> VectorDType:
    """What a run.json says that vectors are stored as; those of earlier versions do not, and are of float32."""
    found: VectorDType = summary.get("vector_dtype", "float32")
    return found


def made_by(summary: Any) -> object:
    """Members, fusion, hybrid ranking and vector dtype of a summary; None where the value is not a summary."""
    try:
        members = [
            (member["name"], member["fingerprint"]) for member in (*summary["models"], *summary.get("words", ()))
        ]
        return members, summary["fusion"], summary.get("hybrid"), declared_dtype(summary)
    except (TypeError, KeyError):
        return None
