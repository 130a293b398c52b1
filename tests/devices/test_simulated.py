"""The simulated accelerator must account as a device does, or nothing that it proves is proven."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

import pytest
import torch

from soloist.devices import simulated
from soloist.memory.cards import CARDS, bare_card

GIB = 2**30


@pytest.fixture(autouse=True)
def two_devices():
    """Two roomy devices that end as empty as they began."""
    simulated.configure([bare_card(GIB)] * 2)
    gc.collect()
    before = [simulated.ledger(index).allocated_bytes for index in range(2)]
    yield
    gc.collect()
    simulated.configure([bare_card(GIB)] * 2)
    assert [simulated.ledger(index).allocated_bytes for index in range(2)] == before


def allocated(index: int = 0) -> int:
    """Bytes of live storages on `sim:index`."""
    return simulated.ledger(index).allocated_bytes


def test_a_storage_is_counted_once_and_until_its_last_view_dies():
    """Views counted twice, or a storage let go while a view lives, would hide a leak."""
    before = allocated()
    whole = torch.zeros(1000, device="sim:0")
    assert allocated() - before == 4096  # 4,000 bytes in blocks of 512
    part = whole[10:20]
    del whole
    gc.collect()
    assert allocated() - before == 4096
    del part
    assert allocated() == before


def test_work_in_place_allocates_nothing_and_returns_the_same_tensor():
    """A wrapper around every in-place result would count memory that a device does not need."""
    tensor = torch.ones(100, device="sim:0")
    before = allocated()
    assert tensor.add_(1) is tensor
    tensor[3] = 7
    assert allocated() == before
    assert tensor.cpu()[3] == 7


def test_moving_is_copying():
    """A move that shares memory with the host would lose the cost of the copy, and its independence."""
    host = torch.ones(10)
    on_device = host.to("sim:0")
    back = on_device.cpu()
    host.fill_(5)
    assert on_device.cpu().tolist() == back.tolist() == [1.0] * 10
    assert type(back) is torch.Tensor


def test_tensors_on_two_devices_cannot_meet():
    """Code that forgets to move an input must fail here as it would on CUDA."""
    on_first, on_second = torch.ones(2, device="sim:0"), torch.ones(2, device="sim:1")
    with pytest.raises(RuntimeError, match="same device, but found sim:0, sim:1"):
        on_first + on_second
    with pytest.raises(RuntimeError, match="same device, but found sim:0, cpu"):
        on_first + torch.ones(2)
    assert (on_first + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0]  # a CPU scalar may


def test_a_request_beyond_the_capacity_raises_and_keeps_nothing():
    """An OOM that leaves bytes behind would shrink the device for the rest of the run."""
    before = allocated()
    simulated.configure([bare_card(before + 1024)])
    fits = torch.zeros(256, device="sim:0")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 512 bytes"):
        torch.zeros(1, device="sim:0")
    assert allocated() == before + 1024
    del fits
    torch.zeros(1, device="sim:0")


def test_an_out_of_memory_error_that_is_kept_keeps_its_tensors():
    """The trap that the encoder must avoid has to exist here too (pytorch issue 18853)."""

    def fill() -> None:
        held = torch.zeros(1000, device="sim:0")
        torch.zeros(GIB, device="sim:0")
        del held

    before = allocated()
    kept = None
    try:
        fill()
    except torch.OutOfMemoryError as exc:
        kept = exc
    assert allocated() > before
    del kept
    gc.collect()
    assert allocated() == before


def test_the_peak_is_the_highest_sum_of_live_storages():
    """A peak that misses short-lived activations would promise batches that do not fit."""
    book = simulated.ledger(0)
    book.reset_peak()
    base = book.memory().peak_bytes
    first = torch.zeros(1024, device="sim:0")
    second = first + 1
    del second
    gc.collect()
    assert book.memory().peak_bytes - base == 2 * 4096
    assert book.allocated_bytes - base == 4096
    assert book.memory().reserved_bytes >= book.memory().peak_bytes - base
    book.empty_cache()
    assert book.memory().reserved_bytes == book.allocated_bytes


def test_attention_is_one_kernel_with_the_bits_of_the_cpu():
    """Decomposed attention would give other bits and several times the memory."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 64, 16) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    moved = [tensor.to("sim:0") for tensor in (query, key, value)]
    book = simulated.ledger(0)
    book.reset_peak()
    before = book.allocated_bytes
    found = torch.nn.functional.scaled_dot_product_attention(*moved)
    assert torch.equal(found.cpu(), expected)
    statistics = 2 * 4 * 64 * 4  # the CPU's kernel keeps the logarithm of a sum for each row of scores
    assert book.memory().peak_bytes - before == expected.nelement() * 4 + statistics


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_module_computes_the_bits_of_the_cpu(mode):
    """Vectors from the simulation must be the CPU's own, or parity tests prove nothing."""
    torch.manual_seed(0)
    layer = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 8), torch.nn.Softmax(-1)
    )
    inputs = torch.randn(3, 7, 32)
    with mode():
        expected = layer(inputs)
        found = layer.to("sim:1")(inputs.to("sim:1")).cpu()
        layer.to("cpu")
    assert torch.equal(found, expected)


def test_each_thread_works_on_its_own_device():
    """A ledger that mixes threads would give one device the bytes of the other."""
    before = [allocated(0), allocated(1)]
    kept: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        tensor = torch.ones(256, 256, device=f"sim:{index}")
        unit = torch.eye(256).to(f"sim:{index}")
        for _ in range(50):
            tensor = tensor @ unit
        kept[index] = tensor

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [allocated(0) - before[0], allocated(1) - before[1]] == [262144, 262144]
    assert torch.equal(kept[0].cpu(), kept[1].cpu())


def test_a_resize_is_refused_rather_than_miscounted():
    """A wrapper that keeps its old size over a new storage would give wrong values and wrong bytes."""
    with pytest.raises(NotImplementedError, match="cannot be resized in place"):
        torch.zeros(0, device="sim:0").resize_(5)


def test_factories_make_tensors_on_the_device():
    """Decoders count their positions with `arange`, which torch builds by resizing an empty tensor."""
    before = allocated()
    positions = torch.arange(3, 200, device="sim:0")
    assert positions.shape == (197,) and positions.device == torch.device("sim:0")
    assert allocated() - before == 2048
    assert torch.equal(positions.cpu(), torch.arange(3, 200))
    assert torch.equal(torch.eye(3, device="sim:1").cpu(), torch.eye(3))


def test_threads_that_compute_together_have_a_workspace_each(tmp_path):
    """Each thread has a handle of the library, and each handle has a workspace. A second thread would use memory that
    is not counted, or each later thread would count once more.
    """
    card = replace(CARDS["T4"], context_bytes=0)
    simulated.configure([card], tmp_path / "threads")
    ready = threading.Barrier(2)

    def multiply() -> None:
        torch.ones(4, 4, device="sim:0") @ torch.ones(4, 4, device="sim:0")
        ready.wait(60)

    for _ in range(2):  # the second two have the handles of the first two
        threads = [threading.Thread(target=multiply) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert simulated.ledger(0).allocated_bytes == 2 * card.workspace_bytes
    simulated.ledger(0).clear_workspaces()
    assert simulated.ledger(0).allocated_bytes == 0


def test_a_workspace_keeps_no_card(tmp_path):
    """The matrix library's workspace is no tensor of anybody: after it, a smaller device was still the larger card."""
    gc.collect()
    card = replace(CARDS["T4"], context_bytes=0)
    simulated.configure([card], tmp_path / "one")
    made = torch.ones(4, 4, device="sim:0") @ torch.ones(4, 4, device="sim:0")
    assert simulated.ledger(0).allocated_bytes > card.workspace_bytes
    del made
    simulated.configure([bare_card(1 << 20)], tmp_path / "other")
    assert simulated.ledger(0).card == bare_card(1 << 20)
    assert simulated.ledger(0).allocated_bytes == 0


def test_an_answer_from_the_device_is_a_wait():
    """A forward pass that waits would look like a pass that does not. On a card, later work would begin too late."""
    on_device, chosen = torch.arange(6, device="sim:0"), torch.tensor([True, False] * 3).to("sim:0")
    waits = simulated.ledger(0).waits
    asked = {
        "item": lambda: on_device[0].item(),
        "bool": lambda: bool(chosen.all()),
        "tolist": lambda: on_device.tolist(),
        "nonzero": lambda: on_device.nonzero(),
        "a mask as index": lambda: on_device[chosen],
        "a size": lambda: torch.repeat_interleave(on_device, on_device),
        "to the host": lambda: on_device.cpu(),
        "from the host": lambda: torch.ones(1).to("sim:0"),
        "a copy": lambda: torch.empty(6, dtype=torch.int64).copy_(on_device),
    }
    for name, ask in asked.items():
        for in_inference_mode in (False, True):  # torch gives other operators to a backend there
            before = waits.total()
            with torch.inference_mode(in_inference_mode):
                ask()
            assert waits.total() == before + 1, name


def test_what_a_device_does_by_itself_is_no_wait():
    """False waits would hide the real waits of a card."""
    on_device, chosen = torch.arange(6, device="sim:0"), torch.tensor([True, False] * 3).to("sim:0")
    before = simulated.ledger(0).waits.total()
    with torch.inference_mode():
        torch.ones(6).to("sim:0", non_blocking=True)
        torch.empty(6, dtype=torch.int64).copy_(on_device, non_blocking=True)
        on_device[on_device.flip(0)].masked_fill(chosen, 0).to(torch.float32).sum()
        torch.repeat_interleave(on_device, on_device, output_size=15)
        torch.repeat_interleave(on_device, 2)
        on_device.clone()[chosen] = 0
        torch.nn.functional.one_hot(on_device, 6)
        torch.full((), 3, device="sim:0")
    assert simulated.ledger(0).waits.total() == before
