"""Files are written once: whole and under their final name, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from support.mounts import Disk

from soloist.errors import OutputError
from soloist.stores import RunFolder
from soloist.stores.atomic import atomic_path, disk_errors, make_folder
from soloist.stores.skipped import skipped_log
from soloist.types import SkippedInput


def test_the_file_appears_only_when_the_body_has_ended(tmp_path: Path) -> None:
    """A reader that polls would see half a file under the final name."""
    path = tmp_path / "a" / "b" / "file.bin"
    with atomic_path(path) as temp:
        temp.write_bytes(b"half")
        assert not path.exists()
        assert temp.parent == path.parent
        assert temp.name.startswith(".") and temp.name.endswith(".tmp")
    assert path.read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no"), KeyboardInterrupt()])
def test_a_body_that_raises_leaves_nothing_and_its_error_is_its_own(tmp_path: Path, error: BaseException) -> None:
    """A temp file would stay behind, or a reading error of the body would be called a writing error."""
    with pytest.raises(type(error)) as caught, atomic_path(tmp_path / "file.bin") as temp:
        temp.write_bytes(b"half")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_raises_keeps_the_file_of_before(tmp_path: Path) -> None:
    """A failed second writing would destroy the first."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"before")
    with pytest.raises(ValueError), atomic_path(path) as temp:
        temp.write_bytes(b"after")
        raise ValueError
    assert path.read_bytes() == b"before"


def test_a_folder_below_a_file_is_an_output_error(tmp_path: Path) -> None:
    """A bare OSError would reach the user."""
    (tmp_path / "file").write_text("")
    sentence = r"cannot write .*file/sub/x: .*: check the disk, or choose another folder"
    with pytest.raises(OutputError, match=sentence), atomic_path(tmp_path / "file" / "sub" / "x"):
        pytest.fail("the body must not run")


def test_disk_errors_names_the_remedy_for_a_full_disk(tmp_path: Path) -> None:
    """The user would read pyarrow's wording and no remedy."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    sentence = r"^cannot write .*x: No space left on device: free some space and run again$"
    with pytest.raises(OutputError, match=sentence), disk_errors(tmp_path / "x"):
        Path("/dev/full").write_text("x")


def test_make_folder_accepts_one_that_exists(tmp_path: Path) -> None:
    """A second shard of the same collection would fail."""
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_full_disk_is_an_output_error_and_leaves_no_part(disk: Disk) -> None:
    """A truncated shard would lie under its final name, or the temp file would keep the disk full."""
    disk.mount("size=64k")
    run = RunFolder.create(disk.path / "run")
    ids = [str(i) for i in range(256)]
    with pytest.raises(
        OutputError, match=r"part-00000\.parquet: No space left on device: free some space and run again"
    ):
        run.manifest.append(run.shards.write_vectors("c", "m", 0, ids, np.ones((256, 256), np.float32)))
    assert [entry for entry in run.path.rglob("*") if entry.is_file()] == []
    run.manifest.append(run.shards.write_vectors("c", "m", 0, ids[:4], np.ones((4, 8), np.float32)))
    assert run.shards.read_vectors("c", "m", 0)[0] == ids[:4]


def test_a_full_disk_stops_the_skipped_file_too(disk: Disk) -> None:
    """Buffered rows would get lost when the file is closed."""
    disk.mount("size=64k")
    run = RunFolder.create(disk.path / "run")
    row = SkippedInput(collection="c", file=Path("f"), index=0, reason="empty text", detail="x" * 1000)
    sentence = r"skipped\.jsonl: No space left on device: free some space and run again"
    with pytest.raises(OutputError, match=sentence), skipped_log(run.path) as skipped:
        for _ in range(200):
            skipped.append(row)
    assert list(run.path.iterdir()) == []


@pytest.mark.process
def test_a_file_size_limit_is_an_output_error(tmp_path: Path) -> None:
    """Where no small disk can be mounted: the system refuses the bytes, and a half file would stay."""
    pytest.importorskip("resource", reason="file size limits are POSIX")
    code = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from soloist.errors import OutputError
        from soloist.stores import RunFolder

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run = RunFolder.create(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            ids = [str(i) for i in range(64)]
            run.manifest.append(run.shards.write_vectors("c", "m", 0, ids, np.ones((64, 64), np.float32)))
        except OutputError as error:
            print(error)
        print([entry for entry in run.path.rglob("*") if entry.is_file()])
    """
    done = _python(code, tmp_path / "run")
    assert "part-00000.parquet: File too large: check the disk, or choose another folder" in done
    assert done.endswith("[]\n")


@pytest.mark.process
def test_a_killed_writer_leaves_no_shard_that_a_reader_sees(tmp_path: Path) -> None:
    """A run that was killed in mid-file would be read as if the shard were whole."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from soloist.stores.atomic import atomic_path

        with atomic_path(Path(sys.argv[1]) / "c" / "chunks" / "part-00000.parquet") as temp:
            temp.write_bytes(b"PAR1 half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    _python(code, tmp_path, expected=-signal.SIGKILL)
    left = [entry.name for entry in (tmp_path / "c" / "chunks").iterdir()]
    assert len(left) == 1 and left[0].startswith(".") and left[0].endswith(".tmp")
    assert RunFolder(tmp_path).shards.indices("c") == ()


def _python(code: str, folder: Path, *, expected: int = 0) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == expected, done.stderr
    return done.stdout
