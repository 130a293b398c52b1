"""`soloist export --to questions`: the query side of a run in a folder of its own, and how it is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collections import write_collection
from support.killed_commands import run_killed
from support.tiny_models import make_bert
from support.tiny_sparse import make_splade

import soloist
from soloist.config import FusionConfig, RunConfig
from soloist.engine.run import run
from soloist.errors import ConfigError, ExportError, ModelLoadError, OutputError, SoloistError
from soloist.exports import export_run
from soloist.exports.model_copies import Original, copies_of
from soloist.models.copying import files_to_copy
from soloist.models.spec import ModelSpec
from soloist.retrieval.questions import Questions
from soloist.stores.questions_file import questions_text

TEXTS = ["which device has the lease", "tokens", "a text of some more words than the others have, so it is longer"]
NAMES = ("bert", "wordllama", "splade", "bm25", "fused")


def asked(questions: Questions, texts: list[str] = TEXTS) -> dict[str, Any]:
    """All that is asked of a run, by name."""
    found: dict[str, Any] = {}
    for name, kind in questions.kinds.items():
        if kind == "lexical":
            found[name] = questions.encode_words(texts, name)
        elif kind == "sparse":
            found[name] = questions.encode_sparse(texts, name)
        else:
            found[name] = [questions.encode(texts, name, role).tobytes() for role in ("query", "document")]
    return found


def configured(root: Path, **more: Any) -> RunConfig:
    models = (str(root / "bert"), "wordllama", str(root / "splade"), "bm25")
    return RunConfig(
        chunks_root=root / "chunks", out=root / "run", models=models, catalogue=root / "models.toml",
        accelerator="cpu", dtype="float32", shard_chunks=32, lock_dir=root / "locks",
        fusion=FusionConfig(method="projection", dim=16), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with members of every kind, whose fusion has matrices, and the folders of its models."""
    root = tmp_path_factory.mktemp("questions")
    write_collection(root / "chunks", "alpha", 40, longest=30, seed=3)
    make_bert(root / "bert")
    make_splade(root / "splade", num_hidden_layers=1)
    (root / "models.toml").write_text(f'[models."bert"]\nsource = "{root / "bert"}"\nquery_prompt = "question: "\n')
    run(configured(root))
    return root


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, Any]:
    return asked(soloist.open_questions(root / "run"))


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with models; read it, and copy it before changing it."""
    out = tmp_path_factory.mktemp("whole") / "questions"
    export_run(root / "run", "questions", out=out, with_models=True)
    return out


@pytest.fixture
def away(root: Path) -> Iterator[Callable[..., None]]:
    """`away(*names)` puts something of the run out of reach."""
    moved: list[Path] = []

    def move(*names: str) -> None:
        for name in names:
            moved.append(root / name)
            (root / name).rename(root / f"{name}.away")

    yield move
    for path in moved:
        path.with_name(f"{path.name}.away").rename(path)


def test_the_folder_alone_gives_the_same_bits(
    root: Path, whole: Path, tmp_path: Path, expected: dict[str, Any], away: Callable[..., None]
) -> None:
    """An application on another machine has neither the run, nor its catalogue, nor the folders of the models."""
    shutil.copytree(whole, tmp_path / "elsewhere")
    away("run", "bert", "splade", "models.toml")
    questions = soloist.open_questions(tmp_path / "elsewhere")
    assert questions.names == NAMES
    assert asked(questions) == expected


def test_without_models_it_is_kilobytes(
    root: Path, tmp_path: Path, expected: dict[str, Any], away: Callable[..., None]
) -> None:
    """The folder travels with an application: it must not have vectors, or texts that not everybody may read."""
    report = export_run(root / "run", "questions", out=tmp_path / "out")
    of_run = soloist.open_questions(root / "run")
    described = (of_run.fingerprints, of_run.dims, of_run.weights)
    away("run", "models.toml")
    questions = soloist.open_questions(tmp_path / "out")
    assert asked(questions) == expected
    assert (questions.fingerprints, questions.dims, questions.weights) == described
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert files == dict(report.files) and sum(files.values()) < 50_000
    texts = [item["text"] for item in json.loads((root / "chunks" / "alpha" / "doc_chunks.json").read_text())]
    content = (tmp_path / "out" / "questions.json").read_text()
    assert not any(text[:20] in content for text in texts)
    assert any("export --with-models" in note for note in report.notes)


def test_models_of_one_folder_are_copied_once(root: Path, whole: Path) -> None:
    """A copy would have what no load reads, or lie there twice."""
    names = sorted(path.name.rpartition("-")[0] for path in (whole / "models").iterdir())
    assert names == ["bert", "splade", "wordllama"]
    for copy in (whole / "models").iterdir():
        assert not [path for path in copy.rglob("*") if path.name.startswith(".")]


def test_two_members_of_one_folder_share_a_copy(root: Path) -> None:
    """A network of gigabytes would be copied twice, or without the weights of tokens that its second member needs."""
    dense = Original(folder=root / "bert", files=("config.json", "model.safetensors"), contents={})
    beside = Original(folder=root / "splade" / ".." / "bert", files=("config.json", "tokenizer.json"), contents={})
    copies = copies_of(
        {"m": dense, "m:sparse": beside, "other": Original(folder=root / "splade", files=(), contents={})}
    )
    assert copies["m"] == copies["m:sparse"] != copies["other"]
    assert set(copies["m"].files) == {"config.json", "model.safetensors", "tokenizer.json"}


def _changed(path: Path) -> None:
    """Another byte in the middle of a file, and nothing else."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_changed_byte_in_any_file_is_named(whole: Path, tmp_path: Path) -> None:
    """Vectors of a damaged copy would be wrong without a word: of a file that says how vectors are compared too."""
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(files) > 12
    for number, file in enumerate(sorted(files)):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        _changed(copy / file)
        with pytest.raises(OutputError) as caught:
            asked(soloist.open_questions(copy), ["x"])
        assert str(caught.value).startswith(f"{copy / file} is damaged, because its bytes are not those"), file
        shutil.rmtree(copy)


def test_any_changed_byte_of_the_record(root: Path, tmp_path: Path) -> None:
    """A space, a digit of the checksum or a name of a field could be changed unseen."""
    export_run(root / "run", "questions", out=tmp_path / "out")
    path = tmp_path / "out" / "questions.json"
    content = path.read_bytes()
    for at in [*range(0, len(content), 97), len(content) - 1, len(content) - 40]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(OutputError, match=r"questions\.json is damaged"):
            soloist.open_questions(tmp_path / "out")
    for some in (content[:-1], content + b"\n", b"", b"[]", b"{}", b"[" * 100_000):
        path.write_bytes(some)
        with pytest.raises(OutputError, match=r"questions\.json is damaged"):
            soloist.open_questions(tmp_path / "out")


def test_a_file_that_is_gone(whole: Path, tmp_path: Path) -> None:
    """A copy that was cut short would be a traceback."""
    shutil.copytree(whole, tmp_path / "cut")
    (tmp_path / "cut" / next(path.name for path in whole.glob("fit-*"))).unlink()
    with pytest.raises(OutputError, match=r"fit-.*cannot be read \(No such file or directory\): copy the folder again"):
        soloist.open_questions(tmp_path / "cut")
    with pytest.raises(OutputError, match=r"nowhere does not exist: give the folder of soloist embed, or that of"):
        soloist.open_questions(tmp_path / "nowhere")


@pytest.fixture
def exported(root: Path, tmp_path: Path) -> Path:
    """An export without models."""
    export_run(root / "run", "questions", out=tmp_path / "questions")
    return tmp_path / "questions"


@pytest.fixture
def another(root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """`another(file)`: a catalogue with a bert of which this file has another byte, or is gone."""

    def make(file: str, *, folder: str = "bert", gone: bool = False) -> Path:
        shutil.copytree(root / "bert", tmp_path / folder)
        if gone:
            (tmp_path / folder / file).unlink()
        else:
            _changed(tmp_path / folder / file)
        (tmp_path / "other.toml").write_text(f'[models."bert"]\nsource = "{folder}"\n')
        return tmp_path / "other.toml"

    return make


@pytest.mark.parametrize("source", ["run", "questions"])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("tokenizer.json", "because its file tokenizer.json has other content"),
        ("model.safetensors", "because its file model.safetensors has other content"),
        ("1_Pooling/config.json", "because its file 1_Pooling/config.json has other content"),
    ],
)
def test_another_model_is_named_by_its_file(
    root: Path, exported: Path, another: Callable[..., Path], source: str, file: str, said: str
) -> None:
    """Somebody's new tokenizer gave wrong scores, or a sentence that did not say what to look at."""
    folder = root / "run" if source == "run" else exported
    with pytest.raises(ConfigError) as caught:
        soloist.open_questions(folder, catalogue=another(file)).encode(["x"], "bert")
    assert f"bert on this machine is not the model that made the run, {said}: give --catalogue" in str(caught.value)


def test_another_revision_is_named(exported: Path, another: Callable[..., Path]) -> None:
    """A snapshot of another commit has other files, and the commit says which it is."""
    recorded, here = "b" * 40, "a" * 40
    said = rf"has other content \(it is of revision {here}, and the run's of {recorded}\)"
    path = exported / "questions.json"
    content = json.loads(path.read_text())

    content["models"][0]["revision"] = recorded
    path.write_text(questions_text({name: value for name, value in content.items() if name != "sha256"}))
    with pytest.raises(ConfigError, match=said):
        soloist.open_questions(exported, catalogue=another("tokenizer.json", folder=here)).encode(["x"], "bert")


def _of_an_earlier_version(path: Path) -> None:
    """Take out of run.json what earlier versions did not write."""
    summary = json.loads((path / "run.json").read_text())
    for model in summary["models"]:
        del model["files"]
    (path / "run.json").write_text(json.dumps(summary))


def test_a_run_of_an_earlier_version(
    root: Path, tmp_path: Path, another: Callable[..., Path], expected: dict[str, Any]
) -> None:
    """It has no digests of files: it could not be opened, or a copy of another model would count as its own."""
    shutil.copytree(root / "run", tmp_path / "run")
    _of_an_earlier_version(tmp_path / "run")
    assert asked(soloist.open_questions(tmp_path / "run")) == expected
    export_run(tmp_path / "run", "questions", out=tmp_path / "out", with_models=True)
    assert asked(soloist.open_questions(tmp_path / "out")) == expected
    other = another("tokenizer.json")
    with pytest.raises(ConfigError, match="its weights, prompts or limits differ, or an earlier version of soloist"):
        soloist.open_questions(tmp_path / "run", catalogue=other).encode(["x"], "bert")
    with pytest.raises(ConfigError, match="bert on this machine is not the model that made the run: give --catalogue"):
        export_run(tmp_path / "run", "questions", out=tmp_path / "no", with_models=True, catalogue=other)


def test_a_changed_run_replaces_its_export(
    root: Path, tmp_path: Path, expected: dict[str, Any], away: Callable[..., None]
) -> None:
    """Old matrices or models could stay in use, or fill the disk. Who has the old ones open keeps on asking."""
    for name in ("chunks", "bert", "splade"):
        shutil.copytree(root / name, tmp_path / name)
    (tmp_path / "models.toml").write_text((root / "models.toml").read_text().replace(str(root), str(tmp_path)))
    run(configured(tmp_path))
    export_run(tmp_path / "run", "questions", out=tmp_path / "out", with_models=True)
    before = {path.name for path in (tmp_path / "out").rglob("*") if not path.name.startswith(".")}
    opened = soloist.open_questions(tmp_path / "out")
    assert asked(opened) == expected
    shutil.rmtree(tmp_path / "bert")
    make_bert(tmp_path / "bert", hidden_size=48)
    run(configured(tmp_path))
    export_run(tmp_path / "run", "questions", out=tmp_path / "out", with_models=True)
    assert asked(opened) == expected
    now = soloist.open_questions(tmp_path / "out")
    assert now.dims["bert"] == 48
    assert asked(now) == asked(soloist.open_questions(tmp_path / "run"))
    after = {path.name for path in (tmp_path / "out").rglob("*") if not path.name.startswith(".")}
    assert len(after) == len(before) and len(before - after) == 2, "one copy and one file of matrices are others"
    assert export_run(tmp_path / "run", "questions", out=tmp_path / "out").files.keys() == {
        path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")
    }, "the copies stay"


@pytest.mark.parametrize(
    ("event", "ending"),
    [
        ("open", ".tmp"), ("os.rename", ".soloist-export.json"), ("os.rename", "tokenizer.json"),
        ("os.rename", "model.safetensors"), ("os.rename", "questions.json"),
    ],
)  # fmt: skip
def test_an_export_that_was_killed_goes_on(root: Path, whole: Path, tmp_path: Path, event: str, ending: str) -> None:
    """A half-written file could count as whole, or what it left could be somebody else's to the next export."""
    options = ["export", str(root / "run"), "--to", "questions", "--out", str(tmp_path / "out"), "--with-models"]
    run_killed(options, event=event, ending=ending)
    assert not (tmp_path / "out" / "questions.json").exists()
    export_run(root / "run", "questions", out=tmp_path / "out", with_models=True)

    def files(path: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file() and file.name not in (".lock",)
        }

    assert files(tmp_path / "out") == files(whole)


def test_a_folder_of_somebody_else_is_refused(root: Path, tmp_path: Path) -> None:
    """An export would mix its files with theirs, or remove theirs."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "questions.json").write_text("[]")
    with pytest.raises(ExportError, match="has files that no export to questions wrote"):
        export_run(root / "run", "questions", out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["questions.json"]
    with pytest.raises(ConfigError, match="which has its own files only: choose another --out"):
        export_run(root / "run", "questions", out=root / "run" / "questions")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vectors": "bert"}, "an export to questions has all members and no chunks: leave out --vectors"),
        ({"collections": ["alpha"]}, "an export to questions has all members and no chunks: leave out --vectors"),
        ({"url": "http://localhost"}, "give --out PATH, and leave out --url"),
    ],
)
def test_options_of_other_exports(root: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """What is given and has no effect was meant to have one."""
    with pytest.raises(SoloistError) as caught:
        export_run(root / "run", "questions", out=tmp_path / "out", **options)
    assert said in str(caught.value)
    with pytest.raises(ConfigError, match="an export to numpy has no models: leave out --with-models"):
        export_run(root / "run", "numpy", out=tmp_path / "out", with_models=True)


def test_a_model_that_is_not_there(root: Path, exported: Path, away: Callable[..., None], tmp_path: Path) -> None:
    """The folder of an export without models names where they were."""
    away("bert")
    with pytest.raises(ConfigError) as caught:
        soloist.open_questions(exported).encode(["x"])
    assert f"bert made the run from the folder {root / 'bert'}, which is not on this machine: give --catalogue" in str(
        caught.value
    )
    moved = tmp_path / "moved.toml"
    moved.write_text(f'[models."bert"]\nsource = "{root / "bert.away"}"\n')
    assert np.array_equal(
        soloist.open_questions(exported, catalogue=moved).encode(["x"], "bert"),
        soloist.open_questions(root / "run", catalogue=moved).encode(["x"], "bert"),
    )


def test_code_of_a_model_is_not_run_for_a_file(exported: Path) -> None:
    """A folder from elsewhere could have any code run on this machine."""

    path = exported / "questions.json"
    content = json.loads(path.read_text())
    content["models"][0]["spec"]["trust_remote_code"] = True
    path.write_text(questions_text({name: value for name, value in content.items() if name != "sha256"}))
    with pytest.raises(ConfigError, match="bert runs code of its own, and a file that came from elsewhere"):
        soloist.open_questions(exported).encode(["x"], "bert")


def test_an_adapter_whose_base_is_elsewhere_is_not_copied(root: Path, tmp_path: Path) -> None:
    """The copy would be loaded without its base, or with the one that happens to be there."""

    spec = ModelSpec(name="bert", source=str(root / "bert"))
    with pytest.raises(ModelLoadError, match=r"bert cannot be copied, because it needs base/config.json, which is not"):
        files_to_copy(spec, root / "bert", {"config.json": "0", "base/config.json": "0"})
