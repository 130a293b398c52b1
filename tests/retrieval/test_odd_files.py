"""Files of a run and beside it that another hand has touched: other layouts, links, lost and damaged matrices."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soloist.config import FusionConfig
from soloist.errors import ConfigError, OutputError, SoloistError
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels, read_qrels
from soloist.stores import RunFolder
from soloist.stores.layout import FIT
from soloist.stores.rows import vector_column
from soloist.stores.verification import verify_run

QUESTION = "which shard holds the lease of a device"
PLAIN = {"compression": "none", "use_dictionary": False}


def ids_of(hits):
    return [(hit.collection, hit.id) for hit in hits]


def rewritten(source, target, change=lambda table: table, **options):
    """A copy of a run whose fused vectors were written by somebody else."""
    copy = shutil.copytree(source, target)
    for file in copy.rglob("fused/part-*.parquet"):
        pq.write_table(change(pq.read_table(file)), file, **options)
    return copy


def of_type(kind):
    def change(table):
        place = table.schema.get_field_index("vector")
        return table.set_column(place, "vector", table["vector"].cast(kind(table["vector"].type.list_size)))

    return change


@pytest.fixture(scope="module")
def found_in_our_own_layout(searched, make):
    """A run of each dtype of vectors, and what is found in it."""
    runs = {"float32": searched, "float16": make("float16-layouts", vector_dtype="float16")}
    return {dtype: (run, open_run(run).search(QUESTION, 95)) for dtype, run in runs.items()}


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        {**PLAIN, "data_page_size": 256},
        {**PLAIN, "row_group_size": 5},
        {**PLAIN, "data_page_version": "2.0"},
        {**PLAIN, "data_page_version": "2.0", "data_page_size": 256},
        {**PLAIN, "write_page_checksum": True},
        {**PLAIN, "write_page_index": True},
        {**PLAIN, "use_byte_stream_split": ["vector.list.element"]},
        {"compression": "none"},
        {"compression": "none", "data_page_size": 128, "row_group_size": 5},
        {"compression": "snappy", "data_page_size": 256},
    ],
    ids=str,
)
@pytest.mark.parametrize("vector_dtype", ["float32", "float16"])
def test_every_layout_of_parquet_is_read_right(found_in_our_own_layout, tmp_path, options, vector_dtype):
    """Numbers would be read at the place where our own writer puts them, whatever lies there."""
    if vector_dtype == "float16" and "use_byte_stream_split" in options:
        options = {**options, "use_byte_stream_split": False}
    source, expected = found_in_our_own_layout[vector_dtype]
    copy = rewritten(source, tmp_path / "copy", **options)
    assert open_run(copy).search(QUESTION, 95) == expected


@pytest.mark.parametrize(
    "change",
    [
        of_type(lambda dim: pa.list_(pa.float32())),
        of_type(lambda dim: pa.large_list(pa.float32())),
        of_type(lambda dim: pa.list_(pa.float64(), dim)),
        lambda table: table.drop_columns(["vector"]),
        lambda table: table.slice(1),
        lambda table: table.slice(0, 0),
    ],
    ids=["list", "large list", "float64", "no vectors", "a row less", "no rows"],
)
def test_what_are_no_vectors_of_this_run_is_a_sentence(searched, tmp_path, change):
    """An AttributeError of Arrow's types, or the vectors of other chunks."""
    copy = rewritten(searched, tmp_path / "copy", change)
    with pytest.raises(OutputError) as caught:
        open_run(copy).search(QUESTION, 3)
    assert "part-00000.parquet" in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def projected(make):
    return make("projected", fusion=FusionConfig(method="projection", dim=16), models=("bert", "wordllama"))


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda path: path.unlink(),
            "is missing: run the soloist embed command of this run again, which repairs the file",
        ),
        (cut, "cannot be read: "),
        (lambda path: path.write_bytes(b""), "cannot be read: "),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: "),
    ],
    ids=["missing", "cut", "empty", "a folder"],
)
def test_lost_matrices_say_what_mends_them(projected, tmp_path, harm, sentence):
    """The message was one for files of vectors: name a collection, a model and a shard."""
    copy = shutil.copytree(projected, tmp_path / "copy")
    harm(copy / FIT)
    with pytest.raises(OutputError) as caught:
        open_run(copy).search(QUESTION, 3)
    assert FIT in str(caught.value) and sentence in str(caught.value)
    assert len(open_run(copy).search(QUESTION, 3, by=By(model="wordllama"))) == 3  # which needs none


def test_matrices_of_another_run_are_refused(projected, make, tmp_path):
    """Questions would be turned into a space of other dims, which ends in numpy."""
    other = make("projected-other", fusion=FusionConfig(method="projection", dim=8), models=("bert", "wordllama"))
    copy = shutil.copytree(projected, tmp_path / "copy")
    shutil.copy(other / FIT, copy / FIT)
    with pytest.raises(SoloistError, match="needs the matrices that were fitted for it"):
        open_run(copy).search(QUESTION, 3)


def test_fused_vectors_that_are_left_out_are_not_denied(projected, make, tmp_path):
    """An evaluation said that the run has no fused vectors, which it has: their matrices were another run's."""
    other = make("projected-other", fusion=FusionConfig(method="projection", dim=8), models=("bert", "wordllama"))
    copy = shutil.copytree(projected, tmp_path / "copy")
    shutil.copy(other / FIT, copy / FIT)
    opened = open_run(copy)
    (_, chunk), *_ = opened.corpus().ids()
    found = evaluate(opened, Qrels(queries={"q": QUESTION}, judgements={"q": {chunk: 1}}), bm25=False)
    assert "fused (projection)" in [each.name for each in found.left_out]
    assert (
        found.verdict is None
        and "The run has fused vectors, but this evaluation leaves them out." in found.best_verdict.text
    )
    assert "no fused vectors" not in found.best_verdict.text


def test_a_run_behind_a_link_is_the_run(searched, tmp_path):
    """People keep runs on another disk."""
    (tmp_path / "link").symlink_to(searched, target_is_directory=True)
    assert open_run(tmp_path / "link").search(QUESTION, 10) == open_run(searched).search(QUESTION, 10)


def test_judged_questions_behind_links_are_read(tmp_path):
    """A data set is often a folder of links into a cache, some of which lead nowhere."""
    (tmp_path / "there.jsonl").write_text('{"_id": "q", "text": "what\\u0000is it"}\n')
    (tmp_path / "there.tsv").write_text("q\ta\t1\n")
    for name in ("there.jsonl", "there.tsv"):
        (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
    found = read_qrels(tmp_path / "link-there.jsonl", tmp_path / "link-there.tsv")
    assert found.queries == {"q": "what\0is it"} and found.judgements == {"q": {"a": 1}}
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SoloistError, match="cannot be read"):
        read_qrels(tmp_path / "loop", tmp_path / "there.tsv")


def test_other_weights_in_the_same_folder_are_another_model(searched, base, tmp_path, tiny_models):
    """A model that was trained further, under its old name: every cosine would be one of strangers."""
    folder = shutil.copytree(tiny_models["bert"], tmp_path / "bert")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1  # a bit of the last number
    weights.write_bytes(content)
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(f'[models."bert"]\nsource = "{folder}"\nquery_prompt = "question: "\n')
    with pytest.raises(ConfigError, match="bert on this machine is not the model that made the run"):
        open_run(searched, catalogue=catalogue).search("x", by=By(model="bert"))
    shutil.copy(tiny_models["bert"] / "model.safetensors", weights)
    assert open_run(searched, catalogue=catalogue).search("x", by=By(model="bert"))


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_another_prompt_for_questions_is_another_model(searched, tmp_path, tiny_models, prompt):
    """Questions would be asked in words that the run was not evaluated with."""
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(f'[models."bert"]\nsource = "{tiny_models["bert"]}"\nquery_prompt = {json.dumps(prompt)}\n')
    opened = open_run(searched, catalogue=catalogue)
    try:
        hits = opened.search("memory of a device", 20, by=By(model="bert"))
    except ConfigError as exc:
        assert "is not the model that made the run" in str(exc)
    else:  # the run's own prompt holds, whatever the catalogue says now
        assert hits == open_run(searched).search("memory of a device", 20, by=By(model="bert"))


def overwritten(path, row, column, value, dtype="<f4"):
    """Put a number in the place of another in a file of vectors, as a failing disk does."""
    with path.open("r+b") as file:
        parquet = pq.ParquetFile(path)
        dim = parquet.schema_arrow.field("vector").type.list_size
        (group,) = vector_column(file, parquet.metadata, parquet.schema_arrow).groups
        file.seek(group.offset + (row * dim + column) * np.dtype(dtype).itemsize)
        file.write(np.array(value, dtype).tobytes())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("fusion", ["fused", "rrf", "standardised"])
def test_a_row_that_is_no_vector_is_named(searched, tmp_path, value, fusion):
    """One NaN hid all chunks of its block from every question, without a word."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    part = copy / "alpha" / ("fused" if fusion == "fused" else "vectors/qwen2") / "part-00001.parquet"
    overwritten(part, 5, 3, value)
    opened = open_run(copy)
    with pytest.raises(OutputError) as caught:
        opened.search(QUESTION, 3, by=By(ranker=fusion))
    assert f"{part} is damaged: its row 5 has NaN, infinity or a norm far from 1" in str(caught.value)
    assert f"Run soloist verify {copy} to list all damage" in str(caught.value)
    assert any(part.name in problem for problem in verify_run(RunFolder(copy)).problems)
    assert len(opened.search(QUESTION, 3, by=By(model="wordllama"))) == 3  # whose vectors are whole


def test_a_damaged_row_is_found_before_an_evaluation_judges(searched, tmp_path):
    """A verdict over 62 of 95 chunks."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    overwritten(copy / "beta" / "vectors" / "bert" / "part-00000.parquet", 0, 0, float("nan"))
    opened = open_run(copy)
    (_, chunk), *_ = opened.corpus(["alpha"]).ids()
    qrels = Qrels(queries={"q": QUESTION}, judgements={"q": {chunk: 1}})
    found = evaluate(opened, qrels, collections=["alpha"], bm25=False)
    assert [each.name for each in found.left_out] == ["projection", "aligned-mean"]  # which are fitted to all rows
    assert "run soloist verify to see its file" in found.left_out[0].reason
    with pytest.raises(OutputError, match=r"bert.part-00000\.parquet is damaged: its row 0"):
        evaluate(opened, qrels, bm25=False)
