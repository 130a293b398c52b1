"""The command lines of a rehearsal, each in a process of its own. Knows their options; judges nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, TimeoutExpired, run

from soloist.config import FusionConfig, RunConfig
from soloist.validation.evidence import CommandRecord

_COMMAND_SECONDS = 3600
_TIMED_OUT = 124


def run_embed(config: RunConfig, out: Path) -> CommandRecord:
    """`soloist embed`, in exclusive mode."""
    arguments = [
        str(config.chunks_root), "--out", str(out), "--models", ",".join(config.models), "--mode", "exclusive",
        "--accelerator", config.accelerator, "--dtype", config.dtype, *_fusion_arguments(config.fusion),
    ]  # fmt: skip
    code = "from soloist.cli import main; main()"
    return _run([sys.executable, "-c", code, "embed", *arguments], config, {"run.json": out / "run.json"})


def run_script(config: RunConfig, out: Path) -> CommandRecord | None:
    """The validation plan's own command, where this is a checkout; None where it is not."""
    path = Path(__file__).resolve().parents[3] / "scripts" / "embed_collections_v5.py"
    if not path.is_file():
        return None
    arguments = [
        "--chunks-root", str(config.chunks_root), "--output-root", str(out), "--model", config.models[0],
        "--enable-ensemble", "--ensemble-models", ",".join(config.models), "--ensemble-mode", "sequential",
        "--exclusive-ensemble", "--aggregation-method", "concat",
    ]  # fmt: skip
    assert config.root is not None  # that of the sample
    collections = sorted(child.name for child in config.root.iterdir())
    files = {name: out / name for name in ("embedding_summary.json",)}
    files |= {f"{name}_processing_stats.json": out / name / f"{name}_processing_stats.json" for name in collections}
    return _run([sys.executable, str(path), *arguments], config, files)


def _fusion_arguments(fusion: FusionConfig) -> list[str]:
    weights = ",".join(f"{name}={weight!r}" for name, weight in fusion.weights.items())
    return [
        "--fusion", fusion.method, *(["--weights", weights] if weights else []),
        *(["--dim", str(fusion.dim)] if fusion.dim is not None else []),
    ]  # fmt: skip


def _run(command: Sequence[str], config: RunConfig, files: Mapping[str, Path]) -> CommandRecord:
    environment = {
        **os.environ,
        "SOLOIST_ACCELERATOR": config.accelerator,
        "SOLOIST_LOCK_DIR": str(config.lock_dir),
        "SOLOIST_CACHE_DIR": str(config.cache_dir),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if config.catalogue is not None:
        environment["SOLOIST_CATALOGUE"] = str(config.catalogue)
    try:
        done = run(
            command, env=environment, stdin=DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except TimeoutExpired:
        said = f"it was stopped after {_COMMAND_SECONDS} seconds"
        return CommandRecord(command=" ".join(command), exit_code=_TIMED_OUT, stderr=said, files={})
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    return CommandRecord(command=" ".join(command), exit_code=done.returncode, stderr=done.stderr, files=found)
