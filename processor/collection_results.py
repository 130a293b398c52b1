"""What scripts/embed_collections_v5.py leaves: the files of a collection, and a digest of the chunks in them.

Knows run folders and files; knows no flags and no embedder.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from processor.ultimate_embedder.log import logger
from soloist.config import SourceConfig
from soloist.errors import ConfigError, OutputError
from soloist.jsontext import json_text
from soloist.sources import read_chunks
from soloist.stores import folder_name
from soloist.stores.atomic import atomic_path, disk_errors, make_folder
from soloist.types import Collection

if TYPE_CHECKING:
    from processor.ultimate_embedder.results import FinishedRun

RUN = "run"


def require_usable(output: Path, names: Iterable[str]) -> None:
    """Refuse an output root that cannot be used, before anything is embedded.

    Raises:
        ConfigError: a collection has the name of the run folder.
        OutputError: the output root is a file, or holds something else than a run.
    """
    if RUN in {folder_name(name) for name in names}:
        raise ConfigError(f"a collection is called {RUN!r}, which is the run folder's name: rename the collection")
    with disk_errors(output):
        if output.exists() and not output.is_dir():
            raise OutputError(f"{output} is a file: choose another output root")
        run = output / RUN
        if run.exists() and any(run.iterdir()) and not (run / "run.json").is_file():
            raise OutputError(f"{run} is not a run folder of soloist: choose another output root")


@contextmanager
def made_folder(output: Path) -> Iterator[None]:
    """Make the output root. It is removed again where it is new and stays empty because of an error."""
    new = not output.exists()
    with disk_errors(output):
        make_folder(output)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # something is in it
                output.rmdir()
        raise


@contextmanager
def temporary_folder(output: Path) -> Iterator[Path]:
    """A folder in the output root, which is removed in the end."""
    with disk_errors(output):
        folder = Path(tempfile.mkdtemp(prefix=".embedding-", dir=output))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(made: Path, target: Path, replaced: Path) -> None:
    """Move the folder `made` to `target`, and a folder that is there to `replaced`.

    Raises:
        OutputError: `made` cannot be moved. Then `target` is as before.
    """
    with disk_errors(target):
        try:
            if target.exists():
                target.rename(replaced)
            made.rename(target)
        finally:
            if replaced.exists() and not target.exists():
                replaced.rename(target)


def result_file(output: Path, collection: str, ending: str) -> Path:
    """The path of a file of a collection's results."""
    folder = folder_name(collection)
    return output / folder / f"{folder}_{ending}"


def stats_file(output: Path, collection: str) -> Path:
    """The path of a collection's settings and figures, which are written last."""
    return result_file(output, collection, "processing_stats.json")


def write_vectors(run: FinishedRun, collection: str, file: Path) -> None:
    """Write a collection's vectors, a shard at a time, so that memory stays bounded."""
    with atomic_path(file) as temporary, disk_errors(file):
        shape = (run.counts[collection], run.dim)
        rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        run.fill(collection, rows)
        rows.flush()


def write_metadata(run: FinishedRun, collection: str, file: Path) -> None:
    """Write a line for every row: id, text and metadata."""
    with (
        atomic_path(file) as temporary,
        disk_errors(file),
        temporary.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for index in run.folder.shards.indices(collection):
            for chunk in run.folder.shards.read_chunks(collection, index):
                row = {"id": chunk.id, "text": chunk.text, "metadata": dict(chunk.metadata)}
                lines.write(json_text(row) + "\n")


def write_json(file: Path, value: Any) -> None:
    """Write a value as indented JSON, in one step."""
    with atomic_path(file) as temporary, disk_errors(file):
        temporary.write_text(json_text(value, indent=2) + "\n", encoding="utf-8", newline="\n")


def pack(output: Path) -> None:
    """Write the output root into a zip file beside it."""
    final = output.with_name(f"{output.name}.zip")
    with disk_errors(final), tempfile.TemporaryDirectory(prefix=".embedding-", dir=output.parent) as folder:
        Path(shutil.make_archive(str(Path(folder) / "output"), "zip", output)).replace(final)
    logger.info("packed into %s", final)


def digest_of_source(collection: Collection, source: SourceConfig, without: Set[tuple[str, int]] = frozenset()) -> str:
    """The digest of a collection's chunks as its files have them, without those at some places (file and index)."""
    chunks = read_chunks(collection, source, lambda _skipped: None)
    return _digest((chunk.id, chunk.text) for chunk, place in chunks if (str(place.file), place.index) not in without)


def digest_of_run(run: FinishedRun, collection: str) -> str:
    """The digest of a collection's chunks as the run has them."""
    shards = (run.folder.shards.read_shard(collection, index) for index in run.folder.shards.indices(collection))
    return _digest(pair for shard in shards for pair in zip(shard.ids, shard.texts, strict=True))


def _digest(ids_and_texts: Iterable[tuple[str, str]]) -> str:
    """32 hex digits over ids and texts, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in ids_and_texts:
        for part in pair:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()
