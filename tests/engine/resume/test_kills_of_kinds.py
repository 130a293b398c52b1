"""Runs of words, sparse and dense members that are killed with -9 at random moments, and gone on with.

SOLOIST_FUZZ_KILLS is the number of kills, SOLOIST_FUZZ_SEED the seed of their moments; `make fuzz` takes 30.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from support.collections import write_catalogue
from support.commands import Commands, Death
from support.editing import assert_same_files, random_text, write_chunks
from support.tiny_models import make_static
from support.tiny_sparse import make_m3, make_splade

KILLS = int(os.environ.get("SOLOIST_FUZZ_KILLS", "3"))
SEED = int(os.environ.get("SOLOIST_FUZZ_SEED", "0"))
# A session of these runs changes its folder some 200 times.
FARTHEST = 150


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of a table of vectors, a sparse model, and a network that gives dense and sparse vectors."""
    folder = tmp_path_factory.mktemp("kinds")
    models = {
        "static": make_static(folder / "static", dim=32, rows=2000),
        "splade": make_splade(folder / "splade", num_hidden_layers=1),
        "m3": make_m3(folder / "m3", num_hidden_layers=1),
    }
    return write_catalogue(folder / "catalogue.toml", models)


@pytest.mark.parametrize("members", ["static,splade,bm25", "m3,m3:sparse,bm25"])
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    commands: Commands, kinds: Path, tmp_path: Path, members: str
) -> None:
    """A file or an index half written and counted, one of two files of a shard left out, a shard that is done twice."""
    print(f"SOLOIST_FUZZ_SEED={SEED}")
    generator, kills, life = random.Random(SEED), 0, 0
    items = [(f"id-{number}", random_text(generator)) for number in range(50)]
    items.append(("twice", items[3][1]))
    write_chunks(tmp_path / "chunks", {"alpha/a": items[:30], "beta/b": items[30:]})
    options = [
        "embed", str(tmp_path / "chunks"), "--catalogue", str(kinds), "--accelerator", "cpu", "--models", members,
        "--shard-chunks", "8", "--lock-dir", str(tmp_path / "locks"), "--cache-dir", str(tmp_path / "cache"),
        "--matmul", "torch",  # each process would build oneDNN's products anew
    ]  # fmt: skip
    whole = tmp_path / "undisturbed"
    assert commands.run(*options, "--out", str(whole)).code == 0
    while kills < KILLS:
        out, life, code = tmp_path / f"run-{life}", life + 1, -signal.SIGKILL
        while code and kills < KILLS:
            count = generator.randint(1, FARTHEST)
            code = commands.run(*options, "--out", str(out), death=Death(folder=out, count=count)).code
            assert code in (0, -signal.SIGKILL), f"seed {SEED}, life {life}, operation {count}"
            kills += code != 0
        ended = commands.run(*options, "--out", str(out))
        assert ended.code == 0, ended.stderr
        assert_same_files(out, whole)
        assert commands.run("verify", str(out)).code == 0
    print(f"{kills} kills in {life} lives")
