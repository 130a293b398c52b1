"""A question or a run imports what its members need, and no more: what is there is tested, not how long it took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.collections import write_collection
from support.tiny_models import SENTENCES, make_bert, make_static

from soloist.config import RunConfig
from soloist.engine.run import run

pytestmark = pytest.mark.process

QUESTION = SENTENCES[1]
TORCH = {"torch", "transformers", "sentence_transformers", "sklearn", "tokenizers"}
LIBRARIES = {"transformers", "sentence_transformers", "sklearn"}
# What only runs, evaluations, exports or reports need.
OTHERS = {
    "matplotlib", "ir_measures", "jinja2", "soloist.devices", "soloist.staging", "soloist.engine",
    "soloist.retrieval.evaluation", "soloist.retrieval.second_stage", "soloist.exports.rows", "soloist.sizing",
}  # fmt: skip
# The modules of a process, once it has given its answers: those of the command line, and those of Python.
_CODE = """
import json, sys
from typer.testing import CliRunner
import soloist
from soloist.cli import app

for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments)
    assert not done.exit_code, done.output
for folder, name in json.loads(sys.argv[2]):
    questions = soloist.open_questions(folder)
    assert questions.encode_words([sys.argv[3]], name) if questions.kinds[name] == "lexical" else (
        len(questions.encode([sys.argv[3]], name))
    )
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of words alone, of tables alone, and of words beside a network."""
    root = tmp_path_factory.mktemp("first-questions")
    write_collection(root / "chunks", "alpha", 12, longest=20, seed=3)
    models = {
        "words": ("bm25",),
        "tables": ("bm25", "wordllama", str(make_static(root / "table", rows=4_000))),
        "networks": ("bm25", str(make_bert(root / "bert"))),
    }
    for name, members in models.items():
        run(RunConfig(chunks_root=root / "chunks", out=root / name, models=members, accelerator="cpu",
                      lock_dir=root / "locks"))  # fmt: skip
    return {name: root / name for name in models}


def _imported(commands: list[list[str]], opened: list[tuple[str, str]]) -> set[str]:
    arguments = [json.dumps(commands), json.dumps(opened), QUESTION]
    done = subprocess.run([sys.executable, "-c", _CODE, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_question_to_words_imports_no_torch(runs: dict[str, Path]) -> None:
    """The words of a question cost a tenth of a second, and torch with its libraries more than four."""
    words, networks = str(runs["words"]), str(runs["networks"])
    imported = _imported(
        [
            ["search", words, QUESTION], ["search", words, QUESTION, "--explain", "--json"],
            ["encode", words, QUESTION, "--model", "bm25"],
            ["search", networks, QUESTION, "--model", "bm25"], ["encode", networks, QUESTION, "--model", "bm25"],
        ],
        [(words, "bm25"), (networks, "bm25")],
    )  # fmt: skip
    assert imported & (TORCH | OTHERS) == set()


def test_a_question_to_tables_imports_torch_alone(runs: dict[str, Path]) -> None:
    """A table of vectors multiplies nothing, and the import of transformers and its friends takes three seconds."""
    tables = str(runs["tables"])
    imported = _imported(
        [["search", tables, QUESTION], ["encode", tables, QUESTION, "--fused"]],
        [(tables, "wordllama"), (tables, "table"), (tables, "fused")],
    )
    assert "torch" in imported
    assert imported & (LIBRARIES | OTHERS) == set()


def test_a_run_of_tables_imports_torch_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    """A small run would take three times as long, and all runs 200 MB more."""
    out, models = tmp_path / "run", f"bm25,wordllama,{runs['tables'].parent / 'table'}"
    arguments = ["embed", str(runs["tables"].parent / "chunks"), "--out", str(out), "--models", models]
    imported = _imported([[*arguments, "--accelerator", "cpu", "--lock-dir", str(tmp_path / "locks")]], [])
    assert (out / "run.json").is_file()
    assert "torch" in imported
    assert imported & LIBRARIES == set()


def test_a_question_to_a_network_imports_its_libraries_and_no_more(runs: dict[str, Path]) -> None:
    """What embeds, evaluates and exports a run would come along with every question."""
    imported = _imported([["search", str(runs["networks"]), QUESTION]], [])
    assert imported >= LIBRARIES
    assert imported & (OTHERS - {"matplotlib", "jinja2"}) == set()  # which those libraries import where they are
