"""Chunk files that somebody else wrote, badly or with intent: read, or refused by name; never a crash, a hang, a leak.

SOLOIST_FUZZ_CASES is the number of random files, SOLOIST_FUZZ_SEED the seed of the first; `make fuzz` takes many, from
a seed that is new each time. A case that fails is named by its seed, and is the same file again on any machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fuzz_worker import check_case
from support.hostile_files import hostile_file
from support.readings import check_message

CASES = int(os.environ.get("SOLOIST_FUZZ_CASES", "100"))
SEED = int(os.environ.get("SOLOIST_FUZZ_SEED", "0"))
COMMANDS = max(6, CASES // 50)
# All shapes at this length in every run; a plain text of 100 MB in every run too, see long_lines.
LINE_BYTES = 10_000_000 if CASES <= 1000 else 100_000_000
# What the largest file, 1.4 MB, takes as Python objects, kept by the checks three times over. A length that is
# read from a damaged file and believed is gigabytes.
SMALL_FILES_BYTES = 300_000_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")


def worker(module: str, *arguments: object) -> list[Any]:
    """What a worker of `support` prints as JSON; its end names the seed at fault."""
    here = Path(__file__).resolve().parents[1]
    # With a fixed threshold the allocator gives large blocks back at once: the peak is that of one file.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MALLOC_MMAP_THRESHOLD_": "1000000",
    }
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", f"support.{module}", *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended with {done.returncode} in {lines[-1:]}:\n{done.stderr[-5000:]}"
    return [json.loads(line) for line in lines if line.startswith("{")]


# A list just beyond the deepest that is read; a damaged Parquet file whose metadata ended the process; a line that is
# not UTF-8 and ends in a comma, which the check took for one text over several lines; deep nesting in a compressed
# file, which the check did not see.
AT_FAULT_ONCE = (777117, 778197, 1795931707, 1795931780)


def test_hostile_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    """A file would end the run in a traceback, take a machine's memory, hang it, or lose chunks without a word; and
    what was found once would come back.
    """
    seeds = ",".join(map(str, AT_FAULT_ONCE))
    (found,) = worker("fuzz_worker", f"{SEED}-{SEED + CASES - 1},{seeds}", tmp_path)
    assert found["files"] == CASES + len(AT_FAULT_ONCE)
    print(f"from seed {SEED}: {found}")
    counts = found["counts"]
    for kind in ("json whole", "json at fault", "jsonl whole", "jsonl at fault", "parquet whole", "parquet at fault"):
        assert counts.get(kind, 0) >= CASES // 50, f"too few of {kind} to prove anything: {counts}"
    assert found["grown_bytes"] < SMALL_FILES_BYTES


def test_commands_end_well_or_in_one_line(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """`embed` and `plan` would end in a traceback, or a run look finished that lost rows."""
    (found,) = worker("fuzz_commands", SEED, SEED + COMMANDS, tmp_path, f"wordllama,{tiny_models['bert']}")
    print(f"from seed {SEED}: {found}")
    assert found["counts"].get("done") and found["counts"].get("refused"), found


def test_a_long_line_takes_a_few_times_its_size(tmp_path: Path) -> None:
    """One line of 100 MB would take a machine's memory.

    A value is held whole: the bytes of its line, its text, its value, and the copy that shows that it is UTF-8 make
    four times the file. Where one character is beyond the 16-bit plane, Python holds four bytes for each, so text and
    value take eight. A list that is empty takes 64 bytes for 3. What is not a value of JSON is not held at all, but
    for lines: a line is read whole, and joined from two halves.
    """
    found = {case["name"]: case for case in worker("long_lines", tmp_path, LINE_BYTES)}
    limits = {"wide text": 12.0, "empty lists": 50.0}
    streamed = {f"{name} json" for name in ("brackets", "spaces", "zeros", "noise")}
    for name, case in found.items():
        limit = 0.5 if name in streamed else limits.get(name.rpartition(" ")[0], 8.0 if "parquet" in name else 6.0)
        times = case["grown_bytes"] / case["file_bytes"]
        print(f"{name}: {times:.2f} times {case['file_bytes']:,} bytes in {case['seconds']} s")
        assert times < limit, case
        assert case["seconds"] < 60, case
        too_long = "is too long: its 'text' has" in case["error"]
        assert too_long == (name.split()[0] in ("text", "wide", "escaped")), case
        assert bool(case["chunks"]) == (name.split()[0] in ("metadata", "empty")), case
    assert found["text jsonl"]["file_bytes"] > 100_000_000 and found["text json"]["file_bytes"] > 100_000_000


# What fuzzing found, and what the borders are: the content, the texts that are kept, and what is said of the rest.
NAMED: dict[str, tuple[str, str | bytes, list[str], list[str]]] = {
    "metadata at any depth around the stack's limit": (
        "a.jsonl",
        "\n".join(f'{{"text":"t","m":{"[" * depth}0{"]" * depth}}}' for depth in range(90, 1000)),
        ["t"] * 10,
        ["metadata is nested more than 100 levels deep"] * 900,
    ),
    "depth 10,000 in lines": ("a.jsonl", '"t"\n' + "[" * 10_000 + "]" * 10_000, ["t"], ["too deeply at line 2"]),
    "depth 10,000 in a list": ("a.json", '["t",' + '{"a":' * 10_000, ["t"], ["too deeply at line 1, column 6"]),
    "a name as long as the file": (
        "a.jsonl",
        '"t"\n' + json.dumps({"k" * 1_000_000: 1}),
        ["t"],
        ["it has no 'text' (its fields are 'kkk"],
    ),
    "lone surrogates": (
        "a.jsonl",
        '{"text":"a\\ud800"}\n{"text":"b","id":"\\udfff"}\n{"text":"c","\\ud800":["\\udfff"]}\n"\\ud83d\\ude00"',
        ["c", "\U0001f600"],
        ["'text' has a lone surrogate at character 1", "'id' has a lone surrogate at character 0"],
    ),
    "a surrogate in the bytes": ("a.jsonl", b'"t"\n"\xed\xa0\x80"', ["t"], ["is not UTF-8 at line 2, byte 5"]),
    "huge integers": (
        "a.jsonl",
        f'{{"text":"a","id":"x","n":{10**400}}}\n{{"text":"b","id":{10**400}}}\n{{"text":"c","n":1{"0" * 5000}}}',
        ["a", "b"],
        ["is not JSON at line 3"],
    ),
    "NaN and infinity": (
        "a.jsonl",
        '{"text":"a","n":NaN}\n{"text":"b","n":1e999}\n{"text":"c","id":-Infinity}\n"d"',
        ["d"],
        ["NaN or infinity"] * 2 + ["its 'id' is -inf, not a string or a whole number"],
    ),
    "keys that repeat": ("a.json", '[{"text":"a","text":5,"text":"b","m":1,"m":{"x":1,"x":2}}]', ["b"], []),
    "lists that repeat": ("a.json", '{"chunks":["a"],"chunks":["b","c"]}', ["b", "c"], []),
    "controls and other non-text": ("a.jsonl", '"\\u0000\\u001b[2J"\n"\\ufffe"', ["\x00\x1b[2J", "\ufffe"], []),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_case_is_kept_or_refused(tmp_path: Path, name: str) -> None:
    """What was found once would come back."""
    file_name, content, texts, faults = NAMED[name]
    file = tmp_path / file_name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    reading = check_case(file, tmp_path / "run")
    assert [chunk.text for chunk in reading.chunks] == texts
    said = [str(item) for item in reading.skipped]
    assert len(said) == len(faults)
    # The parser's own limit lies somewhere below 1000, wherever the stack is: beyond it, it is the parser that says so.
    assert all(fault in text or "is nested too deeply at" in text for fault, text in zip(faults, said, strict=True)), (
        said
    )


@pytest.mark.parametrize(
    ("columns", "texts", "faults"),
    [
        (
            {"text": ["a", "b"], "m": pa.array([[], [([1], 2)]], pa.map_(pa.list_(pa.int64()), pa.int64()))},
            ["a"],
            ["has a value that Python cannot hold (unhashable type: 'list')"],
        ),
        (
            {"a\nb\x1b[2J": [1], "k" * 5000: [2], **{f"c{number}": [3] for number in range(2000)}},
            [],
            [r"has no column 'text', only 'a\nb\x1b[2J', 'kkk"],
        ),
        ({"text": ["a"], "metadata": ['{"m":' + "[" * 700 + "]" * 700 + "}"]}, [], ["nested too deeply"]),
        ({"text": ["a"], "metadata": [f'{{"n":1{"0" * 5000}}}']}, ["a"], []),
        ({"text": ["a"], "metadata": ['{"\\ud800":"\\udfff"}']}, ["a"], []),
        ({"text": ["a"], "n": [float("nan")]}, [], ["NaN or infinity"]),
    ],
)
def test_a_named_table_is_kept_or_refused(
    tmp_path: Path, columns: dict[str, Any], texts: list[str], faults: list[str]
) -> None:
    """What was found once would come back."""
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), file)
    reading = check_case(file, tmp_path / "run")
    assert [chunk.text for chunk in reading.chunks] == texts
    said = [str(item) for item in reading.skipped]
    assert all(fault in text for fault, text in zip(faults, said, strict=True)), said


def test_a_long_id_that_two_chunks_have_is_told_in_short(tmp_path: Path) -> None:
    """The message would be as long as the id."""
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join([json.dumps({"text": "t", "id": "k" * 1_000_000})] * 2))
    assert "two chunks have the same id 'kkk" in check_case(file, tmp_path / "run").error


@pytest.mark.parametrize("message", ["{file} is\nbad", "{file} is \x1b[2J bad", "it is bad", "{file} is " + "b" * 5000])
def test_a_message_that_is_no_sentence_is_found(tmp_path: Path, message: str) -> None:
    """The check of all the cases above would pass anything."""
    with pytest.raises(AssertionError):
        check_message(message.format(file=tmp_path), tmp_path)


def test_a_seed_makes_the_same_file_again() -> None:
    """The seed of a failure would not lead back to it."""
    again = [hostile_file(seed) for seed in range(60)]
    assert [hostile_file(seed) for seed in range(60)] == again
    assert len({made.content for made in again}) > 50
