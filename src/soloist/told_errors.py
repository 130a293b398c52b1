"""An error on its way from a worker to the process that drives the run, as JSON-ready values."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from soloist import errors
from soloist.error_frames import error_chain
from soloist.errors import EncodingError, SoloistError


def error_to_dict(error: BaseException) -> dict[str, Any]:
    """What has to be known of an error elsewhere: its class, its message, and the notes of its whole chain.

    If nobody meant to raise it, its traceback has these notes, and says where it happened.
    """
    said = {"kind": type(error).__name__, "message": str(error)}
    if is_on_purpose(said):
        return {**said, "notes": [note for link in error_chain(error) for note in getattr(link, "__notes__", [])]}
    return {**said, "notes": ["".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()]}


def is_on_purpose(said: Mapping[str, Any]) -> bool:
    """Whether the error is one that soloist raises on purpose. It would be raised elsewhere too."""
    kind = getattr(errors, said["kind"], None)
    return isinstance(kind, type) and issubclass(kind, SoloistError)


def error_from_dict(said: Mapping[str, Any], unexpected: Callable[[str], SoloistError] = EncodingError) -> SoloistError:
    """What the worker raised, as it would have been raised here; `unexpected` what it did not raise on purpose."""
    if is_on_purpose(said):
        error: SoloistError = getattr(errors, said["kind"])(said["message"])
    else:
        error = unexpected(f"unexpected {said['kind']}" + (f" ({said['message']})" if said["message"] else ""))
    error.__dict__.setdefault("__notes__", []).extend(said["notes"])
    return error
