"""What an error keeps alive through its traceback, and how to drop it. Pure: errors in, nothing of devices."""

from __future__ import annotations

import traceback
from collections.abc import Sequence


def forget_frames(errors: Sequence[BaseException]) -> None:
    """Drop everything that the tracebacks of errors keep alive. The text of the first stays with it, as a note.

    An error keeps every tensor of the frames that it passed through
    (https://github.com/pytorch/pytorch/issues/18853). Clearing the frames is not enough: a frame keeps its function,
    and the function its closure, where torch's module calls put their inputs. So the traceback is cut after its first
    entry. Frames that still run stay as they are.
    """
    text = "".join(traceback.format_exception(type(errors[0]), errors[0], errors[0].__traceback__))
    for error in errors:
        traceback.clear_frames(error.__traceback__)
        if error.__traceback__ is not None:
            error.__traceback__.tb_next = None
    # What `add_note` of Python 3.11 does.
    errors[0].__dict__.setdefault("__notes__", []).append(text.rstrip())


def error_chain(error: BaseException | None) -> list[BaseException]:
    """The error, its causes and its contexts; an empty list for None."""
    chain: dict[int, BaseException] = {}
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in chain:
            chain[id(current)] = current
            pending += [current.__cause__, current.__context__]
    return list(chain.values())
