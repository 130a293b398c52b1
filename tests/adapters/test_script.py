"""The command line of the plan: its files, its refusals and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_models
from support.chunk_files import write_chunk_files
from support.collections import write_catalogue
from support.ctrl_c import interrupted

from processor.collection_results import install
from scripts.embed_collections_v5 import main
from soloist.errors import OutputError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("tiny_environment")


def embed(chunks_root: Path, output: Path, *flags: str, model: str = "tiny-bert") -> int:
    """Run the command in this process."""
    return main(["--chunks-root", str(chunks_root), "--output-root", str(output), "--model", model, *flags])


def read(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def files_of(folder: Path) -> dict[str, int]:
    """Every file below a folder, and when it was changed."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_it_writes_these_files_and_leaves_the_input_alone(chunks_root: Path, tmp_path: Path) -> None:
    """Catches files left over from the making, a file that users of the plan's tool miss, a changed input."""
    before = files_of(chunks_root)
    assert embed(chunks_root, tmp_path / "out") == 0
    names = ("test_collection", "notes")
    own = {"embeddings.npy", "ids.json", "metadata.jsonl", "processing_stats.json"}
    expected = {f"{name}/{name}_{ending}" for name in names for ending in own}
    expected |= {f"run/{name}/chunks/part-00000.parquet" for name in names}
    expected |= {f"run/{name}/vectors/tiny-bert/part-00000.parquet" for name in names}
    expected |= {"embedding_summary.json", "run/run.json", "run/id.json", "run/events.jsonl", "run/skipped.jsonl"}
    expected |= {"run/manifest.jsonl", "run/.lock"}
    assert set(files_of(tmp_path / "out")) == expected
    assert files_of(chunks_root) == before


def test_rows_ids_and_metadata_go_together(chunks_root: Path, tmp_path: Path) -> None:
    """Catches vectors that belong to another row's text."""
    assert embed(chunks_root, tmp_path, "--collections", "notes") == 0
    vectors = np.load(tmp_path / "notes/notes_embeddings.npy")
    ids = read(tmp_path / "notes/notes_ids.json")
    rows = [json.loads(line) for line in (tmp_path / "notes/notes_metadata.jsonl").read_text("utf-8").splitlines()]
    texts = [record["text"] for name in "ab" for record in read(chunks_root / f"notes/{name}_chunks.json")]
    assert vectors.shape == (10, 32)
    assert vectors.dtype == np.float32
    assert [row["id"] for row in rows] == ids
    assert [row["text"] for row in rows] == texts
    assert all(set(row) == {"id", "text", "metadata"} for row in rows)


def test_the_summary_says_how_the_vectors_were_made(chunks_root: Path, tmp_path: Path) -> None:
    """Catches weights or a dim that a reader of the summary cannot know, and a flag that has no effect."""
    flags = ("--enable-ensemble", "--exclusive-ensemble", "--ensemble-models", "bge-m3", "--matryoshka-dim", "16")
    summary = tmp_path / "elsewhere.json"
    code = embed(
        chunks_root, tmp_path / "out", *flags, "--model-weights", "tiny-bert=3,bge-m3=1", "--summary", str(summary)
    )
    assert code == 0
    items = read(summary)
    assert [item["collection"] for item in items] == ["notes", "test_collection"]
    for item in items:
        assert item["ensemble_mode"] == "exclusive"
        assert item["models"] == ["tiny-bert", "bge-m3"]
        assert item["model_weights"] == {"tiny-bert": 0.75, "bge-m3": 0.25}
        assert item["matryoshka_dim"] == 16 == item["embedding_dimension"]
    assert not (tmp_path / "out" / "embedding_summary.json").exists()
    stats = read(tmp_path / "out/notes/notes_processing_stats.json")
    assert len(stats["lease_events"]) == 4
    assert stats["lease_events"] == stats["gpu_lease_events"]


def test_existing_results_are_left_alone_or_replaced(
    chunks_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a skip that embeds again, a skip that nobody is told of, and old results that stay when not skipped."""
    assert embed(chunks_root, tmp_path, "--collections", "notes") == 0
    before = files_of(tmp_path / "notes")
    vectors = (tmp_path / "notes/notes_embeddings.npy").read_bytes()
    assert embed(chunks_root, tmp_path, "--skip-existing") == 0
    assert files_of(tmp_path / "notes") == before
    assert [item["skipped_existing"] for item in read(tmp_path / "embedding_summary.json")] == [True, False]
    assert "notes: left out" in caplog.text
    # The run folder has what its run.json says, and nothing of an earlier run.
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"test_collection"}
    assert [item["name"] for item in read(tmp_path / "run/run.json")["collections"]] == ["test_collection"]
    assert embed(chunks_root, tmp_path, "--skip-existing") == 0
    assert embed(chunks_root, tmp_path) == 0
    after = files_of(tmp_path / "notes")
    assert all(after[name] > before[name] for name in before)
    assert (tmp_path / "notes/notes_embeddings.npy").read_bytes() == vectors


def test_results_of_another_model_are_not_taken_for_these(
    chunks_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches vectors of two models that end up in one collection's results."""
    assert embed(chunks_root, tmp_path, "--collections", "notes") == 0
    assert embed(chunks_root, tmp_path, "--skip-existing", model="bge-m3") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "--no-skip-existing" in line


@pytest.mark.parametrize(("changed", "part"), [("model", "other fingerprints"), ("text", "other chunks")])
def test_results_of_other_weights_or_texts_are_not_kept(
    changed: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches vectors of weights or texts that were replaced under the same name, and a refusal that costs them."""
    file = write_chunk_files(tmp_path / "chunks/notes", [{"text": f"text {i}"} for i in range(4)]) / "a_chunks.json"
    catalogue = write_catalogue(tmp_path / "own.toml", {"own": tiny_models.make_bert(tmp_path / "first")})
    monkeypatch.setenv("SOLOIST_CATALOGUE", str(catalogue))
    output = tmp_path / "out"
    assert embed(tmp_path / "chunks", output, model="own") == 0
    assert embed(tmp_path / "chunks", output, "--skip-existing", model="own") == 0
    if changed == "model":
        write_catalogue(catalogue, {"own": tiny_models.make_bert(tmp_path / "second", num_hidden_layers=1)})
    else:
        file.write_text(file.read_text().replace("text 0", "another text"))
    before = files_of(output)
    assert embed(tmp_path / "chunks", output, "--skip-existing", model="own") == 1
    assert part in capsys.readouterr().err
    assert files_of(output) == before
    assert embed(tmp_path / "chunks", output, "--no-skip-existing", model="own") == 0


def test_a_run_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path) -> None:
    """Catches an old run that is deleted with the temporary folder when the new one does not arrive."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("old")
    with pytest.raises(OutputError, match="cannot write"):
        install(tmp_path / "absent", tmp_path / "run", tmp_path / "replaced")
    assert (tmp_path / "run/run.json").read_text() == "old"
    assert not (tmp_path / "replaced").exists()


def test_the_output_can_be_packed(chunks_root: Path, tmp_path: Path) -> None:
    """Catches a zip without the results, or one that packs itself."""
    assert embed(chunks_root, tmp_path / "out", "--collections", "notes", "--zip-output") == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    assert packed == set(files_of(tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"locks", "out", "out.zip"}


@pytest.mark.parametrize(
    "flags",
    [
        ("--exclusive-ensemble",),
        ("--exclusive-ensemble", "--enable-ensemble", "--ensemble-mode", "disabled"),
        ("--exclusive-ensemble", "--ensemble-mode", "disabled"),
        ("--enable-ensemble", "--ensemble-mode", "disabled"),
        ("--ensemble-mode", "sequential"),
        ("--ensemble-models", "tiny-bert,bge-m3"),
        ("--aggregation-method", "concat"),
        ("--model-weights", "tiny-bert=1"),
        ("--enable-ensemble", "--model-weights", "tiny-bert"),
        ("--enable-ensemble", "--model-weights", "tiny-bert=1,tiny-bert=2"),
        ("--enable-ensemble", "--ensemble-models", "a,,b"),
        ("--matryoshka-dim", "0"),
        ("--no-such-flag",),
    ],
)
def test_flags_that_contradict_each_other_are_usage_errors(
    flags: tuple[str, ...], chunks_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a conflict that is resolved silently."""
    with pytest.raises(SystemExit) as stopped:
        embed(chunks_root, tmp_path / "out", *flags)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_two_accelerators_are_a_usage_error(
    chunks_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a flag that silently wins over the environment, or loses to it."""
    monkeypatch.setenv("SOLOIST_ACCELERATOR", "cuda")
    with pytest.raises(SystemExit) as stopped:
        embed(chunks_root, tmp_path / "out", "--force-cpu")
    assert stopped.value.code == 2
    assert "SOLOIST_ACCELERATOR=cuda" in capsys.readouterr().err


def test_results_are_not_written_where_chunks_are_read(chunks_root: Path) -> None:
    """Catches metadata files that the next run would embed as chunks."""
    with pytest.raises(SystemExit) as stopped:
        embed(chunks_root, chunks_root / "out")
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "flags", [("--collections", "absent"), ("--collections", "hollow"), ("--model", "no-such-model")]
)
def test_what_cannot_be_embedded_fails_in_one_line(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a collection that is missing or empty and passes for a success, and tracebacks for users."""
    for name, records in (("hollow", []), ("full", [{"text": "something to embed"}])):
        (tmp_path / "chunks" / name).mkdir(parents=True)
        (tmp_path / "chunks" / name / "a_chunks.json").write_text(json.dumps(records))
    assert embed(tmp_path / "chunks", tmp_path / "out", *flags) == 1
    assert [line[:7] for line in capsys.readouterr().err.splitlines() if "error" in line.lower()] == ["error: "]
    assert not (tmp_path / "out").exists()


def test_chunks_that_are_all_empty_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an error without its reason, for which there is no file yet to look it up in."""
    write_chunk_files(tmp_path / "chunks/notes", [{"text": " "}, {"text": ""}])
    for flags in ((), ("--collections", "notes")):
        assert embed(tmp_path / "chunks", tmp_path / "out", *flags) == 1
        assert "a_chunks.json (chunk 0): empty text; " in capsys.readouterr().err


def test_what_is_replaced_is_said(chunks_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Catches results of hours that are overwritten without a word; and a warning where nothing is."""
    assert embed(chunks_root, tmp_path, "--collections", "notes") == 0
    assert "replaced" not in caplog.text
    assert embed(chunks_root, tmp_path) == 0
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == f"in {tmp_path}, new results replace these: notes, run"


def test_the_input_options_that_errors_name_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an error whose remedy is an option that the command does not have, or that has no effect."""
    (tmp_path / "chunks/notes").mkdir(parents=True)
    file = tmp_path / "chunks/notes/mine.json"
    file.write_text(json.dumps([{"body": f"text {i}", "key": f"k{i}"} for i in range(3)] + [{"text": "no body"}]))
    assert embed(tmp_path / "chunks", tmp_path / "out") == 1
    assert "--file-patterns" in capsys.readouterr().err
    flags = ["--file-patterns", "mine.json", "--text-field", "body", "--id-field", "key"]
    assert embed(tmp_path / "chunks", tmp_path / "out", *flags) == 1
    assert "--on-bad-input skip" in capsys.readouterr().err
    flags += ["--on-bad-input", "skip"]
    assert embed(tmp_path / "chunks", tmp_path / "out", *flags) == 0
    assert read(tmp_path / "out/notes/notes_ids.json") == ["k0", "k1", "k2"]
    assert read(tmp_path / "out/embedding_summary.json")[0]["skipped_chunks"] == 1
    assert embed(tmp_path / "chunks", tmp_path / "out", *flags, "--skip-existing") == 0


def test_texts_that_a_model_cannot_read_are_left_out_and_the_results_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches results that are refused as of other chunks, because the source has texts that the run left out."""
    texts = ["grey water", "\u200b", "old boats"]
    write_chunk_files(tmp_path / "chunks/notes", [{"text": text} for text in texts])
    catalogue = write_catalogue(tmp_path / "own.toml", {"table": tiny_models.make_static(tmp_path / "table", rows=600)})
    monkeypatch.setenv("SOLOIST_CATALOGUE", str(catalogue))
    output, flags = tmp_path / "out", ["--skip-existing", "--on-bad-input", "skip"]
    assert embed(tmp_path / "chunks", output, model="table") == 1
    assert "1 text has no tokens in table" in capsys.readouterr().err
    assert embed(tmp_path / "chunks", output, *flags, model="table") == 0
    (item,) = read(output / "embedding_summary.json")
    assert (item["chunks"], item["skipped_chunks"]) == (2, 1)
    before = (output / "notes/notes_embeddings.npy").read_bytes()
    assert embed(tmp_path / "chunks", output, *flags, model="table") == 0
    assert (output / "notes/notes_embeddings.npy").read_bytes() == before
    shutil.rmtree(tmp_path / "chunks")
    write_chunk_files(tmp_path / "chunks/notes", [{"text": text.replace("\u200b", "new")} for text in texts])
    assert embed(tmp_path / "chunks", output, *flags, model="table") == 1
    assert "other chunks" in capsys.readouterr().err


def test_a_collection_of_which_all_texts_are_left_out_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a second command that fails over results which are all there, since one collection has no vectors."""
    for name, text in (("full", "grey water"), ("hollow", "\u200b")):
        write_chunk_files(tmp_path / "chunks" / name, [{"text": text}])
    catalogue = write_catalogue(tmp_path / "own.toml", {"table": tiny_models.make_static(tmp_path / "table", rows=600)})
    monkeypatch.setenv("SOLOIST_CATALOGUE", str(catalogue))
    flags = ["--skip-existing", "--on-bad-input", "skip"]
    for _ in range(2):
        assert embed(tmp_path / "chunks", tmp_path / "out", *flags, model="table") == 0
        items = read(tmp_path / "out/embedding_summary.json")
        assert [(item["collection"], item["chunks"]) for item in items] == [("full", 1), ("hollow", 0)]
        assert (tmp_path / "out/run/run.json").is_file()
    assert embed(tmp_path / "chunks", tmp_path / "out", *flags, "--collections", "hollow", model="table") == 1
    assert "there are no chunks to embed in hollow" in capsys.readouterr().err


def test_help_says_what_becomes_of_existing_results(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a default that is learnt from the loss of results."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "leave out collections that have results (default: no, results are made again and replaced)" in text
    assert "empty texts and empty files are always left out (default: error)" in text


def test_ctrl_c_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """Catches a traceback of a hundred lines, and half a run in a hidden folder; also where Ctrl-C is pressed twice."""
    records: list[dict[str, object]] = [{"text": f"{i} " + "vector lease shard " * 40} for i in range(20_000)]
    write_chunk_files(tmp_path / "chunks/notes", records)
    command = [sys.executable, str(ROOT / "scripts/embed_collections_v5.py"), "--model", "tiny-bert"]
    command += ["--chunks-root", str(tmp_path / "chunks"), "--output-root", str(tmp_path / "out")]

    def is_encoding() -> bool:
        return any("PassStarted" in log.read_text() for log in tmp_path.glob("out/.embedding-*/run/events.jsonl"))

    ended = interrupted(command, is_encoding, times=2)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "stopped"
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_an_empty_collection_that_nobody_asked_for_is_in_the_summary(tmp_path: Path) -> None:
    """Catches a stray empty file that stops everything else, in the first run or in one that skips."""
    for name, records in (("hollow", []), ("full", [{"text": "something to embed"}])):
        (tmp_path / "chunks" / name).mkdir(parents=True)
        (tmp_path / "chunks" / name / "a_chunks.json").write_text(json.dumps(records))
    assert embed(tmp_path / "chunks", tmp_path / "out") == 0
    items = read(tmp_path / "out/embedding_summary.json")
    assert [(item["collection"], item["chunks"]) for item in items] == [("full", 1), ("hollow", 0)]
    assert embed(tmp_path / "chunks", tmp_path / "out", "--skip-existing") == 0


@pytest.mark.parametrize("name", ["run", "full"])
def test_a_folder_of_somebody_else_is_not_replaced(name: str, tmp_path: Path) -> None:
    """Catches an output root where the run folder or a collection's folder would cost somebody's files."""
    (tmp_path / "chunks/full").mkdir(parents=True)
    (tmp_path / "chunks/full/a_chunks.json").write_text('[{"text": "something to embed"}]')
    (tmp_path / "out" / name).mkdir(parents=True)
    mine = tmp_path / "out" / name / "mine.txt"
    mine.write_text("keep")
    assert embed(tmp_path / "chunks", tmp_path / "out") == (1 if name == "run" else 0)
    assert mine.read_text() == "keep"


def test_a_collection_with_the_run_folders_name_is_refused(tmp_path: Path) -> None:
    """Catches a collection's files among the run's own."""
    (tmp_path / "chunks/run").mkdir(parents=True)
    (tmp_path / "chunks/run/a_chunks.json").write_text('[{"text": "something to embed"}]')
    assert embed(tmp_path / "chunks", tmp_path / "out") == 1


def test_it_runs_from_a_checkout_without_installation(tmp_path: Path) -> None:
    """Catches a script that finds its own package only where it is installed; an installed link is hidden."""
    script = ROOT / "scripts" / "embed_collections_v5.py"
    hidden = "import sys, runpy; sys.path = [p for p in sys.path if not p.endswith('src')]; sys.argv = ['x', '--help']"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden}; runpy.run_path({str(script)!r}, run_name='__main__')"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--exclusive-ensemble" in done.stdout
