"""Nothing is written outside the run folder, whatever collections and models are called, whatever links lie there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support.collections import write_catalogue
from support.fault_runs import files_of, require_sentence, write_chunks

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.errors import ConfigError, OutputError
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

NAMES = (
    "../../evil", "/tmp/evil", "..", ".", "a/../../b", "~", "~root", "nul\0byte", "x" * 300, "line\nfeed", "C:\\evil",
    "run.json", "manifest.jsonl", ".incoming", ".previous", "\u202e\u540d", "con",
)  # fmt: skip
LINKS = (
    ".incoming", ".previous", "alpha", "alpha/chunks", "alpha/vectors", "alpha/vectors/one", "alpha/fused",
    "alpha/vectors/one/part-00000.parquet", "manifest.jsonl", "events.jsonl", ".lock", "run.json", "skipped.jsonl",
)  # fmt: skip


def everything(root: Path, *but: Path) -> set[Path]:
    """All files and folders below a folder, except what is in those named."""
    return {path for path in root.rglob("*") if not any(path.is_relative_to(each) for each in but)}


def test_models_of_any_name_are_written_inside(config, static_models, tmp_path):
    """A name from a catalogue that somebody else wrote would be a path."""
    models = dict.fromkeys(NAMES, static_models["one"])
    evil = dataclasses.replace(
        config,
        models=NAMES,
        mode="standard",
        collections=("beta",),
        fusion=FusionConfig(method="none"),
        catalogue=write_catalogue(tmp_path / "evil.toml", models),
    )
    before = everything(tmp_path)
    run(evil)
    assert everything(tmp_path, config.out, config.lock_dir, config.cache_dir) == before
    assert not Path("/tmp/evil").exists()
    assert len(list((config.out / "beta" / "vectors").iterdir())) == len(NAMES)
    assert verify_run(RunFolder.open(config.out)).problems == ()


def test_collections_of_any_name_are_written_inside(config, tmp_path):
    """A folder of chunks comes from elsewhere, as an archive perhaps: its names are not ours."""
    shutil.rmtree(config.chunks_root)
    names = [name for name in NAMES if "/" not in name and "\0" not in name and len(name) < 256 and name[0] != "."]
    names += ["x" * 255, "back\\..\\slash", " ", "%2e%2e", "-rf", "$(touch evil)", "a..", "\udcff"]
    for name in names:
        write_chunks(config.chunks_root, name, 2)
    before = everything(tmp_path)
    run(config)
    assert everything(tmp_path, config.out, config.lock_dir, config.cache_dir) == before
    assert verify_run(RunFolder.open(config.out)).collections == len(names)
    assert verify_run(RunFolder.open(config.out)).problems == ()


def test_names_that_differ_in_case_only_are_refused_before_anything_is_written(config, static_models, tmp_path):
    """Where a file system ignores case one would overwrite the other."""
    models = {"One": static_models["one"], "one": static_models["two"]}
    catalogue = write_catalogue(tmp_path / "case.toml", models)
    with pytest.raises(ConfigError) as caught:
        run(dataclasses.replace(config, models=("One", "one"), catalogue=catalogue))
    assert require_sentence(caught.value) == "the models One and one would share a folder: rename one of them"
    write_chunks(config.chunks_root, "Alpha", 2)
    with pytest.raises(ConfigError) as caught:
        run(config)
    assert require_sentence(caught.value) == "the collections Alpha and alpha would share a folder: rename one of them"
    assert not config.out.exists()


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_run_is_refused_and_what_it_leads_to_stays(copied, tmp_path, name):
    """A run would write, move or remove files of somebody else through it."""
    outside, place = tmp_path / "outside", copied.out / name
    if place.exists():
        place.rename(outside)
    else:
        outside.mkdir()
        shutil.copy(copied.out / "alpha/vectors/one/part-00000.parquet", outside / "part-00000.parquet")
    place.symlink_to(outside)
    write_chunks(copied.chunks_root, "alpha", 3)  # so that files would be replaced, set aside and removed
    before = {path: path.read_bytes() for path in (outside, *outside.rglob("*")) if path.is_file()}
    with pytest.raises(OutputError) as caught:
        run(copied)
    sentence = f"{place} is a symbolic link, and a run writes inside its own folder only: remove the link"
    assert require_sentence(caught.value) == sentence
    assert {path: path.read_bytes() for path in (outside, *outside.rglob("*")) if path.is_file()} == before


def test_a_run_folder_that_is_itself_a_link_is_the_folder_it_leads_to(config, fresh, tmp_path):
    """The link that a user made to a larger disk is no attack."""
    (tmp_path / "large").mkdir()
    config.out.symlink_to(tmp_path / "large")
    run(config)
    assert files_of(tmp_path / "large") == fresh


@pytest.mark.parametrize("field", ["out", "chunks_root", "catalogue", "lock_dir", "cache_dir"])
def test_a_path_with_nul_is_a_setting_that_cannot_be_honoured(config, field):
    """A ValueError of the operating system's wrapper would reach the user."""
    values = {**config.to_dict(), field: "a\0b"}
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(values)
    assert require_sentence(caught.value).startswith(f"{field} is 'a\\x00b', with a NUL character")


def test_a_path_that_is_too_long_or_leads_to_itself_is_a_sentence(config, tmp_path):
    """The bare OSError or RuntimeError of a path would reach the user."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out in (tmp_path / ("x" * 300), tmp_path / "loop" / "run", tmp_path / "loop"):
        with pytest.raises(OutputError) as caught:
            run(dataclasses.replace(config, out=out))
        assert require_sentence(caught.value).startswith(f"cannot write {out}: ")


def test_names_in_state_and_summary_lead_nowhere(copied, tmp_path):
    """status and verify read names from files that others can write."""
    from soloist.stores.status import run_status

    summary = json.loads((copied.out / "run.json").read_text())
    for name in NAMES:
        summary["models"][0]["name"] = name
        (copied.out / "run.json").write_text(json.dumps(summary))
        assert run_status(copied.out).models[0].chunks_done == 0
        problems = verify_run(RunFolder.open(copied.out)).problems
        assert problems and all("not in the manifest" in problem for problem in problems)
