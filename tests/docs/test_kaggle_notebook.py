"""The notebook for Kaggle is made from its source, and runs with Kaggle's mounts and on a laptop.

Each session is a kernel of its own, as a reader has one, and what its cells show is looked at.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.collections import write_catalogue
from support.markdown_examples import CHECKOUT
from support.nvidia_smi import stand_in

import soloist
from soloist.events import Event, PassFinished
from tools.markdown_text import sentences

os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # jupyter_core warns of its older places otherwise
nbformat = pytest.importorskip("nbformat", reason="the extra notebook is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra notebook is not installed")

NOTEBOOK = CHECKOUT / "examples/kaggle.ipynb"
PLAN = CHECKOUT.parent / "shared/seed/kaggle_validation_plan.md"
JINA, BGE = "jina-code-embeddings-1.5b", "bge-m3"
SETTINGS, INSTALL, MACHINE, MODELS = "INPUT = Path(", "def install_soloist", "open_accelerator", "find_models(INPUT)"
LIBRARY, CHUNKS, EARLIER, EMBED = "def write_library_chunks", "def attached_folder", "earlier = [", "soloist.embed("
SEARCH, EVALUATE, EXPORT = "open_run(", "soloist.evaluate(", "soloist.export("
CELLS_OF_A_LAPTOP = (
    SETTINGS, INSTALL, MACHINE, MODELS, LIBRARY, CHUNKS, EARLIER, EMBED, SEARCH, EVALUATE, EXPORT,
)  # fmt: skip
MOST_WORDS = 25
# In place of pip, which would ask an index: it builds in the folder, as pip does, and installs the package from there.
PIP = """
import shutil
import subprocess
import sys
from pathlib import Path


def run(command, **options):
    folder, extras = command[-1].rstrip("]").split("[")
    print("extras:", extras)
    Path(folder, "build").mkdir()
    shutil.copytree(Path(folder, "src"), "site")
    sys.path.append("site")
    return subprocess.CompletedProcess(command, 0, "", "")


subprocess.run = run
import soloist  # the folder of the checkout
"""


def source_of(containing: str) -> str:
    """The code of the one cell that contains some text."""
    (cell,) = [cell for cell in code_cells() if containing in cell.source]
    return str(cell.source)


def code_cells() -> list:
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


class Session:
    """An executed notebook."""

    def __init__(self, notebook) -> None:
        self._cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def shown(self, containing: str) -> str:
        """What the cell with this text showed: of each output its text, or its HTML where it has any."""
        (cell,) = [cell for cell in self._cells if containing in cell.source]
        return "".join(map(text_of, cell.outputs))


def text_of(output) -> str:
    if output.output_type == "stream":
        return str(output.text)
    return str(output.data.get("text/html") or output.data.get("text/plain", ""))


def play(folder: Path) -> Session:
    """Execute the notebook as it is, with all that it reads and writes below `folder`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(CHECKOUT / "examples")}}
    )
    unset = ("SOLOIST_ACCELERATOR", "SOLOIST_CATALOGUE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    client.execute(env={**environment, **places(folder)})
    return Session(notebook)


def places(folder: Path) -> dict[str, str]:
    """The environment that keeps a session below a folder."""
    named = {"SOLOIST_INPUT": "input", "SOLOIST_WORKING": "working", "SOLOIST_LOCK_DIR": "locks"}
    named |= {"SOLOIST_CACHE_DIR": "cache", "IPYTHONDIR": "ipython"}
    return {name: str(folder / place) for name, place in named.items()}


def stop_after_a_model(event: Event) -> None:
    if isinstance(event, PassFinished):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def on_kaggle(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> tuple[Session, Path]:
    """A second session on Kaggle's mounts: two models, a broken third, chunks, and the output of a stopped session."""
    folder = tmp_path_factory.mktemp("kaggle")
    mounted = folder / "input"
    jina, bge = mounted / "models/jinaai/jina-code-embeddings-1-5b/transformers/default/1", mounted / "bge-m3"
    broken = mounted / "datasets/someone/all-minilm-l6-v2"
    shutil.copytree(tiny_models["qwen2"], jina)
    shutil.copytree(tiny_models["xlm-roberta"], bge)
    shutil.copytree(tiny_models["bert"], broken)
    (broken / "model.safetensors").unlink()
    shutil.copytree(CHECKOUT / "examples/chunks", mounted / "datasets/someone/manuals")
    for name in ("queries.jsonl", "qrels.tsv"):
        shutil.copy(CHECKOUT / "examples" / name, mounted / "datasets/someone/manuals")
    with pytest.raises(soloist.RunStoppedError):
        soloist.embed(
            soloist.RunConfig(
                chunks_root=mounted / "datasets/someone/manuals", models=(JINA, BGE), dtype="float32",
                out=mounted / "notebooks/someone/first-session/soloist-run", accelerator="simulated:2xT4",
                catalogue=write_catalogue(folder / "earlier.toml", {JINA: jina, BGE: bge}), lock_dir=folder / "locks",
            ),
            stop_after_a_model,
        )  # fmt: skip
    return play(folder), folder


def attach(folder: Path, *names: str) -> None:
    """Empty files below the folder of what is attached."""
    for name in names:
        (folder / "input" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "input" / name).touch()


class Cells:
    """The notebook's cells, run one by one in this process: a kernel would take seconds to start."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._displayed: list[Any] = []
        names["display"] = lambda *values: self._displayed.extend(values)

    def run(self, containing: str) -> str:
        """Run the cell with this text; what it printed, and the HTML of what it displayed."""
        self._displayed.clear()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(source_of(containing), self._names)
        return printed.getvalue() + "".join(value._repr_html_() for value in self._displayed)

    def __setitem__(self, name: str, value: Any) -> None:
        self._names[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._names[name]


def begin(folder: Path, patch: pytest.MonkeyPatch) -> Cells:
    """The cells of a session below a folder, with nothing attached unless it is there."""
    for name, value in {**places(folder), "SOLOIST_ACCELERATOR": "", "SOLOIST_CATALOGUE": ""}.items():
        patch.setenv(name, value)  # the cells change some of these, and so does PATH
    patch.setenv("PATH", os.environ["PATH"])
    patch.chdir(folder)
    patch.setattr(soloist.SoloistError, "_render_traceback_", None, raising=False)  # the notebook sets it
    return Cells({"__name__": "__main__"})


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cells, dict[str, str]]]:
    """Nothing attached, and no GPU: the cells, and what those up to the export showed by what they contain."""
    folder = tmp_path_factory.mktemp("laptop")
    with pytest.MonkeyPatch.context() as patch:
        cells = begin(folder, patch)
        shown = {text: cells.run(text) for text in CELLS_OF_A_LAPTOP[:5]}
        cells["LIBRARY"] = {"structures": "heapq", "files": "shutil"}  # fewer chunks than a reader has
        yield cells, shown | {text: cells.run(text) for text in CELLS_OF_A_LAPTOP[5:]}


def test_the_notebook_is_that_of_its_source() -> None:
    """A change of the source that nobody wrote into the notebook: run make notebook."""
    pytest.importorskip("jupytext", reason="the extra notebook is not installed")
    from tools.notebook import SOURCE, notebook_text

    assert NOTEBOOK.read_text(encoding="utf-8") == notebook_text(SOURCE.read_text(encoding="utf-8"))


def test_every_cell_of_code_has_words_before_it_that_are_short() -> None:
    """A cell that nobody explains is run without being understood, or left out."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    kinds = [cell.cell_type for cell in cells]
    assert ("code", "code") not in set(itertools.pairwise(kinds))
    words = [sentence for cell in cells if cell.cell_type == "markdown" for sentence in sentences(cell.source)]
    assert [sentence.text for sentence in words if sentence.words > MOST_WORDS] == []


@pytest.mark.shared_data
@pytest.mark.skipif(not PLAN.is_file(), reason="the validation plan is not beside the checkout")
def test_the_scenarios_are_the_code_of_the_plan() -> None:
    """A scenario that was changed in the notebook shows something else than the plan asks for."""
    names = {f'"{JINA}"': "FIRST", f'"{BGE}"': "SECOND", '"/kaggle/input/test-chunks/"': "SAMPLE"}
    found = re.findall(r"^```(\w+)\n(.*?)^```", PLAN.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    cells = [str(cell.source).strip() for cell in code_cells()]
    for language, block in found:
        if language == "python":
            for value, name in names.items():
                block = block.replace(value, name)
            assert block.strip() in cells
    (command,) = [block for language, block in found if language == "bash"]
    flags = set(re.findall(r"--[\w-]+", source_of("--exclusive-ensemble")))
    assert flags == {*re.findall(r"--[\w-]+", command), "--ensemble-models"}


def test_where_soloist_cannot_be_installed_one_sentence_says_what_to_attach(tmp_path: Path) -> None:
    """On Kaggle without the wheels, a user would see that a module is missing, but not what to do."""
    code = "\n".join(map(source_of, (SETTINGS, INSTALL)))
    environment = {**os.environ, "SOLOIST_INPUT": str(tmp_path / "input"), "SOLOIST_WORKING": str(tmp_path / "working")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "soloist is not installed. Attach the data set with soloist's wheels" in done.stderr


@pytest.mark.parametrize(
    ("pip", "words"),
    [
        ("subprocess.run = lambda command, **_: subprocess.CompletedProcess(command, 1, 'no wheel fits', '')",
         "pip could not install soloist: its message is above. Wheels are for one version of Python"),
        ("subprocess.run = lambda command, **_: subprocess.CompletedProcess(command, 0, '', '')\n"
         "sys.path.append('site')\n"
         "sys.modules['pyarrow'] = types.SimpleNamespace(__version__='18.1.0')",
         "this session had already loaded pyarrow 18.1.0, and pip has put another version in its place. Restart"),
    ],
)  # fmt: skip
def test_an_installation_that_cannot_be_used_says_what_to_do(pip: str, words: str, tmp_path: Path) -> None:
    """Wheels that do not fit were told as wheels that are not attached. And a library that changed under a session that
    had loaded it fails later, in an import, with an error that names neither.
    """
    attach(tmp_path, "wheels/wheels.json")
    (tmp_path / "input/wheels/wheels.json").write_text('{"extras": []}')
    (tmp_path / "site/pyarrow-26.0.0.dist-info").mkdir(parents=True)
    (tmp_path / "site/pyarrow-26.0.0.dist-info/METADATA").write_text("Name: pyarrow\nVersion: 26.0.0\n")
    code = "\n".join(("import subprocess, sys, types", pip, *map(source_of, (SETTINGS, INSTALL))))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={**os.environ, **places(tmp_path)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert words in done.stderr.splitlines()[-1]


def test_a_checkout_beside_the_notebook_is_installed_from_a_copy(tmp_path: Path) -> None:
    """Python can import the folder `soloist`, so it looks installed. And an attached folder cannot be written to."""
    for name, text in {
        "pyproject.toml": "", "scripts/embed_collections_v5.py": "",
        "src/soloist/__init__.py": "__version__ = 'of the package'\nclass SoloistError(Exception): ...\n",
    }.items():  # fmt: skip
        file = tmp_path / "soloist" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    code = "\n".join((PIP, *map(source_of, (SETTINGS, INSTALL))))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={**os.environ, **places(tmp_path)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.startswith("extras: eval,packaged-models,report\n")
    assert done.stdout.endswith("soloist of the package\n")
    assert not (tmp_path / "soloist/build").exists()


def test_chunks_are_files_of_a_format_and_not_those_of_an_attached_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose name has `_chunks.`, and the examples of soloist, would be embedded in place of your chunks."""
    attach(
        tmp_path, "a-checkout/pyproject.toml", "a-checkout/scripts/embed_collections_v5.py",
        "a-checkout/examples/chunks/notes_chunks.json", "a-script/test_chunks.py", "manuals/guide_chunks.json.gz",
    )  # fmt: skip
    cells = begin(tmp_path, monkeypatch)
    cells["usable"] = [BGE]
    assert [cells.run(text) for text in (SETTINGS, INSTALL, CHUNKS)][-1] == f"chunks: {tmp_path}/input/manuals\n"


def test_what_is_attached_after_a_demonstration_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path]
) -> None:
    """The first run of all cells sets names. If the second kept them, it would embed Python's documentation again.

    And the run of the demonstration has other models, so `soloist.embed` would refuse to continue it.
    """
    cells = begin(tmp_path, monkeypatch)
    for text in (SETTINGS, INSTALL, MACHINE, MODELS, LIBRARY):
        cells.run(text)
    cells["LIBRARY"] = {"files": "shutil"}
    assert "No chunks are attached" in cells.run(CHUNKS)
    assert cells["RUN"].name == "soloist-demonstration"
    shutil.copytree(tiny_models["xlm-roberta"], tmp_path / "input" / BGE)
    assert "One model is attached, so the notebook uses small models" in cells.run(MODELS)
    shutil.copytree(tiny_models["qwen2"], tmp_path / "input" / JINA)
    attach(tmp_path, "manuals/guide_chunks.json", "notes/more_chunks.json")
    assert cells.run(MODELS).endswith(f"models: {JINA}, {BGE}\n")
    shown = cells.run(CHUNKS)
    assert shown.startswith("Several data sets have chunks. The notebook takes the first")
    assert shown.endswith(f"chunks: {tmp_path}/input/manuals\n")
    assert cells["RUN"].name == "soloist-run"


def test_an_earlier_run_without_its_chunks_is_no_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who forgets to attach the chunks again gets vectors of Python's documentation, hours later."""
    attach(tmp_path, "first-session/soloist-run/manifest.jsonl", "first-session/python-docs/files/shutil_chunks.json")
    cells = begin(tmp_path, monkeypatch)
    cells["usable"] = [BGE]
    cells.run(SETTINGS)
    cells.run(INSTALL)
    with pytest.raises(cells["Missing"], match="an earlier session is attached, but not its chunks"):
        cells.run(CHUNKS)


def test_a_gpu_that_torch_cannot_use_is_told_with_what_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a P100, `choose --accelerator cpu` is advice for another place: a notebook has a menu."""
    cells = begin(tmp_path, monkeypatch)
    cells.run(SETTINGS)
    cells.run(INSTALL)
    monkeypatch.setenv("PATH", stand_in(tmp_path / "driver", "echo 'Tesla P100-PCIE-16GB, 470.82.01'"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(cells["Missing"], match=r"(?s)Tesla P100.*\.\nOn Kaggle, choose .* > GPU T4 x2") as raised:
        cells.run(MACHINE)
    assert raised.value._render_traceback_() == [str(raised.value)]


def test_the_copy_of_an_earlier_run_counts_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is interrupted while it copies would leave a part, and the next run would embed all else again."""
    run = tmp_path / "input/first-session/soloist-run"
    run.mkdir(parents=True)
    (run / "manifest.jsonl").write_text("{}")
    (run / "lost").symlink_to(tmp_path / "nothing")
    cells = begin(tmp_path, monkeypatch)
    cells.run(SETTINGS)
    cells.run(INSTALL)
    with pytest.raises(shutil.Error, match="lost"):
        cells.run(EARLIER)
    assert not cells["RUN"].exists()
    (run / "lost").unlink()
    assert cells.run(EARLIER) == f"going on with the run of an earlier session: {run}\n"
    assert [path.name for path in cells["WORKING"].iterdir()] == ["soloist-run"]
    assert (cells["RUN"] / "manifest.jsonl").read_text() == "{}"


def test_with_fewer_than_two_models_one_sentence_says_what_to_attach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook that continues with one model or none fails later, with an error that does not name the cause."""
    monkeypatch.setenv("SOLOIST_INPUT", str(tmp_path / "input"))
    monkeypatch.setenv("SOLOIST_WORKING", str(tmp_path / "working"))
    monkeypatch.setenv("SOLOIST_CATALOGUE", "")  # the cell sets it
    cells = Cells({"__name__": "__main__", "importlib": importlib})
    cells.run(SETTINGS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no model is installed as a package
    with pytest.raises(cells["Missing"]) as raised:
        cells.run(MODELS)
    assert str(raised.value).startswith("An ensemble needs two models, but none can be used. Attach folders of")
    assert raised.value._render_traceback_() == [str(raised.value)]
    assert capsys.readouterr().out == ""


@pytest.mark.process
def test_a_session_on_kaggle_finds_what_is_attached(on_kaggle: tuple[Session, Path]) -> None:
    """If the notebook misses a mount, it takes another model, other chunks or another run without a word."""
    session, folder = on_kaggle
    assert "This machine has no GPU, so the notebook uses two simulated T4" in session.shown(MACHINE)
    models = session.shown(MODELS)
    assert f"{JINA}: {folder}/input/models/jinaai/jina-code-embeddings-1-5b/transformers/default/1\n" in models
    assert f"{BGE}: {folder}/input/bge-m3\n" in models
    assert "all-MiniLM-L6-v2 cannot be loaded from" in models
    assert models.endswith(f"models: {JINA}, {BGE}\n")
    assert session.shown(CHUNKS) == f"chunks: {folder}/input/datasets/someone/manuals\n"


@pytest.mark.process
def test_a_session_on_kaggle_plans_and_checks(on_kaggle: tuple[Session, Path]) -> None:
    """A plan that does not fit, and a promise that is not kept, on the devices that the notebook chose."""
    session, folder = on_kaggle
    plan = session.shown("soloist.plan(")
    assert "fits into a session of 12:00:00" in plan and "32 chunks" in plan and "2 devices: Tesla T4" in plan
    checks = json.loads((folder / "working/validation/validation.json").read_text())["checks"]
    assert [check for check in checks if check["verdict"] == "fail"] == []
    assert "✓ pass" in session.shown("soloist.validate(")


@pytest.mark.process
def test_a_session_on_kaggle_goes_on_with_the_output_of_an_earlier_one(on_kaggle: tuple[Session, Path]) -> None:
    """A second session that embeds again what the first had done takes twice the hours."""
    session, _ = on_kaggle
    assert "going on with the run of an earlier session" in session.shown(EARLIER)
    embedded = session.shown(EMBED)
    assert f"{JINA}: 0 chunks embedded, 32 kept from an earlier session" in embedded
    assert f"{BGE}: 0 chunks" not in embedded
    assert "finished" in session.shown("!soloist status")


@pytest.mark.process
def test_a_session_on_kaggle_searches_evaluates_and_exports(on_kaggle: tuple[Session, Path]) -> None:
    """A cell that shows nothing, or an error that the notebook prints and goes on from."""
    session, folder = on_kaggle
    assert session.shown(SEARCH).count("<pre>") == 3
    assert "32 questions" in session.shown(EVALUATE)
    assert "report.html: 0." in session.shown("soloist.report(")
    assert "32 rows with the columns" in session.shown(EXPORT)
    assert session.shown("in WORKING.iterdir()").endswith(f"finished: the vectors are in {folder}/working/vectors\n")


@pytest.mark.process
def test_a_session_on_kaggle_shows_what_the_plan_expects(on_kaggle: tuple[Session, Path]) -> None:
    """The six scenarios as a reader of the notebook judges them."""
    session, _ = on_kaggle
    shown = [session.shown(f"# {text}") for text in ("Check that models are", "Check lease", "Check VRAM deltas")]
    assert f"{JINA}: cpu\n{BGE}: cpu\n" in shown[0]
    leases = re.findall(r"^(acquire|release): (\S+) on devices (.*)$", shown[1], flags=re.MULTILINE)
    assert leases == [(kind, model, "[0, 1]") for model in (JINA, BGE) for kind in ("acquire", "release")]
    assert re.findall(r"GPU \d: (.*) GB allocated", shown[2])[-4:] == ["0.00"] * 4
    sizes = re.findall(r"batch size: (\d+)", session.shown("# Compare batch sizes"))
    assert len(sizes) == 2 and int(sizes[1]) >= int(sizes[0]) > 0
    assert "Cosine similarity: 1.000000" in session.shown("# Run both modes")
    assert "Exclusive ensemble mode detected" in session.shown("--exclusive-ensemble")
    assert "ensemble mode exclusive" in session.shown("embedding_summary.json")


def test_a_laptop_needs_nothing_attached(laptop: tuple[Cells, dict[str, str]]) -> None:
    """A first user of the notebook has attached nothing. The notebook must still show what it can do."""
    _, shown = laptop
    assert "This machine has no GPU" in shown[MACHINE]
    assert "No models are attached" in shown[MODELS]
    assert "No chunks are attached" in shown[CHUNKS]
    assert "a new run" in shown[EARLIER]
    assert "<b>shutil.rmtree</b>" in shown[SEARCH].split("</div>")[0]
    assert "the best single model" in shown[EVALUATE]
    assert re.search(r"\d+ rows with the columns", shown[EXPORT])


def test_an_error_of_soloist_is_shown_as_its_sentence(laptop: tuple[Cells, dict[str, str]]) -> None:
    """A folder that is not there, or a GPU that torch cannot use: forty lines of traceback hide what to do."""
    cells, _ = laptop
    with pytest.raises(soloist.SoloistError, match="the folder of chunks missing cannot be read") as raised:
        soloist.plan("missing", **cells["SETTINGS"])
    assert raised.value._render_traceback_() == [str(raised.value)]  # which IPython shows instead of the traceback


def test_every_question_of_the_notebook_has_its_answer(laptop: tuple[Cells, dict[str, str]]) -> None:
    """An answer that Python does not document is left out with a note, and below 20 questions there is no verdict."""
    cells, _ = laptop
    cells.run(LIBRARY)
    modules = [importlib.import_module(name) for names in cells["LIBRARY"].values() for name in names.split()]
    ids = {chunk["metadata"]["chunk_id"] for module in modules for chunk in cells["library_chunks"](module)}
    assert {answer for answers in cells["ANSWERS"].values() for answer in answers.split()} <= ids
    assert len(cells["ANSWERS"]) >= 20


def test_the_same_cell_again_keeps_everything(laptop: tuple[Cells, dict[str, str]]) -> None:
    """A second run of all cells must not embed again."""
    cells, _ = laptop
    assert "going on with" in cells.run(EARLIER)
    kept = re.findall(r"([\w-]+): 0 chunks embedded, (\d+) kept from an earlier session", cells.run(EMBED))
    assert [model for model, _ in kept] == ["all-MiniLM-L6-v2", "wordllama"]


def test_a_run_whose_time_is_over_says_how_to_go_on(laptop: tuple[Cells, dict[str, str]]) -> None:
    """The end of a session is usual on Kaggle: a traceback would lose the version, and cells below would fail."""
    cells, _ = laptop
    cells["TIME_LIMIT"], cells["RUN"] = "0.001s", cells["WORKING"] / "short"
    stopped = cells.run(EMBED)
    assert "stopped because its time is over" in stopped and "attach its output" in stopped
    assert [cells.run(text) for text in (SEARCH, EVALUATE, EXPORT)] == ["", "", ""]
