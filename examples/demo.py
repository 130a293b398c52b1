"""Embed the documentation of Python's standard library with two models, and ask it three questions.

Both models come with the package `soloist[packaged-models]`, so nothing is downloaded. Run it with
`make demo`, or `python examples/demo.py [FOLDER]`; FOLDER is new or empty, by default a temporary one.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import soloist
from soloist.arrays import Vectors
from soloist.fusion import FusionPlan, fuse
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.reports.table import open_console, print_result
from soloist.stores import RunFolder
from soloist.types import Chunk

# Modules whose import does nothing else.
COLLECTIONS = {
    "data-structures": "array collections copy dataclasses enum graphlib heapq itertools queue types weakref",
    "text": "argparse configparser csv difflib html json pprint re shlex string textwrap unicodedata",
    "files": "filecmp fileinput fnmatch glob pathlib shutil stat tarfile tempfile zipfile",
    "concurrency": "concurrent.futures contextvars sched selectors subprocess threading",
}
QUESTIONS = (
    "What gives me the ten largest numbers of a list?",
    "How can I wait until several threads have all reached the same point?",
    "Find all files in a folder and its subfolders whose name matches a pattern",
)
WEIGHTS = {"all-MiniLM-L6-v2": 0.85, "wordllama": 0.15}
SHORTEST, LONGEST = 40, 900  # characters in a chunk
HITS = 3


def main() -> None:
    """Chunk, embed, ask."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="soloist-demo-"))
    write_chunks(folder / "chunks")
    config = soloist.RunConfig(
        chunks_root=folder / "chunks",
        out=folder / "run",
        models=tuple(WEIGHTS),
        fusion=soloist.FusionConfig(weights=WEIGHTS),
        mode="exclusive",
    )
    result = soloist.embed(config, progress=True)
    print_result(result, open_console(sys.stdout))
    ask(RunFolder.open(folder / "run"))
    print(f"\nThe chunks and the run stay in {folder}: remove it when you have seen enough.")


def write_chunks(root: Path) -> None:
    """A folder for each collection, with one chunk file a module."""
    for collection, names in COLLECTIONS.items():
        (root / collection).mkdir(parents=True)
        for name in names.split():
            chunks = list(module_chunks(importlib.import_module(name)))
            (root / collection / f"{name}_chunks.json").write_text(json.dumps(chunks, indent=1), encoding="utf-8")


def module_chunks(module: ModuleType) -> Iterator[dict[str, Any]]:
    """The docstrings of the module, its classes, their methods and its functions, in pieces."""
    seen: set[str] = set()
    for qualname, documented in documented_objects(module):
        text = inspect.getdoc(documented) or ""
        if len(text) < SHORTEST or text in seen:
            continue
        seen.add(text)
        for number, piece in enumerate(pieces(text)):
            place = {"chunk_id": f"{qualname}#{number}", "module": module.__name__, "qualname": qualname}
            yield {"text": f"{qualname}\n\n{piece}", "metadata": place}


def documented_objects(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The module, its public classes with their public methods, and its functions, sorted by name."""
    yield module.__name__, module
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    for name in sorted(getattr(module, "__all__", own)):
        value = getattr(module, name)
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        yield f"{module.__name__}.{name}", value
        for member in sorted(vars(value)) if inspect.isclass(value) else ():
            method = getattr(value, member, None)
            if not member.startswith("_") and inspect.isroutine(method):
                yield f"{module.__name__}.{name}.{member}", method


def pieces(text: str) -> Iterator[str]:
    """Whole paragraphs, as many together as fit into LONGEST characters. A longer paragraph stays whole."""
    piece = ""
    for paragraph in text.split("\n\n"):
        if piece and len(piece) + len(paragraph) > LONGEST:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}".strip("\n")
    if piece.strip():
        yield piece


def ask(run: RunFolder) -> None:
    """Print the nearest chunks of each question: the exact dot products with every fused vector of the run."""
    report = run.read_json("run.json")
    plan = FusionPlan.from_dict(report["fusion"])
    staged = [stage(resolve(model["name"]), model["dtype"]) for model in report["models"]]
    # (n_questions, plan.dim): the same plan for questions as for chunks
    questions = fuse(plan, [encode_questions(model) for model in staged])
    chunks, vectors = read_run(run, [collection["name"] for collection in report["collections"]])
    for question, scores in zip(QUESTIONS, questions @ vectors.T, strict=True):
        print(f"\n{question}")
        for row in np.argsort(-scores, kind="stable")[:HITS]:
            qualname, _, piece = chunks[row].text.partition("\n\n")
            print(f"  {scores[row]:.3f}  {qualname}: {piece.strip().splitlines()[0]}")


def encode_questions(model: StagedModel) -> Vectors:
    """The unit vectors of the questions, (n_questions, dim) float32, with the model's query prompt."""
    vectors = model.module.encode_query(
        list(QUESTIONS), prompt=model.query_prompt, normalize_embeddings=True, show_progress_bar=False
    )
    return np.asarray(vectors, dtype=np.float32)


def read_run(run: RunFolder, collections: list[str]) -> tuple[list[Chunk], Vectors]:
    """All chunks of the run, and their fused vectors, (n_chunks, dim), in the same order."""
    places = [(collection, shard) for collection in collections for shard in run.shards.indices(collection)]
    chunks = [chunk for place in places for chunk in run.shards.read_chunks(*place)]
    return chunks, np.concatenate([run.shards.read_fused(*place)[1] for place in places])


if __name__ == "__main__":
    main()
