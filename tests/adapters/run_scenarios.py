"""Runs the plan's Python blocks in one namespace, as a notebook does, and writes down what each of them left.

Usage: run_scenarios.py BLOCKS.json FACTS.json. Not a test module: `test_plan_scenarios.py` runs it as a process of its
own, without any logging set up, and checks the facts.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from pathlib import Path
from typing import Any


def main(blocks_file: str, facts_file: str) -> None:
    """Run all blocks; facts about each in a list."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    facts = []
    for number, block in enumerate(json.loads(Path(blocks_file).read_text(encoding="utf-8")), start=1):
        earlier = namespace.get("results")
        before = copy.deepcopy(earlier)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, f"<scenario {number}>", "exec"), namespace)
        facts.append({"printed": printed.getvalue(), "earlier_unchanged": earlier == before, **_state(namespace)})
    Path(facts_file).write_text(json.dumps(facts), encoding="utf-8")


def _state(namespace: dict[str, Any]) -> dict[str, Any]:
    embedders = {name: namespace[name] for name in namespace if name.startswith("embedder")}
    return {
        "devices": {name: sorted({str(p.device) for m in e.models.values() for p in m.parameters()})
                    for name, e in embedders.items()},
        "modules": {name: {model: id(module) for model, module in e.models.items()} for name, e in embedders.items()},
        "events": {name: e.telemetry.gpu_lease_events for name, e in embedders.items()},
        "results": {name: namespace[name] for name in namespace if name.startswith("results")},
        "embeddings": {name: _describe(namespace[name]) for name in namespace if name.startswith("embeddings_")},
        "similarity": float(namespace.get("similarity", "nan")),
        "difference": _difference(namespace),
        "simulated_bytes": _simulated_bytes(),
    }  # fmt: skip


def _describe(array: Any) -> dict[str, Any]:
    return {"shape": array.shape, "dtype": str(array.dtype), "contiguous": bool(array.flags["C_CONTIGUOUS"])}


def _difference(namespace: dict[str, Any]) -> float | None:
    if "embeddings_standard" not in namespace:
        return None
    return float(abs(namespace["embeddings_standard"] - namespace["embeddings_exclusive"]).max())


def _simulated_bytes() -> list[int]:
    from soloist.devices import simulated

    return [simulated.ledger(index).allocated_bytes for index in range(2)]


if __name__ == "__main__":
    main(*sys.argv[1:])
