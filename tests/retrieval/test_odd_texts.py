"""Texts that few collections have, as chunks and as questions, by words, by a sparse model and by token weights."""

from __future__ import annotations

import json
import os
import random

import pytest
from support.tiny_sparse import make_m3, make_splade

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.errors import SoloistError
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.opened import OpenedRun, open_run
from soloist.retrieval.qrels import Qrels
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

CASES = int(os.environ.get("SOLOIST_FUZZ_CASES", "100")) // 10
SEED = int(os.environ.get("SOLOIST_FUZZ_SEED", "0"))
ODD = (
    "the and of", "...!?", "\U0001f680\U0001f389", "\U0001f469\u200d\U0001f4bb", "x" * 2_000_000, "lease " * 333_000,
    "\u5168\u6587\u691c\u7d22\u306f\u5358\u8a9e\u306e\u9593\u306b\u7a7a\u767d\u304c\u306a\u3044",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u05e9\u05dc\u05d5\u05dd \u202e\u202d",
    "a\u0301 \ufb01ne caf\u00e9", "\x00", "lease\x00device", "\x01\x02\x1b[2J\x7f", "\ufffe\uffff\u200b\u2028",
    "[CLS] [SEP] <s> </s> <pad> <unk> [MASK]", "get_user_name getUserName a.b.c",
)  # fmt: skip
ALONE = ("m3:sparse", "splade", "bm25")
RANKERS = (*ALONE, "m3", "hybrid", "rrf")


def _random_text(generator: random.Random) -> str:
    """Characters of any plane, without halves of pairs."""
    ranges = ((0, 0x20), (0x20, 0x250), (0x600, 0x700), (0xE00, 0xE80), (0x3040, 0x9FFF), (0x1F300, 0x1FAFF))
    length = generator.randint(1, 60)
    return "".join(chr(generator.randrange(*generator.choice(ranges))) for _ in range(length))


@pytest.fixture(scope="module")
def texts() -> tuple[str, ...]:
    """The odd texts, some that are drawn, and plain ones."""
    generator = random.Random(SEED)
    print(f"SOLOIST_FUZZ_SEED={SEED}")
    return (*ODD, *(_random_text(generator) for _ in range(CASES)), "a lease of a device", "which shard holds a vector")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, ...]) -> OpenedRun:
    """A run of these texts, each a chunk, by all kinds of members."""
    root = tmp_path_factory.mktemp("odd")
    make_m3(root / "m3", num_hidden_layers=1)
    make_splade(root / "splade", num_hidden_layers=1)
    (root / "chunks" / "alpha").mkdir(parents=True)
    lines = [json.dumps({"text": text, "id": f"id-{number}"}) for number, text in enumerate(texts)]
    (root / "chunks" / "alpha" / "a.jsonl").write_text("\n".join(lines))
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", accelerator="cpu", shard_chunks=8, lock_dir=root / "locks",
        models=(str(root / "m3"), f"{root / 'm3'}:sparse", str(root / "splade"), "bm25"),
    )  # fmt: skip
    run(config)
    assert verify_run(RunFolder(config.out)).problems == ()
    return open_run(config.out)


def test_every_text_is_found_or_refused_in_a_sentence(made: OpenedRun, texts: tuple[str, ...]) -> None:
    """A traceback of a tokenizer or an index, or a hit with a score that is not a number."""
    for text in texts:
        is_long = len(text) > 1_000_000
        for by in ALONE if is_long else RANKERS:
            try:
                hits = made.search(text, 5, by=by, explain=not is_long)
            except SoloistError as exc:
                assert 0 < len(str(exc)) < 600 and "\n" not in str(exc), (by, text[:40])
                continue
            assert all(abs(hit.score) < 1e6 for hit in hits), (by, text[:40])
    assert made.search("a lease of a device", 1, by="m3:sparse")
    (hit,) = made.search("getUserName", 1, by="bm25")
    assert hit.text == "get_user_name getUserName a.b.c"


def test_an_evaluation_judges_them_by_every_member(made: OpenedRun, texts: tuple[str, ...]) -> None:
    """One odd question would end an evaluation of thousands."""
    folder = RunFolder(made.record.config.out)
    ids = {id_ for shard in folder.shards.indices("alpha") for id_ in folder.shards.read_shard("alpha", shard).ids}
    asked = {f"q-{number}": text for number, text in enumerate(texts) if len(text) < 1_000 and text.strip()}
    judged = {query: {query.replace("q-", "id-"): 1} for query in asked if query.replace("q-", "id-") in ids}
    qrels = Qrels(queries={query: asked[query] for query in judged}, judgements=judged)
    evaluation = evaluate(made, qrels)
    names = {system.name for system in evaluation.systems}
    assert {"m3", "m3:sparse", "splade", "bm25"} <= names
    assert all(0 <= value <= 1 for system in evaluation.systems for value in system.measures.values())
