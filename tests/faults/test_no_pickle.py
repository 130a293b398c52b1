"""Nothing that is read can run code: no pickle in soloist, and torch's own files of weights only as weights."""

from __future__ import annotations

import ast
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.collections import write_catalogue
from support.fault_runs import require_sentence
from support.tiny_models import make_bert

import soloist
from soloist.engine import run
from soloist.errors import ModelLoadError

SOURCES = sorted(Path(soloist.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
HARMLESS = {("pickle", "UnpicklingError")}  # the name of an error, which reads nothing
CODE = {"eval", "exec", "compile", "__import__"}


def imported(node: ast.AST) -> list[tuple[str, str]]:
    """The modules that a node imports, each with the name that is taken from it."""
    if isinstance(node, ast.Import):
        return [(alias.name.split(".")[0], "") for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [(node.module.split(".")[0], alias.name) for alias in node.names]
    return []


def forbidden(tree: ast.AST) -> list[str]:
    """What a source has that could run what a file says."""
    found = []
    for node in ast.walk(tree):
        found += [name for name, what in imported(node) if name in MODULES and (name, what) not in HARMLESS]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
        if called in CODE:
            found.append(called)
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append("torch.load")
        if called in ("np.load", "numpy.load", "pd.read_pickle") and keywords.get("allow_pickle", "False") != "False":
            found.append(called)
        if keywords.get("weights_only") == "False":
            found.append(f"{called} with weights_only=False")
    return found


def test_no_source_reads_pickles_or_runs_text():
    """One convenient np.load(allow_pickle=True) makes every run folder from elsewhere a program."""
    assert len(SOURCES) > 60
    assert {path.name: found for path in SOURCES if (found := forbidden(ast.parse(path.read_text())))} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "import torch; torch.load(f)", "torch.load(f, weights_only=False)",
     "np.load(f, allow_pickle=True)", "eval(text)", "from pickle import load", "Model(weights_only=False)"],
)  # fmt: skip
def test_the_search_finds_each(source):
    """A search that finds nothing proves nothing."""
    assert forbidden(ast.parse(source))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def pickled(tmp_path):
    """A complete model whose weights are in torch's format, and the catalogue that names it."""
    folder = make_bert(tmp_path / "pickled")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder, weights, write_catalogue(tmp_path / "pickled.toml", {"pickled": folder})


def test_weights_with_code_in_them_are_refused_and_the_code_is_not_run(config, pickled, tmp_path):
    """A model from elsewhere would run as whoever embeds with it."""
    folder, weights, catalogue = pickled
    mark = tmp_path / "it ran"
    own = dataclasses.replace(config, models=("pickled",), catalogue=catalogue)
    torch.save({**weights, "evil": Evil(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError) as caught:
        run(own)
    said = require_sentence(caught.value)
    assert said.startswith(f"pickled cannot be loaded from {folder}: ") and "pytorch_model.bin" in said
    assert not mark.exists()
    with (folder / "pytorch_model.bin").open("wb") as file:  # as torch wrote it before 1.6
        torch.save({**weights, "evil": Evil(mark)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelLoadError):
        run(own)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with pytest.raises(ModelLoadError):
        run(own)
    assert not mark.exists()
    assert not config.out.exists() or not any(config.out.iterdir())
    # The same bytes do run code where they are unpickled: else this would show nothing.
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.exists()


def test_weights_alone_are_read_from_the_same_format(config, pickled):
    """Refusing the format altogether would pass the test above."""
    _, _, catalogue = pickled
    result = run(dataclasses.replace(config, models=("pickled",), catalogue=catalogue))
    assert result.models[0].embedded == 27
