"""The allocator models count as torch's does, and a card's attention kernel is the one that torch would run there."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soloist.memory.allocator import MIB, Allocator, Block, CachingAllocator, IdealAllocator
from soloist.memory.cards import CARDS, bare_card
from soloist.memory.kernels import AttentionCall, ExpandGroupedHeads, choose_kernel


class Driver:
    """A device of some bytes, and what was taken of them."""

    def __init__(self, total_bytes: int = 2**40) -> None:
        self.total_bytes = total_bytes
        self.taken = 0
        self.segments: list[int] = []

    def take(self, size: int) -> bool:
        if self.taken + size > self.total_bytes:
            return False
        self.taken += size
        self.segments.append(size)
        return True

    def give_back(self, size: int) -> None:
        self.taken -= size
        assert self.taken >= 0


def caching(total_bytes: int = 2**40) -> tuple[CachingAllocator, Driver]:
    driver = Driver(total_bytes)
    return CachingAllocator(driver.take, driver.give_back), driver


# A request by its size, a block to free by its place among the live ones, or None: empty the cache.
SIZES = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(1, 40 * MIB))
STEPS = st.lists(st.one_of(SIZES, st.tuples(st.integers(0, 99)), st.none()), max_size=60)
CAPACITIES = st.sampled_from([2 * MIB, 50 * MIB, 300 * MIB, 2**40])
KINDS = pytest.mark.parametrize("kind", [CachingAllocator, IdealAllocator])


def play(allocator: Allocator, steps, check) -> list[Block]:
    """Take the steps one by one, with a check after each; the blocks that live at the end."""
    live: list[Block] = []
    for step in steps:
        if step is None:
            allocator.empty_cache()
        elif isinstance(step, tuple):
            if live:
                allocator.free(live.pop(step[0] % len(live)))
        elif (block := allocator.allocate(step)) is not None:
            assert block.size >= block.requested >= step
            live.append(block)
        check(live)
    return live


@KINDS
@given(steps=STEPS, capacity=CAPACITIES)
def test_what_is_allocated_is_reserved_and_what_is_reserved_is_taken(kind, steps, capacity):
    """A count that drifts from the driver's would plan with memory that is not there."""
    driver = Driver(capacity)
    allocator = kind(driver.take, driver.give_back)
    highest = [0, 0]

    def check(live: list[Block]) -> None:
        assert allocator.allocated == sum(block.size for block in live)
        assert allocator.allocated <= allocator.reserved == driver.taken <= capacity
        highest[:] = max(highest[0], allocator.allocated), max(highest[1], allocator.reserved)

    play(allocator, steps, check)
    assert allocator.peak_allocated >= highest[0]
    assert allocator.peak_reserved >= highest[1] and allocator.peak_reserved <= capacity
    assert allocator.peak_allocated <= allocator.peak_reserved


@KINDS
@given(steps=STEPS, capacity=CAPACITIES)
def test_when_all_is_freed_and_the_cache_empty_the_driver_has_everything(kind, steps, capacity):
    """Neighbours that do not merge again would keep a segment for ever, and a lease would never end."""
    driver = Driver(capacity)
    allocator = kind(driver.take, driver.give_back)
    for block in play(allocator, steps, lambda live: None):
        allocator.free(block)
    assert allocator.allocated == 0
    allocator.empty_cache()
    assert allocator.reserved == driver.taken == 0


@given(steps=STEPS, capacity=CAPACITIES)
def test_blocks_never_overlap(steps, capacity):
    """Two tensors in the same bytes: a merge or a cut with a wrong address."""
    allocator, _ = caching(capacity)

    def check(live: list[Block]) -> None:
        # Segments have addresses of their own, so that blocks of two segments cannot touch either.
        spans = sorted((block.address, block.address + block.size) for block in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))

    play(allocator, steps, check)


@given(steps=STEPS)
def test_the_same_requests_again_take_nothing_more(steps):
    """An allocator that does not reuse what it cached would grow with every batch."""
    allocator, driver = caching()
    sizes = [step for step in steps if isinstance(step, int)]
    for _ in range(2):
        blocks = [allocator.allocate(size) for size in sizes]
        taken = driver.taken
        for block in blocks:
            assert block is not None
            allocator.free(block)
    assert driver.taken == taken == sum(driver.segments)


@pytest.mark.parametrize(
    ("request_bytes", "block_bytes", "segment_bytes"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # the largest request that counts as small
        (MIB + 1, MIB + 512, 20 * MIB),
        (2 * MIB, 2 * MIB, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),  # from here on, a segment of its own in steps of 2 MiB
        (11 * MIB, 12 * MIB, 12 * MIB),  # 1 MiB is left over, which is not cut off
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),  # 512 bytes more are
        (25 * MIB, 26 * MIB, 26 * MIB),
    ],
)
def test_blocks_and_segments_have_torchs_sizes(request_bytes, block_bytes, segment_bytes):
    """A constant that is wrong by a little is wrong for every batch; these are CUDACachingAllocator.cpp's."""
    allocator, driver = caching()
    block = allocator.allocate(request_bytes)
    assert block is not None
    assert (block.size, driver.segments) == (block_bytes, [segment_bytes])
    assert (allocator.allocated, allocator.reserved) == (block_bytes, segment_bytes)


def test_the_rest_of_a_segment_serves_the_next_requests():
    """A segment for each request would reserve ten times what a model of many matrices needs."""
    allocator, driver = caching()
    first = allocator.allocate(2 * MIB)
    assert [allocator.allocate(size).size for size in (9 * MIB, 9 * MIB)] == [9 * MIB, 9 * MIB]
    assert driver.segments == [20 * MIB]
    allocator.allocate(2 * MIB)  # nothing is left
    allocator.allocate(512)  # small requests never come from large segments
    assert driver.segments == [20 * MIB, 20 * MIB, 2 * MIB]
    allocator.free(first)
    allocator.empty_cache()  # a segment with a block in it stays
    assert driver.taken == 42 * MIB


def test_the_smallest_block_that_fits_is_used():
    """First fit instead of best fit would spoil the large blocks that the next batch asks for."""
    allocator, driver = caching()
    wide, narrow = (allocator.allocate(size * MIB) for size in (40, 30))
    allocator.free(wide)
    allocator.free(narrow)
    again = allocator.allocate(30 * MIB)
    assert again.address == narrow.address
    assert driver.segments == [40 * MIB, 30 * MIB]


def test_a_large_remainder_is_a_block_and_a_small_one_is_not():
    """Remainders of a large segment up to 1 MiB stay with the block, which `memory_allocated` then counts whole."""
    allocator, _ = caching()
    allocator.free(allocator.allocate(30 * MIB))
    kept = allocator.allocate(29 * MIB)
    assert kept.size == 30 * MIB
    allocator.free(kept)
    assert allocator.allocate(29 * MIB - 512).size == 29 * MIB - 512


def test_a_refusal_gives_the_cache_back_and_asks_once_more():
    """Without it, a device full of cached blocks of the wrong size fails where torch does not."""
    allocator, driver = caching(32 * MIB)
    allocator.free(allocator.allocate(20 * MIB))
    assert allocator.allocate(24 * MIB).size == 24 * MIB
    assert driver.taken == 24 * MIB


def test_a_refusal_that_stands_keeps_what_is_in_use():
    """An allocator that is broken by its first refusal would make every halved batch fail as well."""
    allocator, driver = caching(32 * MIB)
    held = allocator.allocate(20 * MIB)
    assert allocator.allocate(24 * MIB) is None
    assert (allocator.allocated, allocator.reserved, driver.taken) == (20 * MIB, 20 * MIB, 20 * MIB)
    allocator.free(held)
    assert allocator.allocate(24 * MIB) is not None


def test_the_ideal_allocator_reserves_the_peak_and_no_more():
    """Bare devices must measure what is allocated, not what some allocator makes of it."""
    driver = Driver(4096)
    allocator = IdealAllocator(driver.take, driver.give_back)
    blocks = [allocator.allocate(1), allocator.allocate(1500)]
    assert (allocator.allocated, allocator.reserved) == (2048, 2048)
    for block in blocks:
        allocator.free(block)
    assert allocator.allocate(4096) is not None and allocator.reserved == 4096
    assert allocator.allocate(1) is None


FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16


def call(dtype: torch.dtype, head_dim: int, *, masked: bool, grouped: bool) -> AttentionCall:
    """Attention of 4 heads over 8 tokens, on tensors without values."""
    groups = 2 if grouped else 4
    query, keys = (torch.empty(2, heads, 8, head_dim, dtype=dtype, device="meta") for heads in (4, groups))
    mask = torch.empty(2, 1, 8, 8, dtype=torch.bool, device="meta") if masked else None
    return AttentionCall(query=query, key=keys, value=keys, mask=mask, grouped=grouped)


@pytest.mark.parametrize(
    ("card", "dtype", "head_dim", "masked", "grouped", "kernel"),
    [
        ("T4", FLOAT16, 64, False, False, "efficient"),  # flash begins at capability 8.0
        ("T4", FLOAT16, 64, True, False, "efficient"),
        ("T4", FLOAT32, 64, True, False, "efficient"),
        ("T4", FLOAT32, 30, False, False, "efficient"),
        ("T4", FLOAT16, 36, False, False, "math"),  # rows of a head must be whole vectors of 8 halves
        ("T4", BFLOAT16, 64, False, False, "math"),  # the efficient kernel knows bfloat16 from 8.0 on
        ("T4", FLOAT16, 128, False, True, "math"),  # and takes no grouped heads
        ("P100", FLOAT16, 36, False, False, "efficient"),
        ("L4", FLOAT16, 64, False, False, "flash"),
        ("L4", FLOAT16, 64, True, False, "efficient"),  # flash takes no mask
        ("L4", BFLOAT16, 64, True, False, "efficient"),
        ("L4", FLOAT32, 64, False, False, "efficient"),  # flash takes halves only
        ("L4", FLOAT32, 30, False, False, "math"),
        ("L4", FLOAT16, 36, False, False, "flash"),  # padded to 40
        ("L4", FLOAT16, 128, False, True, "flash"),
        ("L4", FLOAT16, 128, True, True, "math"),
        ("L4", FLOAT32, 128, False, True, "math"),
        ("A100-40GB", BFLOAT16, 256, False, False, "flash"),
        ("A100-40GB", BFLOAT16, 264, False, False, "efficient"),  # too long a head for flash
        ("A100-80GB", BFLOAT16, 64, True, False, "efficient"),
        # Of Hopper's halves this is the memory, not always the name: from cuDNN 9.15 on, torch asks cuDNN first.
        ("H100", BFLOAT16, 128, False, True, "flash"),
        ("H100", FLOAT16, 128, True, True, "math"),
        ("H100", FLOAT32, 64, True, False, "efficient"),
    ],
)
def test_a_card_runs_the_kernel_that_torch_would_choose(card, dtype, head_dim, masked, grouped, kernel):
    """The kernel decides the peak of long texts: another one is up to twelve times as much memory."""
    assert choose_kernel(CARDS[card], call(dtype, head_dim, masked=masked, grouped=grouped)) == kernel


def test_a_card_without_a_capability_runs_the_cpus_kernel():
    """A bare device must measure what the CPU that computes for it allocates."""
    assert choose_kernel(bare_card(2**30), call(FLOAT16, 36, masked=True, grouped=True)) == "cpu"


@pytest.mark.parametrize(
    ("card", "dtype", "masked", "groups"),
    [
        ("T4", FLOAT16, False, 4),
        ("L4", FLOAT32, False, 4),
        ("L4", FLOAT16, True, 4),
        ("L4", FLOAT16, False, 2),  # flash takes them as they are
    ],
)
def test_grouped_heads_are_repeated_only_where_that_spares_the_math_kernel(card, dtype, masked, groups):
    """Repeated for flash, they would cost memory for nothing; not repeated on a T4, several times as much."""
    given_heads, seen = call(dtype, 128, masked=masked, grouped=True), []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                seen.append(AttentionCall.of(args, kwargs or {}))
                return args[0]
            return func(*args, **(kwargs or {}))

    with Watch(), ExpandGroupedHeads(CARDS[card]):
        torch.nn.functional.scaled_dot_product_attention(
            given_heads.query, given_heads.key, given_heads.value, attn_mask=given_heads.mask, enable_gqa=True
        )
    (reached,) = seen
    assert (reached.key.shape[1], reached.grouped) == (groups, groups == 2)
    assert choose_kernel(CARDS[card], reached) != "math"
