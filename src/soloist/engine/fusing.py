"""The fusion of a run: from the models' vectors on disk to fused ones, shard by shard. Needs no device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from soloist.engine.ingest import ShardRef
from soloist.engine.passes import Stage
from soloist.events import EventSink, ShardFused
from soloist.fusion import Fitted, Fitting, FusionPlan, fuse, require_rows, sampled
from soloist.jsontext import json_text
from soloist.stores.layout import FIT
from soloist.stores.run_folder import RunFolder, Vectors
from soloist.types import VectorDType


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusing:
    """A fusion, and 16 hex digits over all that decides its vectors beside each shard's texts."""

    plan: FusionPlan
    fingerprint: str


def fusing(
    plan: FusionPlan | None, fingerprints: Mapping[str, str], vector_dtype: VectorDType, shards: Sequence[ShardRef]
) -> Fusing | None:
    """The fusion of a run over these shards by models of these fingerprints; None where there is no plan.

    What is fitted depends on every chunk: where one changes, all fused vectors are made again, as in a fresh run.

    Raises:
        FusionError: it cannot be fitted to so few chunks.
    """
    if plan is None:
        return None
    decisive = {**plan.to_dict(), "fingerprints": [fingerprints[model] for model in plan.models]}
    if vector_dtype != "float32":  # which earlier versions did not name
        decisive["vector_dtype"] = vector_dtype
    if plan.needs_fit:
        require_rows(plan, sum(shard.rows for shard in shards))
        decisive["contents"] = [shard.content for shard in shards]
    return Fusing(plan=plan, fingerprint=hashlib.sha256(json_text(decisive).encode()).hexdigest()[:16])


def is_fused(fusion: Fusing | None, stage: Stage) -> bool:
    """Whether nothing is left to do for a fusion."""
    return fusion is None or not (_unfused(fusion, stage) or _lacks_fit(fusion, stage.folder))


def fuse_all(fusion: Fusing, stage: Stage, sink: EventSink) -> None:
    """Fit what is to be fitted, and make the fused vectors of every shard that has none yet.

    Raises:
        RunStoppedError: the run was to end before all shards were done.
    """
    plan, folder = fusion.plan, stage.folder
    if _lacks_fit(fusion, folder):
        folder.write_fit(_fit(plan, stage).matrices, fusion.fingerprint)
    fitted = Fitted(matrices=folder.read_fit()) if plan.needs_fit else None
    for shard in _unfused(fusion, stage):
        stage.stop.check()
        ids, members = _members(plan, folder, shard)
        fused = fuse(plan, members, ids=ids, fitted=fitted)
        folder.write_fused(
            shard.collection, shard.index, ids, fused, shard.content, fusion.fingerprint, stage.vector_dtype
        )
        sink.emit(ShardFused(collection=shard.collection, shard=shard.index, rows=len(ids), dim=plan.dim))


def _lacks_fit(fusion: Fusing, folder: RunFolder) -> bool:
    if not fusion.plan.needs_fit:
        return False
    record = folder.manifest.read().get(FIT)
    return record is None or record.fingerprint != fusion.fingerprint


def _fit(plan: FusionPlan, stage: Stage) -> Fitted:
    fitting = Fitting(plan)
    for block in sampled(_blocks(plan, stage), sum(shard.rows for shard in stage.shards)):
        fitting.see(block)
    return fitting.fitted()


def _blocks(plan: FusionPlan, stage: Stage) -> Iterator[Sequence[Vectors]]:
    for shard in stage.shards:
        stage.stop.check()
        yield _members(plan, stage.folder, shard)[1]


def _members(plan: FusionPlan, folder: RunFolder, shard: ShardRef) -> tuple[list[str], list[Vectors]]:
    """The ids of a shard, and its vectors by each model."""
    read = [folder.read_vectors(shard.collection, model, shard.index) for model in plan.models]
    return read[0][0], [vectors for _, vectors in read]


def _unfused(fusion: Fusing, stage: Stage) -> list[ShardRef]:
    """The shards without the fused vectors that they should have, in order."""
    folder = stage.folder
    finished = {
        record.file: record.content
        for record in folder.manifest.read().values()
        if record.fingerprint == fusion.fingerprint
    }
    return [
        shard
        for shard in stage.shards
        if finished.get(folder.fused_file(shard.collection, shard.index)) != shard.content
    ]
