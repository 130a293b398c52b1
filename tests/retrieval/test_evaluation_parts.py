"""What an evaluation is made of: judged questions, measures, intervals, verdicts, probes and splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.errors import InputError
from soloist.retrieval.cost import Cost
from soloist.retrieval.evaluation import SystemScore, _lexical_notices
from soloist.retrieval.metrics import Difference, difference, differences, score
from soloist.retrieval.probes import headings_of, probes
from soloist.retrieval.qrels import read_qrels
from soloist.retrieval.rankers.bm25 import Bm25Index
from soloist.retrieval.tuning import grid, split
from soloist.retrieval.verdict import judge
from soloist.types import Chunk
from soloist.words import analyser_of

QUERIES = '{"_id": "q1", "text": "one?"}\n{"_id": 2, "text": "two?", "more": []}\n\n{"_id": "q3", "text": "three?"}\n'


def written(tmp_path, queries, qrels):
    (tmp_path / "queries.jsonl").write_bytes(queries if isinstance(queries, bytes) else queries.encode())
    (tmp_path / "qrels.tsv").write_bytes(qrels.encode())
    return tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"


@pytest.mark.parametrize(
    "qrels",
    [
        "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\n2\ta b\t1\n",
        "q1\ta\t2\r\nq1\tb\t0\r\n2\ta b\t1\r\n",
        "q1\t0\ta\t2\nq1\t0\tb\t0\n2\t0\ta b\t1\n",
        "query-id\tcorpus-id\tscore\nq1\ta\t2.0\nq1\tb\t0.0\n2\ta b\t1.0\n",
    ],
)
@pytest.mark.parametrize(
    "queries",
    [QUERIES, QUERIES.replace('"_id": 2,', '"_id": 2.0,'), b"\xef\xbb\xbf" + QUERIES.replace("\n", "\r\n").encode()],
)
def test_judgements_as_people_have_them(tmp_path, queries, qrels):
    """A heading would be a judgement, a carriage return part of an id, or TREC's second column a chunk."""
    found = read_qrels(*written(tmp_path, queries, qrels))
    assert found.queries == {"q1": "one?", "2": "two?"}
    assert found.judgements == {"q1": {"a": 2, "b": 0}, "2": {"a b": 1}}
    assert found.notices == ("left out, because no chunk is judged relevant for it: 1 of 3 queries",)


def test_a_judgement_may_be_there_twice(tmp_path):
    """Files that were joined have lines in common, which say nothing new."""
    assert read_qrels(*written(tmp_path, QUERIES, "q1\ta\t2\nq1\ta\t2\n")).judgements == {"q1": {"a": 2}}


def test_columns_apart_by_spaces(tmp_path):
    """TREC's own files have blanks."""
    assert read_qrels(*written(tmp_path, QUERIES, "q1 0 a 1\n")).judgements == {"q1": {"a": 1}}


@pytest.mark.parametrize(
    ("queries", "qrels", "sentence"),
    [
        (QUERIES, "q9\ta\t1\n", "the query 'q9' is not in"),
        (QUERIES, "q1\ta\tgood\n", "line 1 is not a judgement"),
        (QUERIES, "query-id\tcorpus-id\tscore\nq1\ta\n", "line 2 is not a judgement"),
        (QUERIES, "q1\ta\t0\n", "judges no chunk as relevant"),
        (QUERIES, "", "judges no chunk as relevant"),
        ("", "q1\ta\t1\n", "has no query"),
        ('{"_id": "q1"}\n', "q1\ta\t1\n", "line 1 is not a query"),
        ("not json\n", "q1\ta\t1\n", "line 1 is not a query"),
        ("[" * 100_000, "q1\ta\t1\n", "line 1 is not a query"),
        ('{"_id": "q1", "text": " "}\n', "q1\ta\t1\n", "the text of the query 'q1' is empty"),
        ('{"_id": null, "text": "x"}\n', "q1\ta\t1\n", "line 1: the _id is null: give a text or a whole number"),
        ('{"_id": 1.5, "text": "x"}\n', "q1\ta\t1\n", "line 1: the _id is 1.5: give"),
        (QUERIES, "q1\ta\t0.5\n", "line 1 is not a judgement"),
        (QUERIES + '{"_id": "q1", "text": "again"}\n', "q1\ta\t1\n", "the id 'q1' is there twice"),
        (b"\xff\xfe\x00", "q1\ta\t1\n", "cannot be read"),
        (QUERIES, "q1\ta\t2\nq3\ta\t1\nq1\ta\t0\n", "line 3: the grade of 'a' for the query 'q1' is 0, but 2 in an"),
    ],
)
def test_files_that_are_none(tmp_path, queries, qrels, sentence):
    """A traceback, or a verdict over questions that nobody asked."""
    with pytest.raises(InputError) as caught:
        read_qrels(*written(tmp_path, queries, qrels))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    """An OSError with a number."""
    with pytest.raises(InputError, match="cannot be read"):
        read_qrels(tmp_path / "none.jsonl", tmp_path / "none.tsv")


def test_measures_by_hand():
    """Another gain, another discount, or equal ranks in another order."""
    judgements = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"z": 1}}
    found = score([["x", "a", "b"], ["y"]], ["q1", "q2"], judgements)
    gained = 2 / np.log2(3) + 1 / np.log2(4)
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert found.of_query["nDCG@10"].tolist() == pytest.approx([gained / ideal, 0])
    assert found.of_query["RR@10"].tolist() == pytest.approx([1 / 2, 0])
    assert found.of_query["R@100"].tolist() == pytest.approx([1, 0])
    assert found.mean() == pytest.approx(gained / ideal / 2)
    eleventh = score([[f"x{n}" for n in range(10)] + ["z"]], ["q2"], judgements)
    assert (eleventh.mean("nDCG@10"), eleventh.mean("RR@10"), eleventh.mean("R@100")) == (0, 0, 1)


def test_an_interval_is_the_same_each_time_and_covers_noise():
    """A verdict would change with the hour, or see a gain in chance."""
    drawn = np.random.default_rng(0)
    one, noise = drawn.random(200), drawn.normal(0, 0.1, 200)
    asked = [f"question {number}" for number in range(200)]
    found = difference(one + noise, one, asked)
    assert found == difference(one + noise, one, asked)
    assert found.low < 0 < found.high
    assert not found.is_shown and found.p_value > 0.05
    gain = difference(one + 0.1 + noise, one, asked)
    assert gain.is_shown and gain.p_value < 0.001
    assert 0 < gain.low < gain.mean < gain.high
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * noise.std() / np.sqrt(200), rel=0.1)


TEXTS = [f"question {number}" for number in range(60)]
FUSED, ALONE = Cost(seconds=30.0, bytes_per_chunk=2560), Cost(seconds=20.0, bytes_per_chunk=1536)


OWN = "The run's own fusion"
COSTS = "1.5 times the time and 1.7 times the bytes of"


@pytest.mark.parametrize(
    ("mean", "low", "high", "answer", "opening", "advice"),
    [
        (0.02, 0.01, 0.03, "helps", f"{OWN} helps here", f"It costs {COSTS} what m costs alone."),
        (-0.02, -0.03, -0.01, "hurts", f"{OWN} does not help here, it hurts", "Take m alone, or other weights."),
        (
            0.0, -0.01, 0.01, "no gain", f"{OWN} does not help here",
            "No gain is measured, and a gain of more than +0.0100 is unlikely. "
            f"Take m alone. The ensemble costs {COSTS} what m costs.",
        ),
        (
            0.0, 0.0, 0.0, "no gain", f"{OWN} does not help here",
            f"Take m alone. The ensemble costs {COSTS} what m costs.",
        ),
        (
            0.01, -0.01, 0.03, "not shown", "It is not shown that the run's own fusion helps here",
            f"Chance alone could explain this gain: 0 is in the interval. It costs {COSTS} what m costs alone.",
        ),
    ],
)  # fmt: skip
def test_verdicts(mean, low, high, answer, opening, advice):
    """A gain that chance makes would be called one, or a loss be kept quiet."""
    gain = Difference(mean=mean, low=low, high=high, p_value=0.01 if answer in ("helps", "hurts") else 0.3)
    found = judge("fused (concat)", "m", gain, 50, FUSED, ALONE, weak=False)
    interval = f"95% interval {low:+.4f} to {high:+.4f}, 50 questions"
    figures = f"fused (concat) has {mean:+.4f} nDCG@10 against m, the best single model ({interval})"
    assert (found.answer, found.text) == (answer, f"{opening}: {figures}. {advice}")


@pytest.mark.parametrize("mean", [0.3, 0.0, -0.3])
@pytest.mark.parametrize(("questions", "asked"), [(1, "1 question"), (19, "19 questions")])
def test_so_few_questions_show_nothing(mean, questions, asked):
    """One judged question is drawn again and again: its interval was one number, and the ensemble helped or hurt."""
    texts = [f"question {number}" for number in range(questions)]
    gain = difference(np.full(questions, 0.5 + mean), np.full(questions, 0.5), texts)
    assert (gain.mean, gain.interval) == (pytest.approx(mean), None)
    found = judge("f", "m", gain, questions, FUSED, ALONE, weak=False)
    assert found.answer == "not shown"
    assert found.text == (
        f"It is not shown that the run's own fusion helps here: f has {mean:+.4f} nDCG@10 against m, the best single "
        f"model ({asked}). Fewer than 20 different questions show nothing, whatever they find: judge 20 or more. "
        f"It costs {COSTS} what m costs alone."
    )


def test_twenty_questions_have_an_interval_unless_they_are_the_same():
    """A question that is copied twenty times would pass for twenty."""
    one, other = np.linspace(0.4, 0.9, 20), np.full(20, 0.3)
    assert difference(one, other, [*"abcdefghijklmnopqrst"]).interval is not None
    assert difference(one, other, [*"abcdefghijklmnopqrss"]).interval is None


@pytest.mark.parametrize("questions", [25, 40, 200])
@pytest.mark.parametrize(("won", "answer"), [(4, "not shown"), (5, "not shown"), (7, "helps")])
def test_few_questions_that_differ_show_nothing(questions, won, answer):
    """Nearly every resample has one of four that were won: its interval is above 0, and a coin does that in 1 of 8."""
    one = np.full(questions, 0.5)
    one[:won] = 1.0
    gain = difference(one, np.full(questions, 0.5), [f"{number}" for number in range(questions)])
    assert gain.p_value == pytest.approx(2 / 2**won, rel=0.15)
    found = judge("f", "m", gain, questions, FUSED, ALONE, weak=False)
    assert found.answer == answer
    if gain.low > 0 and answer == "not shown":
        assert f"Too few questions differ: chance alone gives as large a gain in {gain.p_value:.0%}" in found.text


def test_differences_that_cancel_are_none():
    """What rounding leaves of .1 + .2 - .3 was the same for each question, and so certain: the ensemble helped."""
    texts = [f"{number}" for number in range(30) for _ in range(3)]
    gain = difference(np.tile([0.6, 0.7, 0.2], 30), np.full(90, 0.5), texts)
    assert (gain.interval, gain.p_value) == ((0.0, 0.0), 1.0) and not gain.is_shown


def test_a_question_that_is_asked_often_is_one():
    """Twenty questions were lost and one was won 1,180 times: the ensemble helped."""
    one = np.array([0.2] * 20 + [0.6] * 1_180)
    texts = [f"lost {number}" for number in range(20)] + ["won"] * 1_180
    gain = difference(one, np.full(1_200, 0.5), texts)
    assert gain.mean > 0.09 and gain.low < 0 < gain.high and not gain.is_shown
    assert judge("f", "m", gain, 1_200, FUSED, ALONE, weak=False).answer == "not shown"


def test_a_verdict_says_when_its_evidence_is_weak_and_time_unknown():
    """Headings would pass for questions that people asked, and no time for none."""
    unknown = Cost(seconds=None, bytes_per_chunk=2560)
    found = judge("f", "m", Difference(mean=0.02, low=0.01, high=0.03, p_value=0.01), 50, unknown, ALONE, weak=True)
    end = "It costs 1.7 times the bytes of what m costs alone. The questions are headings and nobody judged them: weak"
    assert found.text.endswith(f"{end} evidence.")


def test_the_best_of_several_is_judged_as_the_best_of_several():
    """Of six ensembles one is often above a model by chance, and was said to help in one evaluation of ten."""

    def both(seed):
        drawn = np.random.default_rng(seed)
        common = drawn.normal(0, 0.07, 60)
        rivals = [common + drawn.normal(0, 0.07, 60) for _ in range(6)]
        together = differences(rivals, np.zeros(60), TEXTS)
        best = max(range(6), key=lambda place: together[place].mean)
        return together[best], difference(rivals[best], np.zeros(60), TEXTS)

    found = [both(seed) for seed in range(60)]
    helps = [sum(gain.is_shown and gain.mean > 0 for gain in gains) for gains in zip(*found, strict=True)]
    assert helps[0] <= 3 < helps[1], "2.5% of draws may, and more do where the choice is not allowed for"
    assert all(together.low <= alone.low and together.high >= alone.high for together, alone in found)
    assert all(together.p_value >= alone.p_value for together, alone in found)
    gain = np.random.default_rng(0).normal(0.1, 0.05, 60)
    assert all(each.is_shown for each in differences([gain, gain / 2, np.zeros(60) + 0.1], np.zeros(60), TEXTS))
    assert differences([gain], np.zeros(60), TEXTS) == [difference(gain, np.zeros(60), TEXTS)]
    assert differences([gain, gain], np.zeros(60), TEXTS)[0] == difference(gain, np.zeros(60), TEXTS)
    assert [each.interval for each in differences([gain, gain], np.zeros(60), ["x"] * 60)] == [None, None]


def test_a_verdict_on_the_best_of_several_says_so():
    """A figure that was picked would stand there as one that was asked for."""
    gain = Difference(mean=0.02, low=0.01, high=0.03, p_value=0.01)
    found = judge("rrf", "m", gain, 50, FUSED, ALONE, weak=False, among=6)
    assert found.text.startswith(
        "The best ensemble helps here: rrf has +0.0200 nDCG@10 against m, the best single model (95%"
    )
    assert "It was chosen among 6 by these same questions, which the interval allows for. It costs" in found.text
    few = judge(
        "rrf", "m", Difference(mean=0.02, low=None, high=None, p_value=None), 3, FUSED, ALONE, weak=False, among=6
    )
    assert "It was chosen among 6 by these same questions. Fewer than 20" in few.text
    assert "chosen" not in judge("rrf", "m", gain, 50, FUSED, ALONE, weak=False, among=1).text


@pytest.mark.parametrize(("low", "high"), [(-0.03, -0.02), (-0.03, 0.01), (-0.01, 0.02)])
def test_a_fusion_that_does_not_help_leads_to_one_that_does(low, high):
    """`Take m alone` stood above a row that is better than m."""
    gain = Difference(mean=(low + high) / 2, low=low, high=high, p_value=0.01)
    found = judge("fused (mean)", "m", gain, 50, FUSED, ALONE, weak=False, instead="rrf")
    assert "Take rrf, see below." in found.text and "Take m" not in found.text


def test_probes_are_headings_that_tell_chunks_apart():
    """`See also` would be asked, of which every chunk is the answer."""
    chunks = [
        Chunk(id="a", text="x", metadata={"heading_text": "Giving devices back"}),
        Chunk(id="b", text="x", metadata={"section_path": ["Guide", "How  leases end"]}),
        Chunk(id="c", text="x", metadata={"hierarchy_path": "Guide > Batches that fit"}),
        Chunk(id="d", text="x", metadata={"title": "Word"}),
        *(Chunk(id=f"e{n}", text="x", metadata={"title": "See also"}) for n in range(4)),
    ]
    found = probes(chunks)
    asked = {text: found.judgements[id_] for id_, text in found.queries.items()}
    assert asked == {
        "Giving devices back": {"a": 1}, "How leases end": {"b": 1}, "Batches that fit": {"c": 1}, "Word": {"d": 1},
    }  # fmt: skip
    assert found.weak and "weaker evidence" in found.notices[0]
    assert probes(chunks[:1]).notices[0].startswith("nobody judged these questions: they are 1 heading, each")
    assert len(probes(chunks, most=2).queries) == 2
    with pytest.raises(
        InputError, match="the chunks' metadata have 1 heading, but more than 3 chunks share each of them"
    ):
        probes(chunks[4:])
    without = {"title": 7, "heading": None, "section_path": [], "section": "1.2", "h1": "-"}
    with pytest.raises(InputError, match=r"no chunk has a heading .*: give --queries and --qrels"):
        probes([Chunk(id="a", text="x", metadata=without)])


def test_headings_of_one_word_are_asked_where_they_tell_chunks_apart():
    """A glossary of 359 entries had no question, and neither had anything in Chinese, which has no blanks."""
    words = ["Lease", "Fusion", "归还设备", *(f"Entry{number}" for number in range(30))]
    chunks = [Chunk(id=word, text="x", metadata={"heading": word, "title": "All of the glossary"}) for word in words]
    chunks += [Chunk(id=f"i{number}", text="x", metadata={"heading": "Introduction"}) for number in range(4)]
    found = probes(chunks)
    assert {text: dict(found.judgements[id_]) for id_, text in found.queries.items()} == {w: {w: 1} for w in words}
    assert found.notices == (
        "nobody judged these questions: they are 33 headings (33 of one word), each of which should find its own "
        "chunk. That is weaker evidence than judged questions",
    )


def test_too_few_headings_are_said_to_be():
    """Seven headings among three hundred chunks passed for an evaluation."""
    chunks = [Chunk(id=f"c{number}", text="x", metadata={"title": f"A title {number % 60}"}) for number in range(300)]
    chunks += [Chunk(id=f"d{number}", text="x", metadata={"title": f"Own title {number}"}) for number in range(7)]
    assert probes(chunks).notices[1] == (
        "too few headings: in 307 chunks only 7 tell chunks apart, and fewer than 20 questions show nothing: give "
        "--queries and --qrels"
    )


@pytest.mark.parametrize(
    ("metadata", "heading"),
    [
        ({"title": "TCP/IP basics of a lease"}, "TCP/IP basics of a lease"),
        ({"heading": "Read/write locks | advanced use"}, "Read/write locks | advanced use"),
        ({"title": "Why a > b is no proof"}, "Why a > b is no proof"),
        ({"section_path": ["Guide", "Using CI/CD with leases"]}, "Using CI/CD with leases"),
        ({"hierarchy_path": "Guide/How leases end"}, "How leases end"),
        ({"hierarchy_path": "Guide > TCP/IP for a lease"}, "TCP/IP for a lease"),
        ({"section_path": "Guide | How leases end"}, "How leases end"),
        ({"title": "Word", "hierarchy_path": "Guide > Word > Two words"}, "Two words"),
        ({"section_path": "guide/word"}, "word"),
        ({"header_path": "/Guide/How leases end/"}, "How leases end"),
        ({"Header 1": "Guide", "Header 2": "Leases", "Header 3": ""}, "Leases"),
        ({"headings": ["Guide", "Leases"]}, "Leases"),
        ({"Heading": "Leases"}, "Leases"),
        ({"section": "Leases"}, "Leases"),
        ({"section": "3.1"}, None),
    ],
)
def test_a_title_is_whole_and_a_path_has_parts(metadata, heading):
    """`IP basics of a lease` would be asked, which nobody has written."""
    assert next(iter(headings_of(Chunk(id="a", text="x", metadata=metadata))), None) == heading


@given(st.integers(2, 5))
def test_a_grid_of_weights_has_each_model_alone(models):
    """The best single model could not win against its own ensemble."""
    found = list(grid(models))
    assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in found)
    assert {tuple(float(place == model) for place in range(models)) for model in range(models)} <= set(found)
    assert len(set(found)) == len(found)


@given(st.lists(st.text(max_size=5), unique=True, min_size=2), st.randoms())
def test_a_split_is_the_same_whatever_the_order(queries, shuffling):
    """Weights would be tried on the questions that they were chosen by."""
    one, other = split(queries)
    assert sorted([*one, *other]) == sorted(queries) and abs(len(one) - len(other)) <= 1
    shuffled = list(queries)
    shuffling.shuffle(shuffled)
    assert set(split(shuffled)[0]) == set(one)


def test_words_find_words():
    """A floor that is none."""
    texts = ["the lease of a device", "fusion of vectors", "a batch of tokens", "a device of vectors"]
    asked = ["vectors and fusion", "device lease", "tokens", "rain on the harbour", "the of"]
    found = Bm25Index(analyser_of("english"), [texts]).rankings(asked, 4)
    assert [row.tolist() for row in found.positions] == [[1, 3], [0, 3], [2], [], []]


def test_chunks_without_a_word_of_the_question_are_no_hits_by_words():
    """The first chunks of a run were found by every question of other words, and the floor stood too high."""
    texts = [f"rain on harbour {number}" for number in range(50)]
    ids = [f"c{number}" for number in range(50)]
    rankings = [
        [ids[row] for row in rows]
        for rows in Bm25Index(analyser_of("english"), [texts]).rankings(["lease of a device"], 50).positions
    ]
    assert score(rankings, ["q"], {"q": {"c0": 1}}).mean("R@100") == 0


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize(("low", "p_value", "said"), [(0.05, 0.001, True), (0.05, 0.2, False), (-0.01, 0.001, False)])
def test_words_that_do_better_than_vectors_are_told(low, p_value, said, weak):
    """The best model alone was advised, where no model at all found more."""
    gain = Difference(mean=0.1163, low=low, high=0.16, p_value=p_value)
    words = SystemScore(name="BM25", kind="lexical", measures={}, gain=gain, cost=None)
    alone = SystemScore(name="m", kind="model", measures={}, gain=None, cost=ALONE)
    found = _lexical_notices([alone, words], "m", weak=weak)
    assert bool(found) == said
    if said:
        assert found[0].startswith("BM25, which needs no model, has +0.1163 nDCG@10 against m")
        assert ("a heading's words are in its own chunk" in found[0]) == weak
