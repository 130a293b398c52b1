"""Whoever keeps memory that should be free must be named so that a person finds it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest

from soloist.devices import referrers
from soloist.devices.referrers import holder_of

pytestmark = pytest.mark.usefixtures("all_objects_in_sight")

KEPT: list[object] = []
SINGLE: object = None


class Thing:
    """Something that can be referred to."""


class Plain:
    """Keeps its attributes in a dictionary."""

    def __init__(self, kept: object) -> None:
        self.kept = kept


@dataclass(slots=True)
class Slotted:
    kept: object


def test_a_variable_of_a_module_is_named(monkeypatch):
    """The forgotten notebook variable is the most common leak of all."""
    monkeypatch.setitem(globals(), "SINGLE", Thing())
    assert holder_of(SINGLE) == f"the variable SINGLE of module {__name__}"


def test_a_list_is_followed_to_its_own_name():
    """`a list` helps nobody."""
    KEPT.append(Thing())
    try:
        assert holder_of(KEPT[0]) == f"a list of 1 item, the variable KEPT of module {__name__}"
    finally:
        KEPT.clear()


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_an_attribute_is_named_with_its_class(kind):
    """Attributes live in dictionaries, in slots or in the object itself, by class and by Python version."""
    holder = kind(Thing())
    assert holder_of(holder.kept) == f"the attribute kept of a {__name__}.{kind.__qualname__}"


def test_a_closure_is_named():
    """A hook that is a closure keeps what it closes over."""

    def make():
        thing = Thing()
        return lambda: thing

    hook = make()
    assert holder_of(hook()) == "the closure of test_a_closure_is_named.<locals>.make.<locals>.<lambda>"


def test_a_local_variable_is_named_last():
    """A frame that waits in another thread keeps its variables."""
    thing = Thing()
    assert holder_of(thing) == "the local variable thing of test_a_local_variable_is_named_last"


def test_an_object_that_nothing_holds_has_no_holder():
    """A search that names itself would send people looking in the wrong place."""
    holder = holder_of(Thing())
    assert holder == ""


def test_a_users_own_locals_are_left_as_they_are():
    """Before Python 3.13 reading a frame's variables fills the dictionary that its `locals()` gave; so did emptying."""
    thing = Thing()
    mine = locals()
    mine["added"] = 1
    before = dict(mine)
    later = Thing()
    holder_of(thing)
    assert mine == before, later


def test_numbers_in_a_users_own_locals_keep_nothing_alive():
    """The collector does not see a dictionary of numbers: what the search puts there, it must take out."""
    number = 1
    mine = locals()
    thing = Thing()
    end = weakref.ref(thing)
    holder_of(thing)
    del thing
    assert (mine["number"], end()) == (number, None)


def test_what_a_debugger_holds_is_not_emptied():
    """A debugger keeps a frame's variables, and shows none where somebody empties them."""
    held, seen = [], []

    def look(frame) -> None:
        held.append(frame.f_locals)

    def work() -> None:
        thing = Thing()
        look(sys._getframe())
        holder_of(thing)
        seen.append("thing" in held[0])

    work()
    assert seen == [True]


def test_the_search_keeps_nothing_alive():
    """A frame that still runs would keep the tensors that the search found in it."""
    thing = Thing()
    end = weakref.ref(thing)
    assert holder_of(thing).startswith("the local variable thing")
    del thing
    assert end() is None


# Without soloist's other parts, which another Python may not have.
SEARCHES = """
import gc, runpy, sys, weakref

class Thing: pass

def search():
    thing = Thing()
    found.append(holder_of(thing))
    return weakref.ref(thing)

gc.disable()
found = []
holder_of = runpy.run_path(sys.argv[1], run_name="referrers")["holder_of"]
assert search()() is None, "kept"
assert found == ["the local variable thing of search"], found
"""


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_search_keeps_nothing_alive_in_any_python(version):
    """Since Python 3.12 a frame that refers to itself outlives its function, and kept what had been searched."""
    python = another_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    command = [python, "-I", "-c", SEARCHES, referrers.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def another_python(version):
    """One on the path, or one that is installed beside ours, as pyenv lays them. Some on the path are only pointers."""
    beside = Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python")
    for python in filter(None, (shutil.which(f"python{version}"), *map(str, beside))):
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None
