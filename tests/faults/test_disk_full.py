"""A disk that is full, at whatever moment, and one that takes nothing at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time

import pytest
from support.fault_runs import N_CHUNKS, On, files_of, finish, require_sentence, write_chunks

from soloist.engine import run
from soloist.errors import OutputError
from soloist.events import JsonLinesSink, Notice, PassStarted, ShardEncoded, ShardFused
from soloist.stores import RunFolder
from soloist.stores.manifest import FileRecord, Manifest
from soloist.stores.status import run_status
from soloist.stores.verification import verify_run

FULL = "No space left on device: free some space and run again"


def test_a_disk_that_fills_at_any_moment_costs_the_file_in_work(config, disk, fresh):
    """A run that hit the end of the disk would lose what it had, or could not go on once there is room."""
    named = []
    for size_kib in (16, 24, 32, 48, 64, 72, 80, 88):
        disk.mount(f"size={size_kib}k")
        small = dataclasses.replace(config, out=disk.path / "run")
        with pytest.raises(OutputError) as caught:
            run(small)
        assert require_sentence(caught.value).endswith(FULL)
        named.append(str(caught.value).split("disk/run/")[1])
        disk.mount("size=4m")
        finish(small, fresh)
        disk.unmount()
    # The moments that were met: while chunks are read, while they are taken over, while models embed, while vectors are
    # fused.
    for part in (".incoming/", "manifest.jsonl", "/vectors/", "/fused/"):
        assert any(part in name for name in named), named


@pytest.mark.parametrize("kind", [PassStarted, ShardEncoded, ShardFused])
def test_a_disk_that_another_program_fills_is_the_same(config, disk, fresh, kind):
    """The check at the start of a run says nothing about the disk an hour later."""
    disk.mount("size=2m")
    small = dataclasses.replace(config, out=disk.path / "run")
    fills = On(lambda event: isinstance(event, kind), disk.fill)
    with pytest.raises(OutputError) as caught:
        run(small, fills)
    assert require_sentence(caught.value).endswith(FULL)
    assert fills.happened
    (disk.path / "ballast").unlink()
    finish(small, fresh)


def test_a_full_disk_stops_a_run_that_is_finished_and_has_new_chunks_and_loses_none_of_it(config, disk):
    """The chunks of before would be gone before those of now are there."""
    disk.mount("size=2m")
    small = dataclasses.replace(config, out=disk.path / "run")
    run(small)
    before = files_of(small.out)
    write_chunks(config.chunks_root, "gamma", 9)
    ballast = disk.fill(leave_bytes=8192)
    with pytest.raises(OutputError) as caught:
        run(small)
    assert require_sentence(caught.value).endswith(FULL)
    assert files_of(small.out) == before
    assert verify_run(RunFolder.open(small.out)).problems == ()
    ballast.unlink()
    result = run(small)
    assert {model.name: model.embedded for model in result.models} == {"one": 9, "two": 9}


def test_a_full_disk_is_told_once_by_the_event_log_and_costs_half_a_line(disk):
    """The events that follow from the first error would hide it, or the next run would write behind half a line."""
    disk.mount("size=64k")
    path = disk.path / "events.jsonl"
    disk.fill(leave_bytes=8192)
    sink = JsonLinesSink(path, time.time)
    with pytest.raises(OutputError) as caught:
        for number in range(1000):
            sink.emit(Notice(about=str(number), message="x" * 90))
    assert require_sentence(caught.value).endswith(f"events.jsonl: {FULL}")
    sink.emit(Notice(about="after", message="is passed over"))
    sink.close()
    whole = path.read_text().rpartition("\n")[0].splitlines()
    (disk.path / "ballast").unlink()
    again = JsonLinesSink(path, time.time)
    again.emit(Notice(about="again", message="there is room"))
    again.close()
    lines = path.read_text().splitlines()
    assert lines[: len(whole)] == whole
    assert '"again"' in lines[-1]
    assert len(lines) <= len(whole) + 2


def test_a_full_disk_in_the_midst_of_a_manifest_row_keeps_the_rows_before(disk):
    """One half row would take the next one with it, which begins on the same line."""
    disk.mount("size=64k")
    disk.fill(leave_bytes=8192)
    manifest = Manifest(disk.path)
    written = []
    with pytest.raises(OutputError) as caught:
        for shard in range(1000):
            manifest.append(_record(shard))
            written.append(_record(shard))
    assert require_sentence(caught.value).endswith(f"manifest.jsonl: {FULL}")
    (disk.path / "ballast").unlink()
    manifest.mend()
    manifest.append(_record(5000))
    assert list(manifest.read().values()) == [*written, _record(5000)]


def test_no_room_for_the_notice_of_a_stop_is_no_noise(config, disk, capfd):
    """The thread that says it would print a traceback, and its error would be taken for the run's."""
    import signal

    disk.mount("size=2m")
    small = dataclasses.replace(config, out=disk.path / "run")

    def fill_and_stop() -> None:
        disk.fill()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

    with pytest.raises(OutputError) as caught:
        run(small, On(lambda event: isinstance(event, PassStarted), fill_and_stop))
    require_sentence(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_disk_that_is_read_only_is_a_sentence_and_can_still_be_read(config, disk, fresh):
    """A mounted result would be refused by status and verify, or a run on it would end in a bare OSError."""
    disk.mount("size=2m")
    finished = dataclasses.replace(config, out=disk.path / "run")
    run(finished)
    begun = dataclasses.replace(config, out=disk.path / "begun", stop_after=0.001)
    with pytest.raises(Exception, match="stopped because its time is over"):
        run(begun, On(lambda event: isinstance(event, PassStarted), lambda: time.sleep(0.01)))
    shutil.copytree(finished.out, disk.path / "begun", dirs_exist_ok=True)
    (disk.path / "begun" / "run.json").unlink()
    disk.mount("ro")
    for out in (finished.out, begun.out, disk.path / "new"):
        with pytest.raises(OutputError) as caught:
            run(dataclasses.replace(config, out=out))
        sentence = f"cannot write {out}: Read-only file system: allow writing there, or choose another folder"
        assert require_sentence(caught.value) == sentence
    assert verify_run(RunFolder.open(finished.out)).problems == ()
    found = run_status(finished.out)
    assert (found.finished, found.at_work) == (True, False)
    disk.mount("rw")
    finish(finished, fresh)


def test_a_folder_that_may_not_be_written_is_the_same(config):
    """Where no disk can be mounted: the usual case of a folder of another user."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    config.out.mkdir()
    config.out.chmod(0o555)
    try:
        with pytest.raises(OutputError) as caught:
            run(config)
    finally:
        config.out.chmod(0o755)
    assert require_sentence(caught.value).endswith("allow writing there, or choose another folder")


def _record(shard: int) -> FileRecord:
    file = f"c/chunks/part-{shard:05d}.parquet"
    return FileRecord(file=file, kind="chunks", rows=N_CHUNKS, bytes=1, sha256="0" * 64, collection="c", shard=shard)
