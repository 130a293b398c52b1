"""A run on three node processes has the bytes of a run on this machine, whatever is left to do."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

from support.collections import some_words
from support.same_files import require_same_files

from soloist.engine import run
from soloist.events import LeaseAcquired, LeaseReleased, ListSink, PassStarted, ShardEncoded
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run


def test_a_new_run(on_nodes, local, planted):
    """Catches a row that depends on who computes it, a shard that is told or computed twice, and a lease that is not
    given back. Its workers are started as a user's are, with all their imports.
    """
    planted("together", started=True)
    config, sink = on_nodes(), ListSink()
    run(config, sink)
    require_same_files(config.out, local.out)
    assert verify_run(RunFolder(config.out)).problems == ()
    shards = Counter((e.model, e.collection, e.shard) for e in sink.events if isinstance(e, ShardEncoded))
    assert set(shards.values()) == {1}
    assert len(shards) == 4 * 12
    leases = [
        Counter((event.models, event.devices) for event in sink.events if isinstance(event, kind))
        for kind in (LeaseAcquired, LeaseReleased)
    ]
    assert leases[0] == leases[1]
    assert set(leases[0].values()) == {1}
    devices = {device for _, held in leases[0] for device in held}
    assert devices == {f"node-{n}/cpu" for n in (1, 2, 3)}
    began = [event.model for event in sink.events if isinstance(event, PassStarted)]
    assert sorted(began) == sorted({*began})
    summary = json.loads((config.out / "run.json").read_text())
    assert set(summary["devices"]) == devices
    assert {device for event in summary["lease_events"] for device in event["devices"]} == devices
    (bert,) = (model for model in summary["models"] if model["name"] == "bert")
    assert sum(bert["rows_per_device"].values()) == bert["embedded"]


def take_away(out: Path, every: int) -> None:
    """Make a run folder what a killed run leaves: without some files of vectors, and without all that follows them."""
    folder = RunFolder(out)
    records = list(folder.manifest.read().values())
    vectors = [record for record in records if record.kind == "vectors"][::every]
    gone = {record.file for record in records if record.kind in ("fused", "fit", "index")} | {r.file for r in vectors}
    folder.manifest.replace(record for record in records if record.file not in gone)
    for file in gone:
        (out / file).unlink()
    (out / "run.json").unlink()


def test_a_run_goes_on_with_the_other_driver(on_nodes, local, tmp_path):
    """Catches a shard of the other driver that is computed again or not seen, and copies of what the folder had."""
    for number, cluster in enumerate(("", on_nodes().cluster)):
        out = Path(shutil.copytree(local.out, tmp_path / f"run-{number}"))
        take_away(out, every=3)
        sink = ListSink()
        run(on_nodes(out=out, cluster=cluster or None), sink)
        require_same_files(out, local.out)
        computed = {(e.model, e.collection, e.shard) for e in sink.events if isinstance(e, ShardEncoded)}
        assert len(computed) == 16, "a third of 48"


def test_changed_chunks_and_another_run(on_nodes, local, root, tmp_path):
    """Catches vectors of an earlier state, or of another run, that are copied by one driver and computed by the other;
    in standard mode, with vectors in float16.
    """
    chunks = Path(shutil.copytree(root / "chunks", tmp_path / "chunks"))
    file = chunks / "alpha" / "doc_chunks.json"
    texts = json.loads(file.read_text())
    texts[17]["text"] = some_words(12)
    texts[18]["text"] = texts[70]["text"]
    del texts[33:36]
    texts += [{"text": some_words(n), "metadata": {"chunk_id": f"new-{n}"}} for n in range(5, 15)]
    made = []
    for name, cluster in (("here", None), ("there", on_nodes().cluster)):
        changes = {"chunks_root": chunks, "mode": "standard", "cluster": cluster}
        changed = Path(shutil.copytree(local.out, tmp_path / f"changed-{name}"))
        file.write_text(json.dumps(texts))
        run(on_nodes(out=changed, **changes))
        file.write_text(json.dumps(texts[::-1]))
        new = tmp_path / f"new-{name}"
        run(on_nodes(out=new, reuse=(local.out,), vector_dtype="float16", **changes))
        made.append((changed, new))
    for here, there in zip(*made, strict=True):
        require_same_files(there, here)
        assert verify_run(RunFolder(there)).problems == ()
