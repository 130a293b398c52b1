"""Whether an ensemble is worth its cost, in plain words. Pure: figures in, a sentence out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from soloist.retrieval.cost import Cost
from soloist.retrieval.metrics import FEWEST, MAIN, Difference
from soloist.wording import count_text, listed

Answer = Literal["helps", "hurts", "no gain", "not shown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for one ensemble, the gain that it rests on, and the answer as a text with figures."""

    system: str
    answer: Answer
    text: str
    gain: Difference


def judge(
    fusion: str,
    single: str,
    gain: Difference,
    questions: int,
    fused: Cost,
    alone: Cost,
    *,
    weak: bool,
    among: int = 0,
    instead: str | None = None,
    has_words: bool = False,
    is_words: bool = False,
    is_given: bool = False,
) -> Verdict:
    """What a fusion's gain over the best single model means.

    A fusion helps if its gain is more than chance makes, and hurts if its loss is. In between nothing is shown, and a
    gain of 0 or less is no gain. Without an interval, because the questions are too few, nothing is shown either way.
    Without `among` the fusion is the run's own. Otherwise it is the best `among` several, picked by these questions,
    and its gain is one of `differences`. `instead` is an ensemble that helps if this one does not. `has_words` says
    that the run has words beside models, `is_words` that the best single member is words, and `is_given` that the
    weights were given for this evaluation and are not those of the run.
    """
    answer = _answer(gain)
    asked = count_text(questions, "question")
    if gain.interval is not None:
        low, high = gain.interval
        asked = f"95% interval {low:+.4f} to {high:+.4f}, {asked}"
    own = "ensemble with these weights" if is_given else "run's own ensemble" if has_words else "run's own fusion"
    subject = "best ensemble" if among else own
    which = "member" if has_words else "model"
    figures = f"{fusion} has {gain.mean:+.4f} {MAIN} against {single}, the best single {which} ({asked})"
    parts = [
        f"{_opening(answer, subject)}: {figures}.",
        _choice(gain, among),
        _words_alone(answer, single) if is_words else "",
        _advice(answer, gain, single, _share(fused, alone), instead),
        "The questions are headings and nobody judged them: weak evidence." if weak else "",
    ]
    return Verdict(system=fusion, answer=answer, text=" ".join(filter(None, parts)), gain=gain)


def words_said(words: Sequence[str], ensemble: str, without: str, gain: Difference) -> str:
    """What words do in an ensemble, given its gain over the same ensemble without them."""
    named = listed(words)
    figures = f"{ensemble} has {gain.mean:+.4f} {MAIN} against {without}, which is without {named}"
    way = f"Leave {named} out, or give {named} a lower weight."
    return {
        "helps": f"Words help here: {figures}.",
        "hurts": f"Words do not help here, they hurt: {figures}. {way}",
        "no gain": f"Words do not help here: {figures}. {way}",
        "not shown": f"It is not shown that words help here: {figures}.",
    }[_answer(gain)]


def _words_alone(answer: Answer, single: str) -> str:
    """That words need no model beside them."""
    return {
        "hurts": f"{single} alone is better than the ensemble here.",
        "no gain": f"{single} alone is as good as the ensemble here.",
    }.get(answer, "")


def _opening(answer: Answer, subject: str) -> str:
    return {
        "helps": f"The {subject} helps here",
        "hurts": f"The {subject} does not help here, it hurts",
        "no gain": f"The {subject} does not help here",
        "not shown": f"It is not shown that the {subject} helps here",
    }[answer]


def _choice(gain: Difference, among: int) -> str:
    """That the same questions picked and judged the ensemble, which makes its figures look better."""
    if among < 2:
        return ""
    allowed = ", which the interval allows for" if gain.interval is not None else ""
    return f"It was chosen among {among} by these same questions{allowed}."


def _advice(answer: Answer, gain: Difference, single: str, share: str, instead: str | None) -> str:
    cost = f"It costs {share} of what {single} costs alone."
    if answer == "helps":
        return cost
    better = f"Take {instead}, see below." if instead is not None else ""
    if answer == "hurts":
        return better or f"Take {single} alone, or other weights."
    if answer == "not shown":
        return f"{_doubt(gain)} {better or cost}"
    alone = f"Take {single} alone. The ensemble costs {share} of what {single} costs."
    return f"{_allowed(gain)} {better or alone}".lstrip()


def _answer(gain: Difference) -> Answer:
    if gain.is_shown:
        return "helps" if gain.mean > 0 else "hurts"
    return "not shown" if gain.mean > 0 or gain.interval is None else "no gain"


def _doubt(gain: Difference) -> str:
    """Why a figure shows nothing."""
    if gain.interval is None:
        return f"Fewer than {FEWEST} different questions show nothing, whatever they find: judge {FEWEST} or more."
    if gain.interval[0] > 0:
        return f"Too few questions differ: chance alone gives as large a gain in {gain.p_value:.0%} of draws."
    return "Chance alone could explain this gain: 0 is in the interval."


def _allowed(gain: Difference) -> str:
    """How large a gain could be that these questions do not show."""
    if gain.interval is None or gain.interval[1] <= 0:
        return ""
    return f"No gain is measured, and a gain of more than {gain.interval[1]:+.4f} is unlikely."


def _share(fused: Cost, alone: Cost) -> str:
    size = f"{fused.bytes_per_chunk / alone.bytes_per_chunk:.1f} times the bytes"
    if not fused.seconds or not alone.seconds:
        return size
    return f"{fused.seconds / alone.seconds:.1f} times the time and {size}"
