"""One run over a root with one file of every kind: every text is embedded, or its file is listed."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from support.chunk_kinds import KINDS, PACKERS
from support.tiny_models import make_static
from typer.testing import CliRunner

from soloist.cli import app
from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.engine import run
from soloist.engine.resume.changes import changes
from soloist.errors import InputError
from soloist.events import InputPassedOver, ListSink, Notice
from soloist.exports import export_run
from soloist.formats import format_of
from soloist.planning.estimate import estimate_run
from soloist.stores import RunFolder
from soloist.types import SkipReason

# Files that are none of chunks, each with what lies in it and how it is listed.
OTHERS = {
    "docs/notes.txt": (b"a text of a note", "no format with this ending is read"),
    "docs/README.md": (b"# a heading", "no format with this ending is read"),
    "docs/old.jsonl.xz": (b"\xfd7zXZ\x00", "packed in a way that is not read"),
    "docs/e.parquet.gz": (gzip.compress(b"PAR1"), "packed in a way that is not read"),
    "docs/model.pkl": (b"\x80", "no format with this ending is read"),
    "docs/data.json": (b'[{"text": "a"}]', "no pattern takes it"),
    "docs/state.json": (b"{}", "no pattern takes it"),
    "docs/_SUCCESS": (b"", "a marker of another tool"),
    "docs/queries.jsonl": (b'{"_id": "q", "text": "why?"}\n', "questions"),
    "docs/qrels/test.tsv": (b"query-id\tcorpus-id\tscore\nq\t1\t1\n", "no column of texts"),
    "loose.bin": (b"\0", "no format with this ending is read"),
}
# Files that are skipped, and the reason.
SKIPPED: dict[str, tuple[bytes, SkipReason]] = {
    "docs/empty.csv": (b"", "no chunks"),
    "docs/cut.jsonl.gz": (gzip.compress(b'{"text": "lost"}\n' * 9)[:-5], "unreadable file"),
    "docs/wide.csv": ("text\na".encode("utf-16"), "unreadable file"),
    "docs/blank.tsv": (b'text\n" "\n', "empty text"),
}


def every_kind(root: Path) -> dict[str, str]:
    """A file of each format and packing, each with three texts of its own; gives the texts by their ids."""
    texts: dict[str, str] = {}
    kinds = dict(KINDS)
    for name, make in KINDS.items():
        if format_of(name).is_text and name.startswith(("a.", "lines")):
            kinds |= {
                name + ending: lambda rows, make=make, pack=pack: pack(make(rows)) for ending, pack in PACKERS.items()
            }
    for number, (name, make) in enumerate(kinds.items()):
        rows = [{"id": f"{name} {row}", "text": f"text {row} of {name}", "metadata": {"page": row}} for row in range(3)]
        texts |= {row["id"]: row["text"] for row in rows}
        folder = root / ("docs" if number % 2 else "docs/lang=en")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make(rows))
    for name, content in (OTHERS | SKIPPED).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content[0])
    return texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_static(tmp_path_factory.mktemp("static") / "model")


def test_the_sum_of_what_is_embedded_and_listed_is_what_lies_there(tmp_path: Path, model: Path) -> None:
    """A text would be gone without a word; or a kind of file be read on its own and not beside others."""
    root = tmp_path / "chunks"
    texts = every_kind(root)
    config = RunConfig(
        chunks_root=root, out=tmp_path / "run", models=(str(model),), accelerator="cpu", lock_dir=tmp_path / "locks",
        cache_dir=tmp_path / "cache", fusion=FusionConfig(method="none"), source=SourceConfig(on_bad_input="skip"),
    )  # fmt: skip
    sink = ListSink()
    run(config, sink)
    folder = RunFolder.open(config.out)
    chunks = [chunk for shard in folder.shards.indices("docs") for chunk in folder.shards.read_chunks("docs", shard)]
    assert {chunk.id: chunk.text for chunk in chunks} == texts and len(chunks) == len(texts)
    partitioned = [chunk for chunk in chunks if "lang" in chunk.metadata]
    assert 0 < len(partitioned) < len(chunks) and {chunk.metadata["lang"] for chunk in partitioned} == {"en"}
    rows = [json.loads(row) for row in (config.out / "skipped.jsonl").read_text().splitlines()]
    listed = json.loads((config.out / "run.json").read_text())["passed_over"]
    skipped = {Path(row["file"]).relative_to(root).as_posix(): row["reason"] for row in rows}
    assert skipped == {name: reason for name, (_, reason) in SKIPPED.items()}
    assert {each["file"]: each["reason"] for each in listed["first"]} == {
        n: reason for n, (_, reason) in OTHERS.items()
    }
    lying = [file for file in root.rglob("*") if file.is_file()]
    embedded = {file for file in lying if any(id_.startswith(f"{file.name} ") for id_ in texts)}
    assert len(embedded) + len(skipped) + listed["files"] == len(lying)
    # It is said in every way.
    (notice,) = [event.message for event in sink.events if isinstance(event, Notice) and event.about == "input"]
    assert notice.startswith(
        "10 files are not chunk files and were passed over: docs/data.json (its name matches no pattern)"
    )
    assert [event.files for event in sink.events if isinstance(event, InputPassedOver)] == [11]
    assert "; to read files with other names, give --file-patterns" in notice
    assert notice in estimate_run(config).notes
    assert changes(config).notices[0] == f"input: {notice}"
    refused_as_input(config, tmp_path)


def refused_as_input(config: RunConfig, folder: Path) -> None:
    """A run and every export into files, each as a part of another root."""
    for kind, name in (("run", "run"), ("parquet", "p"), ("numpy", "n"), ("jsonl", "rows.jsonl")):
        root = folder / f"with {kind}"
        (root / "docs").mkdir(parents=True)
        (root / "docs" / "a.jsonl").write_text('{"text": "a"}\n')
        if kind == "run":
            shutil.copytree(config.out, root / "docs" / name)
        else:
            export_run(config.out, kind, out=root / "docs" / name)
        with pytest.raises(InputError, match="so its rows are not chunks: move it out of"):
            run(RunConfig(chunks_root=root, out=folder / "no", models=config.models, accelerator="cpu"))


def test_a_folder_of_beir_is_embedded_as_it_is_and_the_terminal_says_what_was_passed_over(
    tmp_path: Path, model: Path
) -> None:
    """The judgements, which are a table without texts, would stop the run; or the questions be left out in silence."""
    root = tmp_path / "nfcorpus"
    (root / "qrels").mkdir(parents=True)
    (root / "corpus.jsonl").write_text('{"_id": "d1", "title": "t", "text": "a text"}\n')
    (root / "queries.jsonl").write_text('{"_id": "q1", "text": "a question"}\n')
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    done = CliRunner().invoke(
        app,
        [
            "embed", str(root), "--out", str(tmp_path / "run"), "--models", str(model), "--fusion", "none",
            "--accelerator", "cpu", "--lock-dir", str(tmp_path / "locks"), "--cache-dir", str(tmp_path / "cache"),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert (
        "input: 2 files are not chunk files and were passed over: qrels/test.tsv (has no column 'text', only "
        "'query-id', 'corpus-id', 'score'), queries.jsonl (the questions of a BEIR folder); to read texts from another "
        "column, give --text-field"
    ) in done.stderr
