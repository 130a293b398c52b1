"""Codes of 8 bits leave out only rows that are not among the best: every answer is that of the search without them."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.unit_vectors import unit

from soloist.errors import OutputError
from soloist.retrieval import By, first_look, open_run
from soloist.retrieval.codes import CodedQuery, Codes, can_be_scored
from soloist.retrieval.exact import DamagedRowError, WeightedQueries
from soloist.retrieval.exact import search as exact_search
from soloist.retrieval.first_look import CodedVectors, Room
from soloist.retrieval.run_vectors import RunVectors
from soloist.stores.mapped import MappedVectors

LOOKED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class CountingVectors(RunVectors):
    """Real vectors that count which rows are read one by one, and which files whole."""

    def __init__(self, *args):
        super().__init__(*args)
        self.single, self.whole = 0, 0

    def at(self, positions):
        self.single += len(positions)
        return super().at(positions)

    def blocks(self, files=slice(None)):
        self.whole += len(self._files[files])
        return super().blocks(files)

    def path_of(self, number):
        return self._files[number].path


def table_of(part):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
    return pa.table({"id": [str(row) for row in range(len(part))], "vector": vectors})


@pytest.fixture
def coded(tmp_path):
    """`coded(parts, cuts)`: the vectors of each model in real files that end at these rows, two files a stretch."""
    folders = itertools.count()

    def write(parts, cuts, dtype="float32", room=None):
        room, found = room or Room(), []
        for part in parts:
            folder = tmp_path / str(next(folders))
            folder.mkdir()
            files = []
            for begin, end in itertools.pairwise([0, *cuts, len(part)]):
                path = folder / f"part-{begin:05}.parquet"
                pq.write_table(table_of(part[begin:end].astype(dtype)), path, compression="none", use_dictionary=False)
                files.append(("texts", MappedVectors.open(path)))
            rows = len(part) // (len(cuts) + 1) * 2
            found.append(CodedVectors(CountingVectors("m", files, folder), room, stretch_rows=rows))
        return found

    return write


def same(found, expected):
    return all(
        np.array_equal(mine, other)
        for mine, other in zip((*found.positions, *found.scores), (*expected.positions, *expected.scores), strict=True)
    )


def odd_rows(rng, rows, dim):
    """Unit vectors. Many are equal or nearly so, lie along an axis, are zero, or have denormal components."""
    part = unit(rng, rows, dim)
    drawn = lambda: rng.integers(rows, size=rows // 12)  # noqa: E731
    part[drawn()] = part[0]
    part[drawn()] = np.nextafter(part[0], np.float32(1))
    part[drawn()] = np.eye(dim, dtype=np.float32)[rng.integers(dim)]
    part[drawn()] = 0
    part[drawn(), 0] = 1e-42
    part[drawn()] *= np.float32(1e-38)
    return part


@LOOKED
@given(st.integers(0, 10_000), st.integers(200, 700), st.integers(1, 8), st.data())
def test_codes_never_change_an_answer(coded, seed, rows, k, data):
    """A row that the codes put too low would be lost, or a tie be decided by its code."""
    rng = np.random.default_rng(seed)
    dims = data.draw(st.lists(st.integers(2, 48), min_size=1, max_size=3))
    weights = data.draw(st.lists(st.sampled_from([0.3, 0.7, 0.0, -1.0, 1e-9, 30.0]), min_size=3, max_size=3))[
        : len(dims)
    ]
    dtype = data.draw(st.sampled_from(["float32", "float16"]))
    parts = [odd_rows(rng, rows, dim) for dim in dims]
    cuts = sorted({int(cut) for cut in rng.integers(1, rows, 5)})
    asked = [unit(rng, 3, dim) for dim in dims]
    asked[0][1] = parts[0][0]  # the answer is there many times, or zero
    stored = coded(parts, cuts, dtype)
    queries = WeightedQueries.of(asked, weights)
    blocks = list(zip(*(list(part.vectors.blocks()) for part in stored), strict=True))
    expected = exact_search(queries, blocks, k)
    for _ in range(3):  # without codes, with codes, and with no more to make
        assert same(first_look.search(stored, queries, k), expected)
    assert all(sorted(part.codes) == list(range(len(part.stretches))) for part in stored)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 300), st.sampled_from([1.0, -0.3, 1e-40, 1e30]))
def test_no_score_is_further_off_than_its_codes_say(seed, dim, weight):
    """A bound that fails for one row in a million loses it, and no ranking of random rows would show that."""
    rng = np.random.default_rng(seed)
    part = odd_rows(rng, 300, dim)
    query = weight * np.where(rng.random(dim) < 0.3, 0, unit(rng, 1, dim)[0].astype(np.float64))
    codes = Codes.of([part[:100], part[100:]], 300, dim)
    scores, reach = CodedQuery.of(query).scores(codes)
    wide = part.astype(np.longdouble) @ query.astype(np.longdouble)
    assert (np.abs(wide - scores) <= reach).all()
    assert (np.abs(codes.values.astype(np.int16)) <= 127).all()


def test_the_bound_is_close():
    """Bounds that are too wide hold as well, but every row would be read again."""
    rng = np.random.default_rng(0)
    codes = Codes.of([unit(rng, 1_000, 640)], 1_000, 640)
    _, reach = CodedQuery.of(unit(rng, 1, 640)[0].astype(np.float64)).scores(codes)
    assert reach.max() < 0.025


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 2.0])
def test_a_damaged_row_gets_no_codes_and_is_named(coded, value):
    """The row would be left out as if its chunk were not there, and nobody would be told."""
    part = unit(np.random.default_rng(0), 600, 8)
    part[457, 3] = value
    (stored,) = coded([part], [100, 200, 300, 400, 500])
    query = WeightedQueries.of([np.eye(8, dtype=np.float32)[3:4]])
    for _ in range(3):
        with pytest.raises(DamagedRowError) as caught:
            first_look.search([stored], query, 5)
        assert (caught.value.position, caught.value.model) == (457, 0)
    assert sorted(stored.codes) == [0, 1]


def test_a_query_without_numbers_is_refused_as_before(coded):
    """All comparisons with NaN are false: the answer would have been no row at all."""
    (stored,) = coded([unit(np.random.default_rng(0), 600, 8)], [200, 400])
    for _ in range(3):
        with pytest.raises(DamagedRowError):
            first_look.search([stored], WeightedQueries.of([np.full((1, 8), np.nan, np.float32)]), 5)


def test_a_first_question_makes_no_codes_and_later_ones_read_few_rows(coded):
    """A single question would pay for others that never come, or the codes would be made and not used."""
    (stored,) = coded([unit(np.random.default_rng(0), 4_000, 64)], list(range(100, 4_000, 100)))
    query = WeightedQueries.of([unit(np.random.default_rng(1), 1, 64)])
    first_look.search([stored], query, 5)
    assert not stored.codes and stored.vectors.whole == 40
    for _ in range(3):
        first_look.search([stored], query, 5)
    assert len(stored.codes) == len(stored.stretches) == 20
    stored.vectors.whole = stored.vectors.single = 0
    first_look.search([stored], query, 5)
    assert stored.vectors.whole == 0 and 5 <= stored.vectors.single < 200


def test_rows_that_are_all_equal_are_read_in_one_piece(coded):
    """Every row can be the best. To read a million of them one by one would take minutes."""
    part = np.tile(unit(np.random.default_rng(0), 1, 16), (600, 1))
    (stored,) = coded([part], [100, 200, 300, 400, 500])
    query = WeightedQueries.of([unit(np.random.default_rng(1), 1, 16)])
    for _ in range(3):
        assert first_look.search([stored], query, 4).positions[0].tolist() == [0, 1, 2, 3]
    assert len(stored.codes) == 3 and stored.vectors.single == 0


def test_codes_stay_in_their_room(coded):
    """The memory of an opened run would grow with its rows."""
    rng = np.random.default_rng(0)
    room = Room(2 * 200 * (16 + 8))
    parts = coded([unit(rng, 600, 16), unit(rng, 600, 16)], [100, 200, 300, 400, 500], room=room)
    query = WeightedQueries.of([unit(rng, 1, 16), unit(rng, 1, 16)], (0.5, 0.5))
    expected = first_look.search(parts, query, 3)
    for _ in range(3):
        assert same(first_look.search(parts, query, 3), expected)
    assert [len(part.codes) for part in parts] == [2, 0]
    assert room.used_bytes == sum(
        array.nbytes for each in parts[0].codes.values() for array in (each.values, each.scales, each.errors)
    )


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes())])
def test_a_file_that_was_changed_is_an_error_though_its_codes_are_known(coded, harm):
    """The codes of before would be asked, and rows of another run stand in the answer."""
    (stored,) = coded([unit(np.random.default_rng(0), 600, 8)], [100, 200, 300, 400, 500])
    query = WeightedQueries.of([unit(np.random.default_rng(1), 1, 8)])
    for _ in range(2):
        first_look.search([stored], query, 1)
    harm(stored.vectors.path_of(5))
    with pytest.raises(OutputError, match=r"part-00500\.parquet (has changed since the run was opened|is missing)"):
        first_look.search([stored], query, 1)


def test_threads_may_ask_while_codes_are_made(coded):
    """One question would look at codes that another is about to fill."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rng = np.random.default_rng(0)
        part, asked = unit(rng, 4_000, 32), unit(rng, 40, 32)
        (stored,) = coded([part], list(range(100, 4_000, 100)))
        queries = list(WeightedQueries.of([asked]).one_by_one())
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda query: first_look.search([stored], query, 5), queries))
        for query in queries[:3]:  # a question makes no codes while another one does
            first_look.search([stored], query, 5)
    finally:
        torch.set_num_threads(threads)
    assert all(same(mine, exact_search(query, [[part]], 5)) for mine, query in zip(found, queries, strict=True))
    assert len(stored.codes) == len(stored.stretches)


@pytest.mark.parametrize(
    "by", [By(model="bert"), By(ranker="fused"), By(ranker="rrf"), By(ranker="standardised")], ids=str
)
def test_an_opened_run_answers_each_time_the_same(searched, by):
    """The second question of a session would find other chunks than the first, or with other scores."""
    opened, question = open_run(searched), "which shard holds the lease of a device"
    expected = list(open_run(searched).search(question, 5, by=by))
    for _ in range(3):
        assert list(opened.search(question, 5, by=by)) == expected


def test_without_numkong_all_rows_are_read(coded, monkeypatch):
    """numkong takes 44 MB, and is in an extra: without it a search would end with an error of Python."""
    monkeypatch.setitem(sys.modules, "numkong", None)
    can_be_scored.cache_clear()
    try:
        rng = np.random.default_rng(5)
        part, query = unit(rng, 600, 16), unit(rng, 1, 16)
        (vectors,) = coded([part], [200, 400])
        queries = WeightedQueries.of([query])
        for _ in range(3):
            assert same(first_look.search([vectors], queries, 3), exact_search(queries, [(part,)], 3))
        assert not vectors.codes and vectors.vectors.single == 0
    finally:
        can_be_scored.cache_clear()
