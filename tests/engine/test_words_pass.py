"""Members that are words: their files, what a change of the chunks costs, and texts that have none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.editing import assert_same_files, random_text, run_files, write_chunks

from soloist.config import RunConfig
from soloist.engine import run
from soloist.engine.result import RunResult
from soloist.engine.resume.changes import changes
from soloist.errors import ConfigError, RunStoppedError
from soloist.events import Event, PassStarted, ShardEncoded
from soloist.exports.rows import open_source
from soloist.reports.table import result_files
from soloist.retrieval import open_run
from soloist.stores import RunFolder
from soloist.stores.manifest import Manifest
from soloist.stores.status import run_status
from soloist.stores.verification import verify_run

Files = dict[str, list[tuple[str, str]]]
ODD = [
    "",
    "🚀🎉",
    "the and of",
    "x" * 2_000_000,
    "全文検索",
    "สวัสดีชาวโลก",
    "مرحبا بالعالم שלום",
    "a\u0301 ﬁne \x00 caf\u00e9",
]


def _config(tmp_path: Path, out: str = "run", **settings: Any) -> RunConfig:
    given = {"models": ["bm25"], "shard_chunks": 8, "accelerator": "cpu", "lock_dir": tmp_path / "locks"}
    return RunConfig.from_mapping(
        {**given, **settings}, origin="the test", chunks_root=tmp_path / "chunks", out=tmp_path / out
    )


def _embed(tmp_path: Path, files: Files, out: str = "run", **settings: Any) -> RunResult:
    write_chunks(tmp_path / "chunks", files)
    return run(_config(tmp_path, out, **settings))


def _files(count: int, seed: int = 0) -> Files:
    generator = random.Random(seed)
    items = [(f"id-{number}", f"{random_text(generator)} number{number}") for number in range(count)]
    return {"alpha/a": items[: count // 2], "beta/b": items[count // 2 :]}


def test_words_alone_are_a_run(tmp_path: Path) -> None:
    """A run without a model that takes a lease, or whose folder lacks words that its texts have."""
    files = _files(20)
    files["alpha/a"].append(("twice", files["beta/b"][0][1]))
    events: list[Event] = []
    write_chunks(tmp_path / "chunks", files)
    result = run(_config(tmp_path), events.append)
    (words,) = result.words
    assert (words.name, words.language, words.chunks, words.embedded, words.repeated) == ("bm25", "english", 21, 20, 1)
    assert any("COLLECTION/{chunks, vectors, index}" in line for line in result_files(result))
    assert not result.models and not result.lease_events and result.fusion is None and result.hybrid is None
    assert {type(event).__name__ for event in events} >= {"PassStarted", "ShardEncoded", "CollectionIndexed"}
    folder = RunFolder.open(tmp_path / "run")
    ids, rows = folder.terms.read("alpha", "bm25", 1)
    assert ids == ["id-8", "id-9", "twice"]
    assert dict(rows.terms(0))["number8"] == 1
    _, repeated = folder.terms.read("beta", "bm25", 0)
    assert repeated.terms(0) == rows.terms(2)
    assert words.words == sum(int(folder.terms.read(c, "bm25", i)[1].lengths.sum()) for c, i in _shards(folder))
    assert not verify_run(folder).problems
    (status,) = run_status(tmp_path / "run").models
    assert (status.name, status.chunks_done, status.chunks) == ("bm25", 21, 21)


def _shards(folder: RunFolder) -> list[tuple[str, int]]:
    return [(name, index) for name in ("alpha", "beta") for index in folder.shards.indices(name)]


def test_texts_of_every_kind_have_a_row(tmp_path: Path) -> None:
    """A text without words that ends the run, or that takes the row of the text after it."""
    files: Files = {"odd/a": [(f"odd-{number}", text) for number, text in enumerate(ODD)]}
    result = _embed(tmp_path, files)
    assert result.words[0].chunks == len(ODD) - 1  # the empty text is left out, as always
    ids, rows = RunFolder.open(tmp_path / "run").terms.read("odd", "bm25", 0)
    terms = {id_: dict(rows.terms(number)) for number, id_ in enumerate(ids)}
    assert terms["odd-1"] == terms["odd-2"] == terms["odd-3"] == {}
    assert terms["odd-4"] == {"全文": 1, "文検": 1, "検索": 1}
    assert terms["odd-6"] == {"بالعالم": 1, "مرحبا": 1, "שלום": 1}
    assert not verify_run(RunFolder.open(tmp_path / "run")).problems


def test_one_percent_changed_cuts_the_words_of_one_percent(tmp_path: Path) -> None:
    """Chunks that moved to another shard, another collection or another order, whose words are cut again."""
    files = _files(400)
    _embed(tmp_path, files)
    files["alpha/a"][7] = ("id-7", "something else entirely")
    files["alpha/a"].insert(0, files["beta/b"].pop(50))
    files["beta/b"].insert(3, ("new", "a new chunk of text"))
    files["beta/b"].reverse()
    del files["alpha/a"][100]
    write_chunks(tmp_path / "chunks", files)
    assert changes(_config(tmp_path)).to_embed == {"bm25": 2}
    (words,) = _embed(tmp_path, files).words
    assert (words.chunks, words.embedded) == (400, 2)
    assert words.reused + words.kept == 398
    _embed(tmp_path, files, "fresh")
    assert_same_files(tmp_path / "run", tmp_path / "fresh")


def test_words_of_another_run_are_taken_over(tmp_path: Path) -> None:
    """--reuse that cuts every text again, or takes words of another language."""
    files = _files(40)
    _embed(tmp_path, files)
    files["alpha/a"].reverse()
    (words,) = _embed(tmp_path, files, "second", reuse=[tmp_path / "run"]).words
    assert (words.embedded, words.from_others) == (0, 40)
    (other,) = _embed(tmp_path, files, "third", reuse=[tmp_path / "run"], language="none").words
    assert (other.embedded, other.from_others) == (40, 0)
    _embed(tmp_path, files, "fresh")
    assert_same_files(tmp_path / "second", tmp_path / "fresh")


def test_a_run_keeps_its_language(tmp_path: Path) -> None:
    """Words of two languages in one run, or a change of the language that nobody is told of."""
    files = _files(20)
    _embed(tmp_path, files, language="code")
    kept = _embed(tmp_path, files)
    assert (kept.config.language, kept.words[0].embedded, kept.words[0].kept) == ("code", 0, 20)
    assert changes(_config(tmp_path, language="none")).to_embed == {"bm25": 20}
    other = _embed(tmp_path, files, language="none")
    assert (other.words[0].embedded, other.words[0].kept) == (20, 0)
    assert any("it was code" in notice and "cut again" in notice for notice in other.notices)
    (saved,) = json.loads((tmp_path / "run" / "run.json").read_text())["words"]
    assert saved["fingerprint"] == other.words[0].fingerprint


def test_words_go_beside_a_model_as_if_each_were_alone(tmp_path: Path) -> None:
    """A single model that is fused with itself since there is a member of words, or files that differ beside it."""
    files = _files(20)
    both = _embed(tmp_path, files, models=["wordllama", "bm25"], weights={"wordllama": 0.6, "bm25": 0.4})
    assert both.fusion is None and both.hybrid is not None
    assert both.hybrid.weights == pytest.approx({"wordllama": 0.6, "bm25": 0.4})
    assert [(model.name, model.chunks) for model in both.models] == [("wordllama", 20)]
    again = _embed(tmp_path, files, models=["wordllama", "bm25"])
    assert again.fusion is None and again.models[0].kept == again.words[0].kept == 20
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [words["weight"] for words in saved["words"]] == pytest.approx([0.4])
    _embed(tmp_path, files, models=["wordllama", "bm25"], weights={"wordllama": 0.2, "bm25": 0.8})
    record = open_run(tmp_path / "run").record
    assert record.hybrid is not None and record.hybrid.weights == pytest.approx({"wordllama": 0.2, "bm25": 0.8})
    _embed(tmp_path, files, "words")
    _embed(tmp_path, files, "model", models=["wordllama"])
    alone = run_files(tmp_path / "words") | run_files(tmp_path / "model")
    together = run_files(tmp_path / "run")
    assert {name: content for name, content in together.items() if name != "manifest.jsonl"} == {
        name: content for name, content in alone.items() if name != "manifest.jsonl"
    }
    assert not {"words", "hybrid", "language"} & set(json.loads((tmp_path / "model" / "run.json").read_text()))


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Words that are cut twice, or a shard without words, after a stop."""
    files = _files(40)
    write_chunks(tmp_path / "chunks", files)

    def stop(event: Event) -> None:
        if isinstance(event, ShardEncoded):
            raise RunStoppedError("stopped by the test")

    with pytest.raises(RunStoppedError):
        run(_config(tmp_path), stop)
    assert run_status(tmp_path / "run").models[0].chunks_done == 8
    started: list[PassStarted] = []
    run(_config(tmp_path), lambda event: started.append(event) if isinstance(event, PassStarted) else None)
    assert [event.chunks for event in started] == [32]
    _embed(tmp_path, files, "fresh")
    assert_same_files(tmp_path / "run", tmp_path / "fresh")


def test_damaged_words_are_found_and_made_again(tmp_path: Path) -> None:
    """A file of words with other bytes that verify calls sound, or that a run keeps."""
    files = _files(20)
    _embed(tmp_path, files)
    folder = RunFolder.open(tmp_path / "run")
    before = run_files(folder.path)
    name = folder.shards.vectors_file("alpha", "bm25", 0)
    path = folder.path / name
    path.write_bytes(path.read_bytes()[:-9] + b"different")
    assert any(name in problem for problem in verify_run(folder).problems)
    assert _embed(tmp_path, files).words[0].embedded == 8
    assert run_files(folder.path) == before


def test_words_that_are_not_those_of_the_chunks_are_found(tmp_path: Path) -> None:
    """A file of words with a right checksum, whose rows are of other texts."""
    _embed(tmp_path, _files(20))
    folder = RunFolder.open(tmp_path / "run")
    record = folder.manifest.read()[folder.shards.vectors_file("alpha", "bm25", 0)]
    ids, rows = folder.terms.read("alpha", "bm25", 0)
    folder.manifest.append(
        folder.terms.write("alpha", "bm25", 0, ids, rows, [b"0" * 16] * len(ids), "another", record.content)
    )
    problems = verify_run(folder).problems
    assert any("of other texts" in problem for problem in problems)
    assert any("other settings" in problem for problem in problems)


def test_members_that_are_not_fused_have_weights(tmp_path: Path) -> None:
    """--fusion none refused weights; or other weights alone would fuse the vectors from then on."""
    files, models = _files(12), ["wordllama", "bm25"]
    _embed(tmp_path, files, models=models, fusion="none", weights={"wordllama": 0.6, "bm25": 0.4})
    kept = _embed(tmp_path, files, models=models)
    assert kept.fusion is None and kept.hybrid is not None
    assert kept.hybrid.weights == pytest.approx({"wordllama": 0.6, "bm25": 0.4})
    assert "only the ranking changes" in " ".join(
        changes(_config(tmp_path, models=models, weights={"wordllama": 0.1, "bm25": 0.9})).notices
    )
    other = _embed(tmp_path, files, models=models, weights={"wordllama": 0.1, "bm25": 0.9})
    assert other.fusion is None
    (said,) = (notice for notice in other.notices if "weights of the ranking" in notice)
    assert "they were wordllama=0.6,bm25=0.4" in said and "are wordllama=0.1,bm25=0.9 from now on" in said


def test_a_language_that_nobody_reads_is_said(tmp_path: Path) -> None:
    """A setting that changes nothing, in silence; or an unknown language that is taken."""
    result = _embed(tmp_path, _files(4), models=["wordllama"], language="german")
    assert any("german changes nothing" in notice for notice in result.notices)
    again = _embed(tmp_path, _files(4), models=["wordllama"], language="french")
    assert not any("cut again" in notice for notice in again.notices)
    with pytest.raises(ConfigError, match="language is 'klingon': choose one of english, code, none"):
        _config(tmp_path, language="klingon")


def test_the_manifest_counts_words(tmp_path: Path) -> None:
    """Counts of words that are lost when the files of a run are kept."""
    files = _files(20)
    first = _embed(tmp_path, files).words[0].words
    again = _embed(tmp_path, files).words[0]
    records = [each for each in Manifest(tmp_path / "run").read().values() if each.kind == "vectors"]
    assert again.words == first == sum(each.tokens or 0 for each in records) > 0


def test_words_alone_are_not_exported_where_only_vectors_are(tmp_path: Path) -> None:
    """An export without a vector that looks like a whole one, or ends in a fault of ours."""
    _embed(tmp_path, _files(4))
    with pytest.raises(ConfigError, match="has words of bm25, and this export has no place for them"):
        open_source(tmp_path / "run", None, (), several=True, kinds=("dense",))
