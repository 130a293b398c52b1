"""Qrels questions in BEIR's layout: queries.jsonl and a table of judgements. Reads files; knows nothing of vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.errors import InputError, UnknownInputError

_COLUMNS = ("query-id", "corpus-id", "score")
_HIGHEST_GRADE = 10_000  # trec_eval has a place in memory for each grade up to the highest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Qrels:
    """Questions by id, and for each question the chunks that were judged, with grades. 0 and less mean not relevant.

    `notices` say what was left out. `weak` means that nobody judged anything: the questions are made from the chunks.
    """

    queries: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]
    notices: tuple[str, ...] = ()
    weak: bool = False


def read_qrels(queries: Path, qrels: Path) -> Qrels:
    """The questions that have a relevant chunk by their judgements.

    `queries` has an object with `_id` and `text` a line, `qrels` has a question, a chunk and a grade a line, separated
    by tabs, with or without a heading, or the four columns of TREC.

    Raises:
        InputError: a file cannot be read, a line is not one of these, a query is empty, an id is there twice, or a
            judgement is of an unknown query or contradicts an earlier one.
    """
    texts = _queries(queries)
    judgements: dict[str, dict[str, int]] = {}
    for place, query, chunk, grade in _judgements(qrels):
        if query not in texts:
            raise InputError(f"{place}: the query {query!r} is not in {queries}: correct one of the two files")
        known = judgements.setdefault(query, {}).setdefault(chunk, grade)
        if known != grade:
            raise InputError(
                f"{place}: the grade of {chunk!r} for the query {query!r} is {grade}, but {known} in an earlier line: "
                "keep one of the two lines"
            )
    relevant = {query: grades for query, grades in judgements.items() if max(grades.values()) > 0}
    if not relevant:
        raise InputError(f"{qrels} judges no chunk as relevant: give at least one grade above 0")
    left_out = len(texts) - len(relevant)
    notices = (
        (f"left out, because no chunk is judged relevant for it: {left_out:,} of {len(texts):,} queries",)
        if left_out
        else ()
    )
    return Qrels(
        queries={query: texts[query] for query in texts if query in relevant}, judgements=relevant, notices=notices
    )


def _queries(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            value: Any = json.loads(line)
            id_, text = value["_id"], value["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise InputError(
                f'{path}, line {number} is not a query: give a JSON object a line, e.g. {{"_id": "1", "text": "how?"}}'
            ) from exc
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{path}, line {number}: the text of the query {id_!r} is empty: give a text, or remove the line"
            )
        id_ = _id(id_, f"{path}, line {number}")
        if id_ in texts:
            raise InputError(f"{path}, line {number}: the id {id_!r} is there twice: give each query its own id")
        texts[id_] = text
    if not texts:
        raise InputError(f"{path} has no query: give one JSON object a line")
    return texts


def _id(value: Any, place: str) -> str:
    """The id that a query has, by the rule for chunks: 1.0 is the id `1`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise InputError(f"{place}: the _id is {json.dumps(value)}: give a text or a whole number")
    return str(value)


def _judgements(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Place, query, chunk and grade of each line."""
    for number, line in _lines(path):
        row = line.split("\t") if "\t" in line else line.split()
        if number == 1 and tuple(row) == _COLUMNS:
            continue
        if len(row) == 4:  # TREC: query, iteration, chunk, grade
            row = [row[0], row[2], row[3]]
        try:
            query, chunk, text = row
            grade = int(text.removesuffix(".0"))  # tables of numbers, of which one is missing, are written as 1.0
        except ValueError as exc:
            raise InputError(
                f"{path}, line {number} is not a judgement: give query-id, corpus-id and a whole number, separated by "
                "tabs"
            ) from exc
        if abs(grade) > _HIGHEST_GRADE:
            raise InputError(f"{path}, line {number}: the grade is {text[:20]}: give one of {_HIGHEST_GRADE:,} or less")
        yield f"{path}, line {number}", query, chunk, grade


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as exc:
        raise UnknownInputError(f"{path} cannot be read ({exc.strerror}): give the path of a text file") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} cannot be read ({exc}): give the path of a text file") from exc
