"""One rule for exit codes: 2 for a value that cannot be used, 1 for what is found where it leads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.invoking import invoke

# RUN and CHUNKS are of a finished run; NONE does not exist, FILE is a file, and EMPTY an empty folder.
WRONG_VALUES = [
    "embed CHUNKS --out NEW --collections beta",
    "plan CHUNKS --models wordllama --collections beta",
    "search RUN question --collection beta",
    "eval RUN --collections beta",
    "export RUN --to numpy --out NEW --collections beta",
    *(f"{command} {place}" for command in ("status", "verify", "eval") for place in ("NONE", "FILE", "EMPTY")),
    *(f"search {place} question" for place in ("NONE", "FILE", "EMPTY")),
    *(f"export {place} --to numpy --out NEW" for place in ("NONE", "FILE", "EMPTY")),
    *(f"embed CHUNKS --out NEW --reuse {place}" for place in ("NONE", "FILE", "EMPTY")),
    *(f"embed {place} --out NEW" for place in ("NONE", "FILE")),
    *(f"plan {place} --models wordllama" for place in ("NONE", "FILE")),
    *(f"status RUN {place}" for place in ("NONE", "FILE")),
    *(f"validate {place} --out NEW --models wordllama,all-MiniLM-L6-v2 --quick" for place in ("NONE", "FILE")),
    "embed CHUNKS --out FILE",
    "export RUN --to numpy --out FILE",
    "export RUN --to faiss --out FILE",
    "export RUN --to lancedb --out FILE",
    "export RUN --to jsonl --out EMPTY",
    "eval RUN --queries NONE --qrels NONE",
    "eval RUN --plot FILE/plot.png",
    "models show NONE",
    *(f"{command} --catalogue NONE" for command in ("models list", "search RUN question", "plan CHUNKS")),
]
FOUND_THERE = [
    "embed EMPTY --out NEW",
    "plan EMPTY --models wordllama",
    "embed CHUNKS --out OTHERS",
    "export RUN --to numpy --out OTHERS",
    "search UNFINISHED question",
    "eval UNFINISHED",
    "export UNFINISHED --to numpy --out NEW",
    "eval RUN --queries FILE --qrels FILE",
]


def answered(command: str, folder: Path, tmp_path: Path):
    """What the command says of these places."""
    places = {name: tmp_path / name.lower() for name in ("NEW", "NONE", "FILE", "EMPTY", "OTHERS", "UNFINISHED")}
    for name in ("EMPTY", "OTHERS"):
        places[name].mkdir()
    for file in (places["FILE"], places["OTHERS"] / "notes.txt"):
        file.write_text("text")
    places |= {"RUN": folder / "run", "CHUNKS": folder / "chunks"}
    if "UNFINISHED" in command:
        shutil.copytree(folder / "run", places["UNFINISHED"])
        (places["UNFINISHED"] / "run.json").unlink()
    for name, path in places.items():
        command = command.replace(name, str(path))
    more = ["--models", "wordllama", "--accelerator", "cpu"] if command.startswith("embed") else []
    return invoke(*command.split(), *more)


@pytest.mark.parametrize("command", WRONG_VALUES)
def test_a_value_that_cannot_be_used_is_2(folder, tmp_path, command):
    """A mistyped collection was 1 in embed and 2 in search: a script cannot tell a slip from a failure."""
    result = answered(command, folder, tmp_path)
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith("soloist: error: ") and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "new" / "run.json").exists()


@pytest.mark.parametrize("command", FOUND_THERE)
def test_what_is_found_where_a_value_leads_is_1(folder, tmp_path, command):
    """Work that failed would be taken for a slip, and not be tried again."""
    result = answered(command, folder, tmp_path)
    assert (result.exit_code, result.stdout) == (1, ""), result.stderr
    assert result.stderr.splitlines()[-1].startswith("soloist: error: ")
