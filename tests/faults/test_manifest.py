"""A manifest that is cut short, is no manifest, or names what it must not."""

from __future__ import annotations

import json
import shutil

import pytest
from support.fault_runs import files_of, finish, vector_rows

from soloist.engine import run
from soloist.events import ListSink, Notice
from soloist.stores import RunFolder
from soloist.stores.manifest import FileRecord, Manifest, file_sha256


def test_a_manifest_cut_at_any_byte_of_its_last_line_keeps_the_rows_before(copied):
    """A writer that was killed in mid-line would cost the whole run, or the row that is written next."""
    path = copied.out / "manifest.jsonl"
    content = path.read_bytes()
    rows = list(Manifest(copied.out).read().values())
    begin = content[:-1].rfind(b"\n") + 1
    new = FileRecord(file="c/chunks/part-00000.parquet", kind="chunks", rows=1, bytes=1, sha256="0")
    for end in range(begin, len(content)):
        path.write_bytes(content[:end])
        whole = rows if end == len(content) - 1 else rows[:-1]
        manifest = Manifest(copied.out)
        assert list(manifest.read().values()) == whole
        assert manifest.mend() == (0 if end in (begin, len(content) - 1) else 1)
        manifest.append(new)
        assert list(manifest.read().values()) == [*whole, new]


@pytest.mark.parametrize("share", [0.0, 0.37, 0.8])
def test_a_run_whose_manifest_was_cut_embeds_what_is_in_no_row_and_no_more(copied, fresh, share):
    """A run would take files that nobody vouches for, or begin anew."""
    path = copied.out / "manifest.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    (copied.out / "run.json").unlink()
    finish(copied, fresh)


def test_lines_that_are_no_rows_are_told_and_passed_over(copied, fresh):
    """A bad sector in the middle would take all rows behind it along."""
    path = copied.out / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    hurt = next(number for number, line in enumerate(lines) if b'"vectors"' in line)
    strange = [b"\x00" * 30 + b"\n", b"[]\n", b"null\n", b'{"file": 1}\n', b"[" * 5000 + b"\n"]
    typed = json.dumps({**json.loads(lines[hurt]), "collection": {}, "file": "x/chunks/part-00000.parquet"}) + "\n"
    path.write_bytes(b"".join([*lines[:hurt], lines[hurt][:-9] + b"\n", *strange, typed.encode(), *lines[hurt + 1 :]]))
    before = vector_rows(copied.out)
    sink = ListSink()
    run(copied, sink)
    notices = [event.message for event in sink.events if isinstance(event, Notice) and event.about == "manifest.jsonl"]
    assert notices == ["7 of its rows could not be read: the files that they named are written again"]
    assert sum(before.values()) == 54 - 8
    assert files_of(copied.out) == fresh


def test_rows_that_name_other_files_are_passed_over(copied, fresh, tmp_path):
    """A row is believed when files are moved and removed: one with .. would move a file of somebody else."""
    victims = [tmp_path / "victim.parquet", tmp_path / "x" / "chunks" / "part-00000.parquet"]
    victims.append(copied.out / "notes.txt")
    for victim in victims:
        victim.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(copied.out / "alpha/vectors/one/part-00000.parquet", victim)
    template = next(each for each in Manifest(copied.out).read().values() if each.kind == "vectors")
    names = [
        "../victim.parquet", str(victims[0]), "../x/chunks/part-00000.parquet", "alpha/../../victim.parquet",
        "notes.txt", "run.json", "events.jsonl", ".lock", "alpha/../notes.txt", "a\0b/chunks/part-00000.parquet",
        "", ".", "..", "alpha", "../run/../x/chunks/part-00000.parquet",
    ]  # fmt: skip
    with (copied.out / "manifest.jsonl").open("a") as file:
        for name in names:
            row = {field: getattr(template, field) for field in FileRecord.__slots__}
            row |= {"file": name, "sha256": file_sha256(victims[0]), "bytes": victims[0].stat().st_size, "content": "x"}
            file.write(json.dumps(row) + "\n")
    assert not set(names) & set(Manifest(copied.out).read())
    run(copied)
    assert all(victim.is_file() for victim in victims)
    (copied.out / "notes.txt").unlink()
    assert files_of(copied.out) == fresh
    assert RunFolder.open(copied.out).shards.indices("alpha") == (0, 1, 2)
