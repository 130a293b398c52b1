"""What a folder was made with stays unless a command names something else, and a change is said before it happens."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.editing import assert_same_files, random_text, run_files

from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.engine import RunResult, run
from soloist.engine.resume.changes import changes
from soloist.errors import ConfigError
from soloist.events import Event, Notice, ShardEncoded
from soloist.planning.estimate import estimate_run
from soloist.retrieval import open_run
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

WEIGHTS = {"static": 0.7, "bert": 0.3}


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections of lines whose text and id are in fields of unusual names; one file is no default's."""
    generator, root = random.Random(3), tmp_path_factory.mktemp("texts") / "chunks"
    for collection in ("alpha", "beta"):
        (root / collection).mkdir(parents=True)
        lines = [{"body": random_text(generator), "text": "no", "key": f"{collection}{n}"} for n in range(10)]
        (root / collection / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (root / collection / "other.jsonl").write_text('{"body": "not asked for", "key": "other"}\n')
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, chunks: Path, catalogue: Path) -> RunConfig:
    """A run whose every setting that a folder keeps is another than the default; its config names them all."""
    root = tmp_path_factory.mktemp("whole")
    config = RunConfig(
        chunks_root=chunks, out=root / "run", collections=["alpha"], models=["static", "bert"], catalogue=catalogue,
        fusion=FusionConfig(method="mean", weights=WEIGHTS, dim=16), dtype="float32", vector_dtype="float16",
        source=SourceConfig(text_field="body", id_field="key", file_patterns=("part*",), on_bad_input="skip"),
        shard_chunks=4, packing="off", accelerator="cpu", lock_dir=root / "locks", cache_dir=root / "cache",
    )  # fmt: skip
    run(config)
    return config


def bare(config: RunConfig, out: Path, **named: Any) -> RunConfig:
    """A config of the same chunks that names a folder, and nothing that a folder keeps but `named`."""
    return RunConfig(
        chunks_root=config.chunks_root, out=out, accelerator="cpu", lock_dir=config.lock_dir,
        cache_dir=config.cache_dir, **named,
    )  # fmt: skip


def copied(config: RunConfig, target: Path) -> Path:
    return shutil.copytree(config.out, target)


def about(result: RunResult) -> list[str]:
    return [notice.split(":")[0] for notice in result.notices]


def test_a_finished_run_keeps_everything_that_a_command_does_not_name(whole: RunConfig, tmp_path: Path) -> None:
    """Catches weights .7/.3 that become .5/.5, and float16 vectors that are computed again, because of nothing said."""
    out = copied(whole, tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "events.jsonl"}
    result = run(bare(whole, out))
    assert {path: path.read_bytes() for path in before} == before
    assert [model.embedded for model in result.models] == [0, 0]
    assert result.config == dataclasses.replace(whole, out=out)
    assert (
        f"fusion: mean, weights static=0.7,bert=0.3, dim 16, kept from {out}; to change this, give --fusion or "
        "--weights or --dim"
    ) in result.notices
    assert {"collections", "dtype", "vector_dtype", "packing", "shard_chunks", "text_field"} <= set(about(result))
    again = run(dataclasses.replace(whole, out=out))
    assert not [notice for notice in again.notices if "kept from" in notice], "what a command names itself is no news"


def test_an_unfinished_run_goes_on_with_what_it_was_begun_with(whole: RunConfig, tmp_path: Path) -> None:
    """Catches a state.json that is written after the folder has changed, or that nobody reads."""

    def break_off(event: Event) -> None:
        if isinstance(event, ShardEncoded):
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        run(dataclasses.replace(whole, out=tmp_path / "run"), break_off)
    assert not (tmp_path / "run" / "run.json").exists()
    run(bare(whole, tmp_path / "run"))
    assert_same_files(tmp_path / "run", whole.out)


def test_a_run_that_an_earlier_version_wrote_keeps_what_it_says(whole: RunConfig, tmp_path: Path) -> None:
    """Catches a reader of run.json that wants fields of today."""
    out = copied(whole, tmp_path / "run")
    summary = json.loads((out / "run.json").read_text())
    for name in ("packing", "reuse", "stop_after", "isolation"):
        del summary["config"][name]
    (out / "run.json").write_text(json.dumps(summary))
    result = run(bare(whole, out, packing="off"))
    assert [model.embedded for model in result.models] == [0, 0]
    assert result.config == dataclasses.replace(whole, out=out)


def test_a_change_is_said_before_a_byte_changes(whole: RunConfig, tmp_path: Path) -> None:
    """Catches a notice that tells of what is done already; Ctrl-C would come too late."""
    out = copied(whole, tmp_path / "run")
    before, said = run_files(out), set()

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            now = {name: content for name, content in run_files(out).items() if not name.startswith((".", "state"))}
            said.add((event.about, event.message, "in time" if now == before else "too late"))

    result = run(
        bare(whole, out, fusion=FusionConfig(weights={"static": 0.5, "bert": 0.5}), vector_dtype="float32"), listen
    )
    both = "now on: all fused vectors are made again, no text is embedded, and the next export writes every row that"
    was = "it was mean of static 0.7, bert 0.3, 16 dimensions, and is mean of static 0.5, bert 0.5, 16 dimensions from"
    assert ("fusion", f"{was} {both} has a fused vector", "in time") in said
    again = "its float16 vectors cannot serve as float32: texts that have only a float16 vector are computed again"
    assert ("static", again, "in time") in said
    assert result.config.fusion == FusionConfig(method="mean", weights={"static": 0.5, "bert": 0.5}, dim=16)
    assert not verify_run(RunFolder.open(out)).problems


def test_weights_of_the_folder_that_do_not_fit_the_models_are_refused(whole: RunConfig, tmp_path: Path) -> None:
    """Catches weights that are dropped for all alike because a model came to the others."""
    out = copied(whole, tmp_path / "run")
    (tmp_path / "models.toml").write_text(whole.catalogue.read_text() + '[models.more]\nsource = "static"\n')  # type: ignore[union-attr]
    shutil.copytree(whole.catalogue.parent / "static", tmp_path / "static")  # type: ignore[union-attr]
    more = bare(whole, out, catalogue=tmp_path / "models.toml", models=["static", "bert", "more"])
    with pytest.raises(ConfigError, match=r"--weights static=0.7,bert=0.3,more=1$"):
        run(more)
    assert any("--weights static=0.7,bert=0.3,more=1" in note for note in estimate_run(more).notes)


def test_a_dry_run_says_that_the_fusion_changes(whole: RunConfig, tmp_path: Path) -> None:
    """Catches a dry run that reports the weights that stay and not the fusion that goes."""
    out = copied(whole, tmp_path / "run")
    said = changes(bare(whole, out, fusion=FusionConfig(method="concat"))).notices
    weights = "weights static=0.7,bert=0.3"
    assert f"fusion: {weights}, kept from {out}; to change this, give --weights" in said
    was = f"it was mean, {weights}, dim 16 in {out}, and is concat, {weights} from now on"
    assert f"fusion: {was}: all fused vectors change, and no text is embedded" in said
    assert not any("from now on" in notice for notice in changes(bare(whole, out)).notices)


def test_a_catalogue_that_is_gone_is_named(whole: RunConfig, tmp_path: Path) -> None:
    """Catches models of another prompt, or of none, in a folder that was made with a catalogue."""
    out = copied(whole, tmp_path / "run")
    summary = json.loads((out / "run.json").read_text())
    summary["config"]["catalogue"] = str(tmp_path / "gone.toml")
    (out / "run.json").write_text(json.dumps(summary))
    with pytest.raises(
        ConfigError, match=r"was made with the catalogue .*gone.toml, which does not exist now: give --catalogue"
    ):
        run(bare(whole, out))


def test_a_single_model_is_not_fused_unless_somebody_asks(chunks: Path, whole: RunConfig, tmp_path: Path) -> None:
    """Catches vectors that lie on the disk twice; with a dim, or beside a second model, they are others."""
    source = whole.source
    named = {"source": source, "catalogue": whole.catalogue}
    alone = bare(whole, tmp_path / "run", models=["static"], **named)
    assert run(alone).fusion is None
    assert not list((tmp_path / "run").glob("*/fused"))
    assert not verify_run(RunFolder.open(tmp_path / "run")).problems
    assert open_run(tmp_path / "run").search("a lease", 1)

    cut = run(bare(whole, tmp_path / "cut", models=["static"], fusion=FusionConfig(dim=8), **named))
    assert cut.fusion is not None and (cut.fusion.method, cut.fusion.dim) == ("concat", 8)
    assert run(bare(whole, tmp_path / "cut")).fusion == cut.fusion

    both = run(bare(whole, tmp_path / "run", models=["static", "bert"]))
    assert both.fusion is not None and both.fusion.method == "concat"
    assert any(notice.startswith("fusion: concat of static 0.5, bert 0.5") for notice in both.notices)


def test_a_single_model_that_was_fused_before_stays_so(whole: RunConfig, tmp_path: Path) -> None:
    """Catches a run of an earlier version whose fused vectors go, and with them the rows of its exports."""
    settings = {"source": whole.source, "catalogue": whole.catalogue, "models": ["static"]}
    run(bare(whole, tmp_path / "run", fusion="concat", **settings))
    before = run_files(tmp_path / "run")
    assert run(bare(whole, tmp_path / "run")).fusion is not None
    assert run_files(tmp_path / "run") == before
