"""A run that is killed with -9, over and over, and its files in the end: those of a run that nobody disturbed.

SOLOIST_KILL_SEED is the seed of the moments and of the edits; a failure names its moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.commands import Commands, Death
from support.editing import assert_same_files, random_text, write_chunks

from soloist.stores.manifest import Manifest

SEED = int(os.environ.get("SOLOIST_KILL_SEED", "0"))
KILLS = 36
SHARD_CHUNKS = 8

Files = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: at an operation on a file, after an event, or after a time; `phase` says what the run is at."""

    phase: str
    pattern: str = ""
    within: int = 1


# What a run does to its folder, in order; `within` is about how many such operations a whole run has.
READING = (Moment(phase="reading", pattern=r" \.incoming/", within=40), Moment(phase="reading", pattern="skipped"))
RECONCILING = (
    Moment(phase="reconciling", pattern=r"^os.rename \.incoming/\S+ [^.]", within=9),
    Moment(phase="reconciling", pattern=r"^os.rename \S+ \.previous/", within=6),
    Moment(phase="reconciling", pattern=r"^os.remove [^.]\S+/part-", within=3),
    Moment(phase="reconciling", pattern=r" \.manifest\.jsonl\.\w+\.tmp", within=4),
    Moment(phase="reconciling", pattern=r" \.state\.json\.", within=3),
)
FIRST_PASS = (Moment(phase="first pass", pattern=r"/vectors/bert/\.part", within=8),)
SECOND_PASS = (Moment(phase="second pass", pattern=r"/vectors/static/\.part", within=8),)
FUSING = (Moment(phase="fusing", pattern=r"/fused/\.part", within=8),)
FINISHING = (
    Moment(phase="finishing", pattern=r"^os.remove state\.json"),
    Moment(phase="finishing", pattern=r" \.run\.json\.", within=4),
)
CHANGING_CHUNKS = r"^os.rename \.incoming/\S+ [^.]|\.previous|^os.(remove|rmdir|mkdir) [^.]|manifest\.jsonl\.\w+\.tmp"
ANY_EVENT, ANY_TIME, ANY_ROW = Moment(phase="event"), Moment(phase="time"), Moment(phase="row")


def moments(generator: random.Random) -> Iterator[Moment]:
    """Those of one life of a run, so that it comes a little further with each."""
    for kinds, often in (
        (READING, 2), (RECONCILING, 3), ((ANY_TIME, ANY_EVENT), 2), (FIRST_PASS, 2), ((ANY_TIME, ANY_EVENT), 1),
        (SECOND_PASS, 2), ((ANY_ROW,), 1), (FUSING, 2), (FINISHING, 2),
    ):  # fmt: skip
        yield from generator.choices(kinds, k=often)


@pytest.fixture
def files() -> Files:
    """Two collections in several shards, with an empty text, texts that are there twice, and some that only `bert` has
    tokens for, among them all of a shard.
    """
    generator = random.Random(SEED)

    def items(name: str, count: int) -> list[tuple[str, str]]:
        return [(f"{name}-{n}", random_text(generator)) for n in range(count)]

    files = {"alpha/a": items("a", 24), "alpha/b": items("b", 13), "beta/c": items("c", 20)}
    files["alpha/b"][3] = ("b-3", " ")
    files["beta/c"][5] = ("c-5", files["alpha/a"][2][1])
    for row in (2, *range(8, 16), 19):
        files["beta/c"][row] = (f"c-{row}", "\u200b" * (row % 3 + 1))
    return files


@pytest.fixture
def arguments(tmp_path: Path, catalogue: Path) -> list[str]:
    """The command without its --models and --out. By torch, because each process would build oneDNN's products anew."""
    return [
        "embed", str(tmp_path / "chunks"), "--catalogue", str(catalogue), "--accelerator", "cpu",
        "--shard-chunks", str(SHARD_CHUNKS), "--lock-dir", str(tmp_path / "locks"),
        "--cache-dir", str(tmp_path / "cache"), "--on-bad-input", "skip", "--matmul", "torch",
    ]  # fmt: skip


def edited(files: Files, generator: random.Random) -> Files:
    """Some texts changed, a chunk moved to another file and one to another collection, some gone, some new."""
    files = {name: list(items) for name, items in files.items()}
    for items in files.values():
        for row in generator.sample(range(len(items)), 2):
            items[row] = (items[row][0], random_text(generator))
        del items[generator.randrange(len(items))]
        items.insert(generator.randrange(len(items)), (f"new-{generator.random()}", random_text(generator)))
    for source, target in (("alpha/a", "alpha/b"), ("beta/c", "alpha/a")):
        files[target].insert(0, files[source].pop(generator.randrange(len(files[source]))))
    return files


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(commands, arguments, files, tmp_path):
    """A file half written and counted, a shard done twice or left out, a folder that no command takes any more."""
    print(f"SOLOIST_KILL_SEED={SEED}")
    generator = random.Random(SEED)
    arguments += ["--models", "bert,static"]
    hit: Counter[str] = Counter()
    for life in range(12):
        out = tmp_path / f"run-{life // 2}"  # from nothing, and then once more with other chunks
        if life:
            files = edited(files, generator)
        write_chunks(tmp_path / "chunks", files)
        undisturbed = tmp_path / f"undisturbed-{life}"
        began = time.monotonic()
        assert commands.run(*arguments, "--out", str(undisturbed)).code == 0
        seconds = time.monotonic() - began
        killed = _one_life(commands, [*arguments, "--out", str(out)], out, seconds, generator)
        hit += killed
        assert_same_files(out, undisturbed)
        assert commands.run("verify", str(out)).code == 0
        if hit.total() >= KILLS:
            break
    print(f"killed {dict(hit)} in {life + 1} lives")
    assert hit.total() >= KILLS
    assert {"reading", "reconciling", "first pass", "second pass", "fusing", "finishing"} <= set(hit)


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "edited"])
def test_killed_at_every_step_of_the_change_from_chunks_to_chunks(commands, arguments, files, tmp_path, is_new):
    """The change takes milliseconds, in which no random moment falls, and touches every file that a run has."""
    out = tmp_path / "run"
    options = [*arguments, "--models", "static", "--fusion", "none"]
    write_chunks(tmp_path / "chunks", files)
    if not is_new:
        assert commands.run(*options, "--out", str(out)).code == 0
        write_chunks(tmp_path / "chunks", edited(files, random.Random(SEED)))
    assert commands.run(*options, "--out", str(tmp_path / "undisturbed")).code == 0
    for count in range(1, 100):
        ended = commands.run(*options, "--out", str(out), death=Death(folder=out, count=count, pattern=CHANGING_CHUNKS))
        assert ended.code in (0, -signal.SIGKILL), f"at step {count}: {ended.stderr}"
        if ended.code == 0:
            break
    assert count >= 20
    assert_same_files(out, tmp_path / "undisturbed")
    assert commands.run("verify", str(out)).code == 0


def test_killed_while_vectors_wait_for_their_pass(commands, arguments, files, tmp_path):
    """Vectors that wait for their pass would count as finished, stay for ever, or be only half of a shard's."""
    options = [*arguments, "--models", "static", "--fusion", "none"]
    write_chunks(tmp_path / "chunks", files)
    assert commands.run(*options, "--out", str(tmp_path / "undisturbed")).code == 0
    kills = 0
    for count in range(1 + SEED % 3, 100, 3):
        out = tmp_path / f"run-{count}"
        death = Death(folder=out, count=count, pattern=r"\.ahead")
        ended = commands.run(*options, "--out", str(out), death=death)
        assert ended.code in (0, -signal.SIGKILL), f"at step {count}: {ended.stderr}"
        if ended.code == 0:
            break
        kills += 1
        assert commands.run(*options, "--out", str(out)).code == 0, f"after step {count}"
        assert_same_files(out, tmp_path / "undisturbed")
    assert kills >= 8


def _one_life(
    commands: Commands, arguments: list[str], out: Path, seconds: float, generator: random.Random
) -> Counter[str]:
    """From a change of the chunks to the end of the run, killed again and again; how often in which phase."""
    hit: Counter[str] = Counter()
    first_event = len(_events(out))
    for moment in moments(generator):
        before = _finished(out)
        place = f"seed {SEED}, after {hit}: {moment}"
        code = _killed(commands, arguments, out, moment, seconds, generator)
        if code == 0:
            break
        assert code == -signal.SIGKILL, place
        hit[moment.phase] += 1
        _assert_kept(before, _finished(out), place)
    else:
        before = _finished(out)
        ended = commands.run(*arguments)
        assert ended.code == 0, ended.stderr
        _assert_kept(before, _finished(out), "the last session")
    encoded = Counter(
        (event["model"], event["collection"], event["shard"])
        for event in _events(out)[first_event:]
        if event["event"] == "ShardEncoded"
    )
    assert set(encoded.values()) == {1}, f"shards were encoded twice: {encoded}"
    return hit


def _killed(
    commands: Commands,
    arguments: list[str],
    out: Path,
    moment: Moment,
    seconds: float,
    generator: random.Random,
) -> int:
    """Run the command and kill it at that moment; its exit code, 0 where it had ended before."""
    if moment.pattern:
        count = generator.randint(1, moment.within)
        return commands.run(*arguments, death=Death(folder=out, count=count, pattern=moment.pattern)).code
    log, rows = len(_events(out)), len(_rows(out))
    commands.start(*arguments)
    if moment is ANY_TIME:
        time.sleep(generator.uniform(0, 0.6 * seconds))
    else:
        wanted = generator.randint(1, 12) if moment is ANY_EVENT else generator.randint(1, 3)
        deadline = time.monotonic() + 300
        while len(_events(out)) - log < wanted if moment is ANY_EVENT else len(_rows(out)) - rows < wanted:
            assert time.monotonic() < deadline, f"no {moment} came"
            time.sleep(0.0005)
            if (out / "run.json").exists():
                break
    return commands.kill().code


def _events(out: Path) -> list[dict[str, Any]]:
    """The events so far, those of all sessions; a line that a kill cut short is none."""
    if not (out / "events.jsonl").exists():
        return []
    found = []
    for line in (out / "events.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _rows(out: Path) -> list[bytes]:
    path = out / "manifest.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def _finished(out: Path) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Which file of vectors lies where since when, for each that the manifest says is finished."""
    found = {}
    for record in Manifest(out).read().values():
        if record.kind in ("vectors", "fused") and (out / record.file).exists():
            status = (out / record.file).stat()
            found[record.file, record.content, record.fingerprint] = (status.st_ino, status.st_mtime_ns)
    return found


def _assert_kept(before: dict[Any, Any], after: dict[Any, Any], place: str) -> None:
    """What was finished and still holds is the very same file."""
    again = [key for key, was in before.items() if after.get(key, was) != was]
    assert not again, f"{place}: written again were {again}"


def test_killed_among_its_words_a_run_goes_on(commands, arguments, files, tmp_path):
    """Words or an index half written and counted, or of the chunks before; a text that is cut twice."""
    print(f"SOLOIST_KILL_SEED={SEED}")
    generator, out, kills = random.Random(SEED), tmp_path / "run", 0
    options = [*arguments, "--models", "bm25"]
    for life in range(2):
        write_chunks(tmp_path / "chunks", files if not life else edited(files, generator))
        undisturbed = tmp_path / f"undisturbed-{life}"
        assert commands.run(*options, "--out", str(undisturbed)).code == 0
        for _ in range(5):
            death = Death(folder=out, count=generator.randint(1, 9), pattern=r"bm25|index|\.previous")
            ended = commands.run(*options, "--out", str(out), death=death)
            assert ended.code in (0, -signal.SIGKILL), ended.stderr
            kills += ended.code != 0
        assert commands.run(*options, "--out", str(out)).code == 0
        assert_same_files(out, undisturbed)
        assert commands.run("verify", str(out)).code == 0
    assert kills >= 6
