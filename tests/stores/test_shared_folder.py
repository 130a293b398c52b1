"""Whether two machines see one folder: the file of a probe is known by its bytes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from soloist.errors import OutputError
from soloist.stores.shared_folder import awaited, read_probe, write_probe


def test_who_sees_the_folder_reads_the_probe(tmp_path: Path) -> None:
    """A good folder would be refused, or files would be left beside the probe."""
    probe = write_probe(tmp_path, "node-1.probe")
    assert read_probe(tmp_path, probe, patience_seconds=0)
    assert [path.name for path in tmp_path.iterdir()] == [probe["file"]]


def test_a_folder_of_the_same_path_on_another_machine_is_told_apart(tmp_path: Path) -> None:
    """Every worker would write to its own disk, and the run would find none of it at its end."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    probe = write_probe(there, "node-1.probe")
    assert not read_probe(here, probe, patience_seconds=0)
    write_probe(here, "node-1.probe")  # the same name, other bytes
    assert not read_probe(here, probe, patience_seconds=0)


def test_a_file_system_that_shows_a_file_late_is_waited_for(tmp_path: Path) -> None:
    """NFS keeps what it knows of a folder for some seconds: a good folder would be refused."""
    there = tmp_path / "there"
    there.mkdir()
    probe = write_probe(there, "probe")
    late = threading.Timer(0.3, (there / "probe").rename, [tmp_path / "probe"])
    late.start()
    began = time.monotonic()
    assert read_probe(tmp_path, probe, patience_seconds=60)
    assert time.monotonic() - began < 30
    late.join()


def test_what_never_comes_is_not_waited_for_without_end() -> None:
    """A file that is damaged, and not late, would hold up the run."""
    looks: list[int] = []
    assert awaited(lambda: looks.append(1), patience_seconds=0.25) is None
    assert 1 < len(looks) < 30


def test_a_missing_folder_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    """A node that does not see the shared folder would make one of its own, and write a whole run there."""
    with pytest.raises(OutputError, match=r"cannot write .*probe: No such file or directory"):
        write_probe(tmp_path / "missing" / "session", "probe")
    assert list(tmp_path.iterdir()) == []
