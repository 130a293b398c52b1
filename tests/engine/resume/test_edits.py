"""Any edits, with any kills among them: in the end the files are those of a run that never saw the chunks before.

SOLOIST_EDIT_EXAMPLES is the number of histories; where it is given they are new ones each time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.commands import Commands, Death
from support.editing import assert_same_files, write_chunks

Item = tuple[str, str]
Files = dict[str, list[Item]]

NAMES = ("alpha/a", "alpha/b", "alpha/c", "beta/d", "beta/e")
# Few, so that texts come twice and come back. One is left out as empty, one has no tokens in `static`: rows of
# skipped.jsonl.
TEXTS = ("", "\u200b", *(f"{'a lease gives one model every device ' * n}{n}" for n in range(11)))


@dataclass(frozen=True)
class Edit:
    """One change. Numbers are taken modulo what there is, so that each means something in every state."""

    what: str
    file: int
    row: int
    other: int
    text: int

    def apply(self, files: Mapping[str, list[Item]], number: int) -> Files:
        """The files after it; `number` makes new ids new."""
        files = {name: list(items) for name, items in files.items()}
        name = sorted(files)[self.file % len(files)]
        items = files[name]
        target = NAMES[self.other % len(NAMES)]
        at = self.row % len(items)
        match self.what:
            case "add":
                items.insert(at, (f"new-{number}", TEXTS[self.text]))
            case "change":
                items[at] = (items[at][0], TEXTS[self.text])
            case "remove":
                del items[at]
            case "move":
                files.setdefault(target, []).insert(0, items.pop(at))
            case "rename":
                files[target] = files.get(target, []) + files.pop(name) if target != name else items
            case "reorder":
                items.sort(key=lambda item: (item[1], item[0]))
        return {name: items for name, items in files.items() if items}


# Edits; operations before which the run is killed; whether it is finished before the next edits.
Step = tuple[list[Edit], list[int], bool]

edits = st.builds(
    Edit,
    st.sampled_from(["add", "change", "remove", "move", "rename", "reorder"]),
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, len(TEXTS) - 1),
)  # fmt: skip
# Of some 150 operations on files in a whole run.
kills = st.lists(st.integers(1, 150), max_size=2)
histories = st.lists(st.tuples(st.lists(edits, min_size=1, max_size=4), kills, st.booleans()), min_size=2, max_size=3)


def first_files() -> Files:
    """Two collections, in two shards of four and one."""
    return {
        "alpha/a": [(f"a{n}", TEXTS[n + 1]) for n in range(4)],
        "alpha/b": [(f"b{n}", TEXTS[n + 3]) for n in range(3)],
        "beta/d": [(f"d{n}", TEXTS[n]) for n in range(3)],
    }


def _check(commands: Commands, catalogue: Path, options: list[str], history: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        arguments = [
            "embed", str(folder / "chunks"), "--catalogue", str(catalogue), "--shard-chunks", "4",
            "--lock-dir", str(folder / "locks"), "--cache-dir", str(folder / "cache"), "--on-bad-input", "skip",
            *options,
        ]  # fmt: skip
        files, number = first_files(), 0
        steps = [([], [], True), *history]
        for step, (changes, killed, is_finished) in enumerate(steps):
            for change in changes:
                number += 1
                files = change.apply(files, number) or {"alpha/a": [(f"last-{number}", TEXTS[2])]}
            if all(text in TEXTS[:2] for items in files.values() for _, text in items):
                files["alpha/a"] = [(f"first-{number}", TEXTS[2]), *files.get("alpha/a", [])]
            write_chunks(folder / "chunks", files)
            for count in killed:
                death = Death(folder=folder / "run", count=count)
                ended = commands.run(*arguments, "--out", str(folder / "run"), death=death)
                assert ended.code in (0, -9), ended.stderr
            if is_finished or step == len(steps) - 1:  # else the next edits come upon a run that is not finished
                ended = commands.run(*arguments, "--out", str(folder / "run"))
                assert ended.code == 0, ended.stderr
        assert commands.run(*arguments, "--out", str(folder / "fresh")).code == 0
        assert_same_files(folder / "run", folder / "fresh")
        verified = commands.run("verify", str(folder / "run"))
        assert verified.code == 0, verified.stdout


def _settings(examples: int) -> settings:
    wanted = os.environ.get("SOLOIST_EDIT_EXAMPLES")
    return settings(
        max_examples=int(wanted or examples), derandomize=wanted is None, deadline=None, database=None, print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


@_settings(6)
@given(history=histories)
def test_edits_and_kills_end_in_the_files_of_a_fresh_run(commands, catalogue, history):
    """A vector of another text, a row too many, a file of a shard that is no more, a row of skipped.jsonl of before."""
    _check(commands, catalogue, ["--accelerator", "cpu", "--models", "static"], history)


@_settings(2)
@given(history=histories)
def test_so_they_do_with_a_transformer_beside_it_on_two_devices(commands, catalogue, history):
    """A transformer's rows are batched with other rows than in a fresh run, and on another device."""
    _check(commands, catalogue, ["--accelerator", "simulated:2x1GB", "--models", "bert,static"], history)
