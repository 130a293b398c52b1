"""The fusion of a run: from the models' vectors on disk to fused ones, shard by shard. Needs no device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from soloist.arrays import Vectors
from soloist.events import EventSink, ShardFused
from soloist.fusion import Fitted, Fitting, FusionPlan, fuse, require_rows, sampled
from soloist.ingestion.ingest import ShardRef
from soloist.jsontext import json_text
from soloist.stopping import Stop
from soloist.stores.fit_file import read_fit, write_fit
from soloist.stores.layout import FIT
from soloist.stores.run_folder import RunFolder
from soloist.types import VectorDType


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusing:
    """A fusion of shards. `fingerprint` is 16 hex digits over all that decides its vectors beside each shard's texts,
    `vector_dtype` what they are stored as.
    """

    plan: FusionPlan
    fingerprint: str
    shards: tuple[ShardRef, ...]
    vector_dtype: VectorDType


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
    fingerprint = hashlib.sha256(json_text(decisive).encode()).hexdigest()[:16]
    return Fusing(plan=plan, fingerprint=fingerprint, shards=tuple(shards), vector_dtype=vector_dtype)


def is_fused(fusion: Fusing | None, folder: RunFolder) -> bool:
    """Whether nothing is left to do for a fusion."""
    return fusion is None or not (_unfused(fusion, folder) or _lacks_fit(fusion, folder))


def fuse_all(fusion: Fusing, folder: RunFolder, sink: EventSink, stop: Stop) -> None:
    """Fit what is to be fitted, and make the fused vectors of every shard that has none yet.

    Raises:
        RunStoppedError: the run was to end before all shards were done.
    """
    plan = fusion.plan
    if _lacks_fit(fusion, folder):
        matrices = _fit(fusion, folder, stop).matrices
        folder.manifest.append(write_fit(folder.path, matrices, fusion.fingerprint))
    fitted = Fitted(matrices=read_fit(folder.path)) if plan.needs_fit else None
    for shard in _unfused(fusion, folder):
        stop.check()
        ids, members = _members(plan, folder, shard)
        fused = fuse(plan, members, ids=ids, fitted=fitted)
        record = folder.shards.write_fused(
            shard.collection, shard.index, ids, fused, shard.content, fusion.fingerprint, fusion.vector_dtype
        )
        folder.manifest.append(record)
        sink.emit(ShardFused(collection=shard.collection, shard=shard.index, rows=len(ids), dim=plan.dim))


def _lacks_fit(fusion: Fusing, folder: RunFolder) -> bool:
    if not fusion.plan.needs_fit:
        return False
    record = folder.manifest.read().get(FIT)
    return record is None or record.fingerprint != fusion.fingerprint


def _fit(fusion: Fusing, folder: RunFolder, stop: Stop) -> Fitted:
    fitting = Fitting(fusion.plan)
    for block in sampled(_blocks(fusion, folder, stop), sum(shard.rows for shard in fusion.shards)):
        fitting.see(block)
    return fitting.fitted()


def _blocks(fusion: Fusing, folder: RunFolder, stop: Stop) -> Iterator[Sequence[Vectors]]:
    for shard in fusion.shards:
        stop.check()
        yield _members(fusion.plan, folder, shard)[1]


def _members(plan: FusionPlan, folder: RunFolder, shard: ShardRef) -> tuple[list[str], list[Vectors]]:
    """The ids of a shard, and its vectors by each model."""
    read = [folder.shards.read_vectors(shard.collection, model, shard.index) for model in plan.models]
    return read[0][0], [vectors for _, vectors in read]


def _unfused(fusion: Fusing, folder: RunFolder) -> list[ShardRef]:
    """The shards without the fused vectors that they should have, in order."""
    finished = {
        record.file: record.content
        for record in folder.manifest.read().values()
        if record.fingerprint == fusion.fingerprint
    }
    return [
        shard
        for shard in fusion.shards
        if finished.get(folder.shards.fused_file(shard.collection, shard.index)) != shard.content
    ]
