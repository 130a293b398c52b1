"""What earlier sessions left in a run folder, and in those that --reuse names: what must stay, and what is reused.

Knows files and fingerprints; runs no model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from soloist.config import RunConfig
from soloist.engine.fusing import Fusing
from soloist.engine.resume.vector_reuse import models_set_aside, serves
from soloist.errors import ConfigError, OutputError
from soloist.events import ChunksRemoved, EventSink, Notice
from soloist.models.loading import StagedModel
from soloist.sizing.budgets import Budget, budget_of
from soloist.stores import RunFolder
from soloist.stores.layout import STATE
from soloist.stores.leftovers import remove_leftovers
from soloist.stores.manifest import FileRecord
from soloist.stores.reconcile import reconcile_incoming
from soloist.types import DType, Matmul, MatmulRequest, VectorDType

_GIVEN = ""  # stands for a folder of chunks if Python gave the chunks


def other_run(path: Path) -> RunFolder:
    """A run whose vectors may be copied, finished or not.

    Raises:
        ConfigError: the folder is not one of a run.
    """
    if not RunFolder(path).manifest.exists():
        raise ConfigError(
            f"{path} is not a run folder, because it has no manifest.jsonl: give --reuse the folder of a run"
        )
    return RunFolder(path)


def require_the_same(folder: RunFolder, config: RunConfig, models: Sequence[str], collections: Sequence[str]) -> None:
    """Refuse a command that leaves out models or collections that the run has, or takes its chunks from elsewhere.

    Raises:
        ConfigError: the run would drop them.
    """
    records = folder.manifest.read().values()
    has = {
        "model": {record.model for record in records if record.kind == "vectors"} | set(models_set_aside(folder)),
        "collection": {record.collection for record in records if record.kind == "chunks"},
    }
    if has["collection"]:
        _require_same_origin(folder, config, sorted(has["collection"]), collections)
    named = {"model": models} if not config.collections else {"model": models, "collection": collections}
    for kind, names in named.items():  # without names, collections that are gone leave the run
        left_out = sorted(has[kind] - set(names))
        if left_out:
            raise ConfigError(
                f"{folder.path} has vectors of the {kind} {left_out[0]}, which this command leaves out: name "
                f"{left_out[0]} too, or choose another --out with --reuse {folder.path}"
            )


def _require_same_origin(folder: RunFolder, config: RunConfig, has: Sequence[str], collections: Sequence[str]) -> None:
    """Refuse chunks that would replace those of the run."""
    before, root = _root_before(folder), config.root
    if root is None:
        gone = [] if config.collections else [name for name in has if name not in collections]
        _require_given_before(folder, before, gone)  # names that a setting leaves out are another error
        return
    if before == _GIVEN:
        raise ConfigError(
            f"{folder.path} has chunks that were given to soloist.embed in Python, and {root} would replace them: "
            f"continue the run in Python, or choose another --out with --reuse {folder.path}"
        )
    if not set(has) & set(collections):
        raise ConfigError(
            f"{folder.path} is a run over {', '.join(has)}, and {root} has none of these collections: give the folder "
            "that has the run's chunks, or choose another --out"
        )
    gone = [name for name in has if name not in collections]
    if gone and before is not None and os.path.realpath(before) != os.path.realpath(root):
        raise ConfigError(
            f"{folder.path} has the collection {gone[0]} of {before}, which {root} does not have: give "
            "the folder of chunks that the run was made from, or choose another --out"
        )


def _require_given_before(folder: RunFolder, before: str | None, gone: Sequence[str]) -> None:
    """Refuse chunks that Python gives for a run over a folder, or without a collection of the run."""
    if before not in (None, _GIVEN):
        raise ConfigError(
            f"{folder.path} has the chunks of the folder {before}, and chunks that are given in Python would replace "
            f"them: give that folder, or choose another out with reuse={[str(folder.path)]}"
        )
    if gone:
        raise ConfigError(
            f"{folder.path} has the collection {gone[0]}, which is not given now: give its chunks too, or [] as its "
            "chunks to remove it from the run"
        )


def _root_before(folder: RunFolder) -> str | None:
    """The folder of chunks of the last session, `_GIVEN` where Python gave them; None where it is not known."""
    for name in (STATE, "run.json"):
        with contextlib.suppress(OutputError, KeyError, TypeError):
            root = folder.read_json(name)["config"]["chunks_root"]
            return _GIVEN if root is None else str(root)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the last session of a run made a model's vectors with. An earlier version wrote no budget down, and had
    only torch's products.
    """

    fingerprint: str
    dtype: str
    budget: Budget | None
    matmul: Matmul = "torch"


def made_with(folder: RunFolder) -> dict[str, Made]:
    """What the last session made each model's vectors with; empty where the session ended before that was known."""
    try:
        if (folder.path / STATE).is_file():
            state = folder.read_json(STATE)
            budgets, matmuls = state.get("budgets", {}), state.get("matmuls", {})
            return {
                name: Made(
                    fingerprint=state["models"][name],
                    dtype=dtype,
                    budget=budget_of(budgets.get(name)),
                    matmul=matmuls.get(name, "torch"),
                )
                for name, dtype in state["dtypes"].items()
            }
        models = folder.read_json("run.json")["models"]
        return {
            model["name"]: Made(
                fingerprint=model["fingerprint"],
                dtype=model["dtype"],
                budget=budget_of(model.get("budget")),
                matmul=model.get("matmul", "torch"),
            )
            for model in models
        }
    except (OutputError, AttributeError, KeyError, TypeError):  # damaged, or of another version: they are written again
        return {}


def matmul_before(made: Mapping[str, Made], name: str, dtype: DType) -> MatmulRequest:
    """The library that a run has multiplied with so far for a model. In another dtype all vectors are made anew, and
    there the fastest may be another one.
    """
    before = made.get(name)
    return before.matmul if before is not None and before.dtype == dtype else "auto"


def require_dtypes(
    folder: RunFolder, config: RunConfig, staged: Mapping[str, StagedModel], made: Mapping[str, Made]
) -> None:
    """Refuse to compute everything again because `auto` is another dtype on this machine.

    Raises:
        ConfigError: a model's vectors would be computed again.
    """
    if config.dtype not in ("auto", "auto-fast") or not folder.manifest.exists():
        return
    fingerprints = {record.fingerprint for record in folder.manifest.read().values() if record.kind == "vectors"}
    for name, before in made.items():
        model, dtype = staged.get(name), before.dtype
        if model is None or model.spec.dtype not in ("auto", "auto-fast"):
            continue
        if model.dtype != dtype and before.fingerprint in fingerprints:
            raise ConfigError(
                f"{folder.path} has vectors of {name} in {dtype}, and {config.dtype} is {model.dtype} on this machine: "
                f"give --dtype {dtype} to go on with them, --dtype {model.dtype} to compute them again, or another "
                "--out"
            )


def recorded_budgets(made: Mapping[str, Made], fingerprints: Mapping[str, str]) -> dict[str, Budget]:
    """The budgets with which the run was begun, of the models that are still the same."""
    return {
        name: before.budget
        for name, before in made.items()
        if before.budget is not None and before.fingerprint == fingerprints.get(name)
    }


def mend(folder: RunFolder, sink: EventSink) -> None:
    """Remove what a killed run left behind."""
    remove_leftovers(folder.path)
    rows = folder.manifest.mend()
    if rows:
        sink.emit(
            Notice(
                about="manifest.jsonl",
                message=f"{rows} of its rows could not be read: the files that they named are written again",
            )
        )


def reconcile(
    folder: RunFolder,
    fingerprints: Mapping[str, str],
    fused: Fusing | None,
    vector_dtype: VectorDType,
    sink: EventSink,
    words: Container[str] = (),
    indexes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Make the chunks that were read those of the run, and say what that changes. `words` are the members without
    vectors, whose files no dtype changes. `indexes` are the fingerprints of the members' indexes.
    """
    of_fusion = fused.fingerprint if fused is not None else None

    def is_current(record: FileRecord) -> bool:
        if record.kind == "fit":
            return fused is not None and fused.plan.needs_fit and record.fingerprint == of_fusion
        if record.kind == "index":
            return record.fingerprint == indexes.get(record.model)
        fingerprint = of_fusion if record.kind == "fused" else fingerprints.get(record.model)
        if record.kind == "vectors" and record.model in words:
            return record.fingerprint == fingerprint
        return (record.fingerprint, record.vector_dtype) == (fingerprint, vector_dtype)

    _tell_other_settings(folder, fingerprints, sink, words)
    of_vectors = {name: fingerprint for name, fingerprint in fingerprints.items() if name not in words}
    _tell_other_dtype(folder.manifest.read().values(), of_vectors, vector_dtype, sink)
    reconciled = reconcile_incoming(folder, is_current)
    for file in reconciled.damaged:
        sink.emit(
            Notice(about=file, message="its bytes have changed since they were written: the file is written again")
        )
    for collection, chunks in reconciled.removed.items():
        sink.emit(ChunksRemoved(collection=collection, chunks=chunks))


def _tell_other_settings(
    folder: RunFolder, fingerprints: Mapping[str, str], sink: EventSink, words: Container[str]
) -> None:
    """Name the models whose vectors of the present chunks were made with other weights or settings."""
    incoming = [record for record in folder.incoming.manifest.read().values() if record.kind == "chunks"]
    contents = {(record.collection, record.shard): record.content for record in incoming}
    changed = (
        record.model
        for record in folder.manifest.read().values()
        if record.kind == "vectors"
        and contents.get((record.collection, record.shard)) == record.content
        and record.fingerprint != fingerprints.get(record.model)
    )
    for model in dict.fromkeys(changed):
        if model in words:
            message = "its language or the libraries that cut words have changed: the words of all chunks are cut again"
            sink.emit(Notice(about=model, message=message))
            continue
        message = "its weights or settings have changed, or soloist makes its vectors in another way now"
        sink.emit(Notice(about=model, message=f"{message}: the vectors are computed again"))


def _tell_other_dtype(
    before: Iterable[FileRecord], fingerprints: Mapping[str, str], vector_dtype: VectorDType, sink: EventSink
) -> None:
    """Name the models whose vectors in the folder are current, but are stored in another dtype."""
    dtypes = dict.fromkeys(
        (record.model, record.vector_dtype)
        for record in before
        if record.kind == "vectors" and record.fingerprint == fingerprints.get(record.model)
    )
    for model, stored in dtypes:
        if stored == vector_dtype:
            continue
        if serves(stored, vector_dtype):
            message = f"its {stored} vectors are rounded to {vector_dtype}, and not computed again"
        else:
            message = (
                f"its {stored} vectors cannot serve as {vector_dtype}: texts that have only a {stored} vector are "
                "computed again"
            )
        sink.emit(Notice(about=model, message=message))


def warn_of_other_settings(
    others: Sequence[RunFolder], fingerprints: Mapping[str, str], vector_dtype: VectorDType, sink: EventSink
) -> None:
    """Say where --reuse names a run whose vectors by a model are not those that the model gives now."""
    for other in others:
        records = [record for record in other.manifest.read().values() if record.kind == "vectors"]
        names = {record.model for record in records}
        made = {record.fingerprint: record.vector_dtype for record in records}
        taken = {record.fingerprint for record in records if serves(record.vector_dtype, vector_dtype)}
        for model, fingerprint in sorted(fingerprints.items()):
            if fingerprint in taken or (fingerprint not in made and model not in names):
                continue
            why = f"rounded to {made[fingerprint]}" if fingerprint in made else "made with other weights or settings"
            sink.emit(Notice(about=model, message=f"its vectors in {other.path} are not reused: they were {why}"))


def warn_of_missing_vectors(others: Sequence[RunFolder], fingerprints: Mapping[str, str], sink: EventSink) -> None:
    """Say where none of the runs that --reuse names has any vectors by a model."""
    records = [record for other in others for record in other.manifest.read().values() if record.kind == "vectors"]
    known = {record.model for record in records} | {record.fingerprint for record in records}
    for model, fingerprint in fingerprints.items():
        if others and not known & {model, fingerprint}:
            where = " and ".join(str(other.path) for other in others)
            sink.emit(Notice(about=model, message=f"no vectors are reused: there are none of this model in {where}"))


def warn_of_other_matmuls(others: Sequence[RunFolder], staged: Mapping[str, StagedModel], sink: EventSink) -> None:
    """Say where --reuse names a run whose vectors another library multiplied: fingerprints do not count that."""
    for other in others:
        made = {before.fingerprint: before.matmul for before in made_with(other).values()}
        for name, model in staged.items():
            matmul = made.get(model.fingerprint, model.matmul)
            if matmul != model.matmul:
                message = (
                    f"its vectors in {other.path} were computed by {matmul} and new ones are by {model.matmul}: their "
                    "last bits may differ"
                )
                sink.emit(Notice(about=name, message=message))


def warn_of_other_budgets(recorded: Mapping[str, Budget], budgets: Mapping[str, Budget], sink: EventSink) -> None:
    """Say where batches have another size than those before, because a GPU chooses its kernels by it."""
    for model, budget in budgets.items():
        before = recorded.get(model)
        if before is not None and before.device == budget.device and before.tokens != budget.tokens:
            message = (
                f"its batches had {before.tokens:,} tokens before and have {budget.tokens:,} from now on: on a GPU, "
                "the size of a batch may change the last bits of a vector"
            )
            sink.emit(Notice(about=model, message=message))
