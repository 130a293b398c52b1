"""Who keeps an object alive, in words that a person can act on. Knows Python's garbage collector, and no tensors.

A container is followed to the variable or attribute that holds it, because "a list" helps nobody.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any

_DEPTH = 3
# Names by which a function may get the dictionary of its own variables.
_LOCALS_READERS = frozenset({"locals", "vars", "eval", "exec", "f_locals"})
# One of the frame, one of the variable here, and one of the argument.
_OWN_REFERENCES = 3


def holder_of(target: object, *passed_over: object) -> str:
    """What refers to an object, e.g. `a list of 3 items, the variable kept of module __main__`; empty if nothing does.

    `passed_over` are the caller's own objects that refer to it.
    """
    return _describe(target, _DEPTH, {id(target), *map(id, passed_over)})


def _describe(target: object, depth: int, seen: set[int]) -> str:
    """The first referrer with a name. Frames come last: the innermost variables are the caller's own."""
    referrers = [item for item in gc.get_referrers(target) if id(item) not in seen and not _is_ours(item)]
    seen = seen | {id(referrers)}
    # Each step walks all objects of the process, so it is taken only if the one before found no name. Plain loops,
    # because generators would refer to the target themselves.
    for referrer in referrers:
        if name := _named(referrer, target):
            return name
    for referrer in referrers:
        if name := _held(referrer, depth, seen):
            return name
    for frame in _running_frames():
        if name := _frame_text(frame, target):
            return name
    for referrer in referrers:
        if name := _what(referrer):
            return name
    return ""


def _named(referrer: object, target: object) -> str:
    """The referrer as a module's variable, an object's attribute or a closure; empty where it is none of these."""
    if isinstance(referrer, dict):
        name = next((key for key, value in referrer.items() if value is target and isinstance(key, str)), None)
        module = _module_of(referrer)
        if name is not None and module is not None:
            return f"the variable {name} of module {module}"
        owner = _owner_of(referrer)
        return f"the attribute {name} of {_a(owner)}" if name is not None and owner is not None else ""
    if isinstance(referrer, CellType):
        function = next((f for f in gc.get_referrers(referrer) if isinstance(f, tuple)), None)
        owner = next((f for f in gc.get_referrers(function) if isinstance(f, FunctionType)), None) if function else None
        return f"the closure of {owner.__qualname__}" if isinstance(owner, FunctionType) else ""
    name = _attribute(referrer, target)
    return f"the attribute {name} of {_a(referrer)}" if name is not None else ""


def _held(referrer: object, depth: int, seen: set[int]) -> str:
    """A container, and the name of what holds it; empty where its holder has no name."""
    what = _what(referrer)
    holder = _describe(referrer, depth - 1, seen | {id(referrer)}) if what and depth > 1 else ""
    return f"{what}, {holder}" if holder else ""


def _what(referrer: object) -> str:
    """A container and its size, or the class of an object. Empty for Python's own classes."""
    if isinstance(referrer, (list, tuple, set, frozenset, dict)):
        count = len(referrer)
        return f"a {type(referrer).__name__} of {count} {'item' if count == 1 else 'items'}"
    return f"a {type(referrer).__name__}" if _is_holder(referrer) else ""


def _running_frames() -> Iterator[FrameType]:
    """The frames of all threads, innermost first. The collector does not know what a running frame holds."""
    top = frame = None
    try:
        for top in sys._current_frames().values():
            frame = top
            while frame is not None:
                if not _is_ours(frame):
                    yield frame
                frame = frame.f_back
    finally:
        # This frame is one of them. Since Python 3.12 a frame that holds itself stays alive, with its callers.
        top = frame = None


def _frame_text(frame: FrameType, target: object) -> str:
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:  # of a module, whose variables were looked at before
        return ""
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    hands_out = sys.version_info < (3, 13) and not _LOCALS_READERS.isdisjoint(code.co_names)
    before = _dictionaries_with(own) if hands_out else {}
    variables = frame.f_locals
    names = [name for name, value in variables.items() if value is target]
    if isinstance(variables, dict):
        # Before Python 3.13 the frame keeps this dictionary, and so all that its variables refer to now. The function
        # may have the dictionary too, from its `locals()`. It is left as it was.
        if sys.getrefcount(variables) <= _OWN_REFERENCES:
            _take_out(variables, own)
        elif id(variables) in before:
            variables.clear()
            variables.update(before[id(variables)])
        elif hands_out:  # a dictionary that the collector did not track had no tracked values
            _take_out(variables, {name for name in own if gc.is_tracked(variables.get(name))})
    if not names:
        return ""
    return f"the local variable {names[0]} of {code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"


def _dictionaries_with(names: set[str]) -> dict[int, dict[Any, Any]]:
    """Copies of all dictionaries with one of these keys, by the id of the original."""
    return {id(item): dict(item) for item in gc.get_objects() if type(item) is dict and not names.isdisjoint(item)}


def _take_out(variables: dict[str, Any], names: set[str]) -> None:
    for name in names:
        variables.pop(name, None)


def _module_of(names: dict[Any, Any]) -> str | None:
    name = names.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if isinstance(module, ModuleType) and vars(module) is names else None


def _owner_of(names: dict[Any, Any]) -> object | None:
    return next((item for item in gc.get_referrers(names) if getattr(item, "__dict__", None) is names), None)


def _attribute(owner: object, target: object) -> str | None:
    """The attribute of an object that has no dictionary for the collector, e.g. one with slots."""
    if isinstance(owner, (type, ModuleType, FrameType, list, tuple, set, frozenset)):
        return None
    slots = [name for kind in type(owner).__mro__ for name in vars(kind).get("__slots__", ())]
    for name in (*slots, *getattr(owner, "__dict__", {})):
        if getattr(owner, name, None) is target:
            return str(name)
    return None


def _is_holder(referrer: object) -> bool:
    return type(referrer).__module__ != "builtins" and not callable(referrer)


def _is_ours(referrer: object) -> bool:
    """Whether a referrer is a frame of the search itself."""
    return isinstance(referrer, FrameType) and referrer.f_globals.get("__name__") in (__name__, "soloist.devices.lease")


def _a(owner: object) -> str:
    kind = type(owner)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"
