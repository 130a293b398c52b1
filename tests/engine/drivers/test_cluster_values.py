"""The parts of a run on a cluster that need no cluster: facts of nodes, names of devices, and folders of attempts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from soloist.config import RunConfig
from soloist.digests import text_digest
from soloist.engine.drivers.cluster.attempt_store import Task, task_of
from soloist.engine.drivers.cluster.coordinator import no_node_is_left
from soloist.engine.drivers.cluster.facts import NodeFacts, difference, processor
from soloist.engine.resume.known_texts import KnownTexts
from soloist.errors import ConfigError, ModelLoadError, OutputError, RunStoppedError
from soloist.events import LeaseReleased, ShardEncoded
from soloist.events.nodes import on_node
from soloist.ingestion.ingest import ShardRef
from soloist.stores import RunFolder
from soloist.stores.atomic import atomic_path
from soloist.stores.attempts import attempt_folder, attempts_of_a_session, make_room, require_kept, require_session
from soloist.stores.run_lease import leased
from soloist.types import HeldTensor, MemoryStats

FACTS = NodeFacts(
    fingerprints={"bert": "a" * 16}, dtypes={"bert": "float16"}, matmuls={"bert": "torch"}, limits={"bert": (8, 4)},
    kind="cuda", card="H100", devices=("cuda:0",), versions={"soloist": "0.1.0", "torch": "2.13.0"},
)  # fmt: skip


def digests(texts: str) -> list[bytes]:
    """The digest of each letter."""
    return [text_digest(text) for text in texts]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"versions": {"soloist": "0.1.0", "torch": "2.12.0"}},
            "has torch 2.12.0 and the command's machine has 2.13.0",
        ),
        ({"kind": "cpu"}, "computes on cpu and the command's machine on cuda: run"),
        ({"card": "A100"}, "has A100 and the command's machine has H100"),
        ({"dtypes": {"bert": "float32"}}, "computes bert in float32, and the run in float16"),
        ({"fingerprints": {"bert": "b" * 16}}, "has other files of bert"),
        ({"matmuls": {"bert": "onednn"}}, "multiplies with onednn for bert, and the run with torch"),
        ({"limits": {"bert": (8, 3)}}, "would make batches of bert of another size"),
    ],
)
def test_each_difference_has_a_sentence(changes, sentence):
    """Catches a node whose rows may have other bits and that takes part, or is refused without a reason."""
    assert difference(FACTS, FACTS) is None
    node = NodeFacts.from_dict(replace(FACTS, **changes).to_dict())
    found = difference(node, FACTS)
    assert found is not None
    assert found.startswith(sentence)
    assert ": " in found


@pytest.mark.parametrize(
    ("before", "after"),
    [("GenuineIntel", "AuthenticAMD"), ("model\t\t: 143", "model\t\t: 106"), (" amx_bf16", ""), ("8481C", "8461V")],
)
def test_hosts_of_one_word_of_torch_s_are_told_apart(before, after):
    """Catches a processor for which libraries take other kernels, so that last bits depend on the node."""
    told = (
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon 8481C\n"
        "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 hypervisor\n\n"
    )
    second = told.replace("processor\t: 0", "processor\t: 1")
    assert processor(told + second) == processor(told.replace(" hypervisor", ""))
    assert processor(told.replace(before, after) + second) != processor(told + second)
    arm = "processor\t: 0\nFeatures\t: fp sve i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    assert processor(arm) != processor(arm.replace("0xd40", "0xd4f"))


def test_mixed_cards_are_allowed_only_where_they_are_asked_for():
    """Catches a switch that allows another model, too."""
    other = replace(FACTS, card="A100", limits={"bert": (6, 3)})
    assert difference(other, FACTS, mixed_cards=True) is None
    assert difference(replace(other, dtypes={"bert": "float32"}), FACTS, mixed_cards=True) is not None


def test_events_of_a_node_have_its_name_before_each_device():
    """Catches devices of two nodes that are added up as one."""
    memory = {"cpu": MemoryStats(allocated_bytes=1, reserved_bytes=1, free_bytes=1, total_bytes=2, peak_bytes=1)}
    held = (HeldTensor(device="cpu", shape=(1,), dtype="float32", size_bytes=4),)
    released = LeaseReleased(models=("m",), devices=("cpu",), memory=memory, held=held, held_seconds=1.0)
    named = on_node(released, "node-1")
    assert named == replace(
        released, devices=("node-1/cpu",), memory={"node-1/cpu": memory["cpu"]},
        held=(replace(held[0], device="node-1/cpu"),),
    )  # fmt: skip
    shard = ShardEncoded(
        model="m", collection="c", shard=0, rows=1, tokens=1, padded_tokens=1, truncated_rows=0, truncated_tokens=0,
        batch_rows=(1,), padded_lengths=(1,), rows_per_device={"cpu": 1}, seconds=1.0,
    )  # fmt: skip
    assert on_node(shard, "node-1") == replace(shard, rows_per_device={"node-1/cpu": 1})


def test_a_task_says_which_rows_to_compute(tmp_path):
    """Catches rows that are computed although they are copied, and counts of copies that differ from the run's."""
    known = KnownTexts()
    known.add(tmp_path / "before", digests("a"), "earlier")
    placed = known.place(tmp_path / "now", digests("babc"))
    ref = ShardRef(collection="c", index=0, rows=4, content="")
    task = task_of("name", ref, {"m": placed})
    again = Task.from_dict(json.loads(json.dumps(asdict(task))))
    found = again.placement("m")
    assert (found.fresh, found.reused, found.repeated, found.from_others) == ((0, 3), 1, 1, 0)
    whole = KnownTexts().place(tmp_path / "now", digests("abcd"))
    assert task_of("name", ref, {"m": whole}).fresh == {"m": None}
    assert task_of("name", ref, {"m": whole}).placement("m").fresh == (0, 1, 2, 3)


def test_a_worker_of_a_session_that_is_over_writes_nothing(tmp_path):
    """Catches a straggler that leaves files behind, and a run that goes on where another one has taken over."""
    file = "c/vectors/m/part-00000.parquet"
    with attempts_of_a_session(tmp_path) as session:
        attempt = attempt_folder(session, "node-1-0-1")
        make_room(attempt, file)
        assert (attempt.path / file).parent.is_dir()
        require_session(session)
    assert not session.parent.exists()
    with pytest.raises(OutputError, match="the run of this worker is over"):
        make_room(attempt, file)
    with pytest.raises(OutputError, match="another session has taken over the run"):
        require_session(session)
    assert list(tmp_path.iterdir()) == []
    with attempts_of_a_session(tmp_path) as before, attempts_of_a_session(tmp_path), pytest.raises(OutputError):
        make_room(RunFolder(before / "name"), file)


def test_a_file_that_is_written_while_its_session_ends_is_removed(tmp_path):
    """Catches a straggler whose file brings the folders of its session back, into a finished run."""
    file = "c/vectors/m/part-00000.parquet"
    with attempts_of_a_session(tmp_path) as session:
        attempt = attempt_folder(session, "node-1-0-1")
        make_room(attempt, file)
        require_kept(attempt)
    with atomic_path(attempt.path / file) as path:
        path.write_bytes(b"rows")
    with pytest.raises(OutputError, match="another session has taken over the run"):
        require_session(session)
    with pytest.raises(OutputError, match="the run of this worker is over"):
        require_kept(attempt)
    assert list(tmp_path.iterdir()) == []


def test_a_session_whose_run_was_taken_over_ends_and_leaves_its_successor_alone(tmp_path):
    """Catches a coordinator that stood still, and then enters shards or removes the files of the one after it."""
    with attempts_of_a_session(tmp_path) as session:
        require_session(session)
        with leased(tmp_path):
            with pytest.raises(OutputError, match="another session has taken over the run"):
                require_session(session)
            with attempts_of_a_session(tmp_path) as after:
                require_session(after)
                session.mkdir()
    assert not tmp_path.joinpath(".attempts").exists()
    with leased(tmp_path), attempts_of_a_session(tmp_path) as session:
        other = session.with_name("other")
        other.mkdir()
    assert [path.name for path in other.parent.iterdir()] == ["other"]


def test_the_loss_of_all_nodes_that_could_be_used_is_a_stop():
    """Catches a run that ends as an error, and is not begun again by itself, because one refused node lives on."""
    gone = no_node_is_left({"id-2": "node-2 has other files of bert"}, are_gone=True)
    assert isinstance(gone, RunStoppedError)
    assert str(gone).startswith("stopped because no node of the cluster is left that can be used. node-2 has other")
    assert str(no_node_is_left({}, are_gone=True)) == "stopped because no node of the cluster is left"
    none = no_node_is_left({"id-2": "node-2 has other files of bert"}, are_gone=False)
    assert isinstance(none, ModelLoadError)


def test_a_cluster_has_no_passes_in_processes_of_their_own():
    """Catches a setting that is taken and then ignored."""
    with pytest.raises(ConfigError, match="isolation is process, but on a cluster"):
        RunConfig(chunks_root="chunks", out="run", cluster="local:2", isolation="process")
