"""Who keeps an object alive, in words that a person can act on. Knows Python's garbage collector, and no tensors.

One level that means something: a container is followed to the variable or attribute that holds it, because "a list"
helps nobody.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import sys
from collections.abc import Iterator
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any

_DEPTH = 3
# By what a function may get at the dictionary of its own variables.
_LOCALS_READERS = frozenset({"locals", "vars", "eval", "exec", "f_locals"})
# The frame's, the variable's here, and the argument's.
_OWN_REFERENCES = 3


def holder_of(target: object, *passed_over: object) -> str:
    """What refers to an object, e.g. `a list of 3 items, the variable kept of module __main__`; empty for nothing.

    `passed_over` are objects of the caller's own that refer to it as well.
    """
    return _describe(target, _DEPTH, {id(target), *map(id, passed_over)})


def _describe(target: object, depth: int, seen: set[int]) -> str:
    """The first referrer that has a name, frames last: the innermost variables are the caller's own."""
    referrers = [item for item in gc.get_referrers(target) if id(item) not in seen and not _is_ours(item)]
    seen = seen | {id(referrers)}
    # Lists and no generators, which would refer to the target themselves.
    found = [*map(_named, referrers, itertools.repeat(target))]
    found += [_held(referrer, depth, seen) for referrer in referrers]
    found += [*map(_frame_text, _running_frames(), itertools.repeat(target))]
    found += [_what(referrer) for referrer in referrers]
    return next(filter(None, found), "")


def _named(referrer: object, target: object) -> str:
    """A module's variable, an object's attribute, a closure, a function's default."""
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
    """A container with the name of what holds it; empty where that has none."""
    what = _what(referrer)
    holder = _describe(referrer, depth - 1, seen | {id(referrer)}) if what and depth > 1 else ""
    return f"{what}, {holder}" if holder else ""


def _what(referrer: object) -> str:
    """A container and its size, or the kind of an object that is none of Python's own."""
    if isinstance(referrer, (list, tuple, set, frozenset, dict)):
        count = len(referrer)
        return f"a {type(referrer).__name__} of {count} {'item' if count == 1 else 'items'}"
    return f"a {type(referrer).__name__}" if _is_holder(referrer) else ""


def _running_frames() -> Iterator[FrameType]:
    """Of all threads, innermost first: what a running frame holds, the collector does not tell."""
    top = frame = None
    try:
        for top in sys._current_frames().values():
            frame = top
            while frame is not None:
                if not _is_ours(frame):
                    yield frame
                frame = frame.f_back
    finally:
        # This very frame is one of them. Since Python 3.12 a frame in its own variable lives on, with its callers.
        top = frame = None


def _frame_text(frame: FrameType, target: object) -> str:
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:  # a module's own variables, which have been looked at
        return ""
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    hands_out = sys.version_info < (3, 13) and not _LOCALS_READERS.isdisjoint(code.co_names)
    before = _dictionaries_with(own) if hands_out else {}
    variables = frame.f_locals
    names = [name for name, value in variables.items() if value is target]
    if isinstance(variables, dict):
        # Before Python 3.13 the frame keeps this dictionary, and with it what its variables refer to now; the
        # function may have it too, from its `locals()`. It is left as it was found.
        if sys.getrefcount(variables) <= _OWN_REFERENCES:
            _take_out(variables, own)
        elif id(variables) in before:
            variables.clear()
            variables.update(before[id(variables)])
        elif hands_out:  # what the collector does not see had no values that the collector sees
            _take_out(variables, {name for name in own if gc.is_tracked(variables.get(name))})
    if not names:
        return ""
    return f"the local variable {names[0]} of {code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"


def _dictionaries_with(names: set[str]) -> dict[int, dict[Any, Any]]:
    """Copies of all dictionaries that have one of these keys, by the identity of the original."""
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
    """The attribute of an object whose values are in the object itself, as those of slots and of Python 3.11 are."""
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
    """The frames of the search itself."""
    return isinstance(referrer, FrameType) and referrer.f_globals.get("__name__") in (__name__, "soloist.devices.lease")


def _a(owner: object) -> str:
    kind = type(owner)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"
