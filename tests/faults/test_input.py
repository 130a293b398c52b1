"""Chunk files that vanish, that change while they are read, and what becomes of the run that meets them."""

from __future__ import annotations

import itertools
import json
import shutil
import threading

import pytest
from support.fault_runs import On, command_of, files_of, require_sentence, write_chunks
from typer.testing import CliRunner

from soloist.cli import app
from soloist.config import SourceConfig
from soloist.engine import run
from soloist.errors import BadChunkFileError, InputError
from soloist.events import InputScanned, RunStarted
from soloist.sources import discover, read_chunks
from soloist.sources.chunk_fields import MAX_TEXT_CHARS
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run
from soloist.types import SkippedInput

WRITTEN = "wait until nothing writes to it, and run again"


def scanned(event) -> bool:
    """The first collection is read, and the second is not."""
    return isinstance(event, InputScanned)


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_file_that_vanishes_after_it_was_found_is_named(config, finished_before):
    """A bare FileNotFoundError, or worse: vectors of the collection dropped because it seems to be gone."""
    if finished_before:
        run(config)
    before = files_of(config.out) if finished_before else {}
    file = config.chunks_root / "beta" / "doc_chunks.json"
    with pytest.raises(BadChunkFileError) as caught:
        run(config, On(scanned, file.unlink))
    sentence = f"{file} cannot be read (No such file or directory): repair it, or leave it out with "
    assert require_sentence(caught.value).startswith(sentence)
    assert (files_of(config.out) if config.out.exists() else {}) == before
    if finished_before:
        assert verify_run(RunFolder.open(config.out)).problems == ()


def test_a_folder_of_chunks_that_vanishes_is_named(config):
    """An unmounted disk must not look like an empty collection, whose vectors go."""
    run(config)
    before = files_of(config.out)
    shutil.move(config.chunks_root, config.chunks_root.with_name("elsewhere"))
    with pytest.raises(InputError) as caught:
        run(config)
    assert require_sentence(caught.value).startswith(f"the folder of chunks {config.chunks_root} cannot be read")
    assert files_of(config.out) == before


def test_a_source_that_vanishes_when_it_has_been_read_changes_nothing(config, fresh):
    """A later stage that reads the source again would fail hours after the start."""
    gone = On(lambda event: isinstance(event, InputScanned) and event.collection == "beta", lambda: shutil.rmtree(
        config.chunks_root
    ))  # fmt: skip
    run(config, gone)
    assert gone.happened
    assert files_of(config.out) == fresh


def test_a_text_that_is_too_long_is_left_out_of_a_run_and_counted(config):
    """It would be gone without a word, or take all memory when it is tokenized."""
    long = config.chunks_root / "beta" / "long.jsonl"
    long.write_text(json.dumps({"text": "a" * (MAX_TEXT_CHARS + 1), "id": "long"}) + "\n")
    with pytest.raises(InputError, match=r"chunk 0 of .*long\.jsonl is too long: its 'text' has 2,000,001 ch"):
        run(config)
    done = CliRunner().invoke(app, command_of(config, "--on-bad-input", "skip"))
    assert done.exit_code == 0, done.stderr
    assert "1 input item skipped: see skipped.jsonl" in done.stdout
    (row,) = map(json.loads, (config.out / "skipped.jsonl").read_text().splitlines())
    assert (row["file"], row["index"], row["reason"]) == (str(long), 0, "text too long")
    events = map(json.loads, (config.out / "events.jsonl").read_text().splitlines())
    assert [event["reason"] for event in events if event["event"] == "InputSkipped"] == ["text too long"]


LINES = "".join(json.dumps({"text": f"text {number}", "id": f"line {number}"}) + "\n" for number in range(2000))


@pytest.mark.parametrize("on_bad_input", ["error", "skip"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", LINES), ("a_chunks.json", "[" + ",".join(LINES.splitlines()) + "]")],
)
@pytest.mark.parametrize("change", ["appended", "cut", "replaced", "rewritten"])
def test_a_file_that_changes_while_it_is_read_is_no_input(tmp_path, name, content, change, on_bad_input):
    """Half of one version and half of another would be embedded as if that were a document."""
    file = tmp_path / "notes" / name
    file.parent.mkdir()
    file.write_text(content)
    config = SourceConfig(on_bad_input=on_bad_input)
    skipped: list[SkippedInput] = []
    reading = read_chunks(discover(tmp_path, config)[0], config, skipped.append)
    next(reading)
    if change == "appended":
        with file.open("a") as more:
            more.write('{"text": "more", "id": "more"}\n')
    elif change == "cut":
        with file.open("r+") as less:
            less.truncate(len(content) // 2)
    elif change == "replaced":  # the open file stays what it was, and is no longer the one of that name
        (tmp_path / "new").write_text(content)
        (tmp_path / "new").replace(file)
    else:
        with file.open("r+") as other:
            other.write(content.replace("text 1999", "text 2999"))
    with pytest.raises(BadChunkFileError) as caught:
        list(reading)
    assert require_sentence(caught.value) == f"{file} changed while it was read: {WRITTEN}"
    assert skipped == []


def test_a_file_that_is_read_alone_is_not_taken_for_one_that_changed(tmp_path):
    """Reading changes the time of access, which is no change."""
    file = write_chunks(tmp_path, "notes", 3)
    config = SourceConfig()
    reading = read_chunks(discover(tmp_path, config)[0], config, lambda item: None)
    next(reading)
    file.read_bytes()
    assert len(list(reading)) == 2


def test_a_run_whose_source_grows_under_it_leaves_the_finished_run_as_it_was(config):
    """The chunks of before would be replaced by some of those of a file that is being written."""
    run(config)
    before = files_of(config.out)
    lines = config.chunks_root / "beta" / "more.jsonl"
    lines.write_text(LINES)
    enough = threading.Event()

    def append() -> None:
        with lines.open("a", buffering=1) as file:
            for number in itertools.count():
                file.write(json.dumps({"text": "one more line", "id": f"more {number}"}) + "\n")
                if enough.wait(0.0001):
                    return

    writer = threading.Thread(target=append)
    try:
        with pytest.raises(InputError) as caught:
            run(config, On(lambda event: isinstance(event, RunStarted), writer.start))
    finally:
        enough.set()
        writer.join()
    assert require_sentence(caught.value) == f"{lines} changed while it was read: {WRITTEN}"
    assert files_of(config.out) == before
    assert not (config.out / ".incoming").exists()
    lines.unlink()
    result = run(config)
    assert [model.embedded for model in result.models] == [0, 0]
