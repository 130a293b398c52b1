"""Python that ranks the rows of a LanceDB table as the run does, and by each member alone. Opens no table.

LanceDB has no weighted sum of standardised scores and no index of sparse vectors, and its BM25 has another k1. So the
exact rankings read every row; where an index of LanceDB can answer, a section says how and what differs.
"""

from __future__ import annotations

from collections.abc import Mapping

from soloist.exports.asking import Section, asked, how_to_ask, ranked_by
from soloist.exports.columns import Columns
from soloist.exports.ragged_columns import JoinedColumn
from soloist.exports.rows import Source

_READ = '''import math
from collections import Counter

import numpy as np

collections = {collections!r}
where = {where!r}
columns = {columns!r}
rows = table.search().where(where).select(columns).limit(table.count_rows()).to_arrow()


def dense(column, vector):
    """The dot product of every row with a unit vector."""
    numbers = np.concatenate([part.flatten().to_numpy() for part in rows[column].chunks])
    return numbers.reshape(len(rows), -1).astype(float) @ vector


def sparse(indices, values, asked):
    """The dot product of every row with weights by dimension."""
    pairs = zip(rows[indices].to_pylist(), rows[values].to_pylist())
    return np.array([sum(asked.get(at, 0) * value for at, value in zip(*pair)) for pair in pairs])


def bm25(column, asked):
    """BM25 of every row as soloist has it: Lucene's variant, k1 1.5, b 0.75."""
    counts = [Counter(words.split()) for words in rows[column].to_pylist()]
    lengths = np.array([sum(count.values()) for count in counts], float)
    scores = np.zeros(len(counts))
    for word, times in sorted(asked.items()):
        found = np.array([count[word] for count in counts], float)
        having = np.count_nonzero(found)
        if having:
            idf = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
            scores += times * idf * found / (found + 1.5 * (0.25 + 0.75 * lengths / lengths.mean()))
    return scores


def standardised(scores, flat=0.0):
    """Scores as multiples of their standard deviation. One of `flat` or less says that all rows have the same score."""
    deviation = scores.std() if (scores != scores[:1]).any() else 0.0
    return (scores - scores.mean()) / deviation if deviation > flat else np.zeros(len(scores))


def best(scores, k=10, among=None):
    """Collection, id and score of the best rows, of those `among` which there is True. Equal scores are in the order of
    the run's rows.
    """
    names, ids, files, indices = (rows[name].to_pylist() for name in columns[:4])
    order = sorted(
        range(len(scores)) if among is None else np.flatnonzero(among).tolist(),
        key=lambda row: (-scores[row], collections.index(names[row]), files[row] or "", indices[row] or 0),
    )
    return [(names[row], ids[row], float(scores[row])) for row in order[:k]]'''

_FTS = """from lancedb.query import BooleanQuery, MatchQuery, Occur

asked = {asked}
words = [(Occur.SHOULD, MatchQuery(word, {column!r}, boost=float(times))) for word, times in asked.items()]
found = []
if words:
    query = table.search(BooleanQuery(words), query_type="fts").where({where!r})
    found = query.select(["collection", "id", "_score"]).limit(10).to_list()
hits = [(row["collection"], row["id"], row["_score"]) for row in found]"""

_NEAREST = """vector = {asked}
query = table.search(vector, vector_column_name={column!r}).distance_type("cosine").where({where!r})
found = query.select(["collection", "id", "_distance"]).limit(10).to_list()
hits = [(row["collection"], row["id"], 1 - row["_distance"]) for row in found]"""


def how_to_ask_table(source: Source, table: str, folder: str, columns: Columns) -> str:
    """The text for a table in a folder."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in source.collections)
    where = f"collection IN ({quoted})"
    needed = ["collection", "id", "source_file", "source_index", *columns.read_columns[1:]]
    read = _READ.format(collections=list(source.collections), where=where, columns=needed)
    sections = {"read": Section(title="For exact rankings: read every row", code=read)}
    weights = ranked_by(source)
    if len(weights) > 1:
        code = _hybrid(source, columns, weights)
        sections["hybrid"] = Section(title="As the run ranks: all members together", code=code)
    for name in source.names:
        own = "As the run ranks: " if list(weights) == [name] else ""
        code = f"hits = best({_score(source, columns, name)})"
        if name in source.ragged:
            code += "\nhits = [hit for hit in hits if hit[2] > 0]  # others have no word or dimension of the question"
        sections[name] = Section(title=f"{own}{name}", code=code)
        sections |= _by_index(source, columns, name, where)
    connect = f"import lancedb\n\ntable = lancedb.connect({folder!r}).open_table({table!r})"
    return how_to_ask(source, connect, sections)


def _hybrid(source: Source, columns: Columns, weights: Mapping[str, float]) -> str:
    """The best rows by the weighted sum of standardised scores."""
    made = "".join(f"    {name!r}: {_score(source, columns, name)},\n" for name in weights)
    flat = {name: "" if name in source.ragged else ", 1e-6" for name in weights}
    terms = (f"{weight!r} * standardised(scores[{name!r}]{flat[name]})" for name, weight in weights.items())
    lines = "\n    + ".join(terms)
    among = ""
    if weights.keys() <= source.ragged.keys():  # then rows that share nothing with the question are not found
        among = f",\n    among={' | '.join(f'(scores[{name!r}] > 0)' for name in weights)},"
    return f"scores = {{\n{made}}}\nhits = best(\n    {lines}{among}\n)"


def _score(source: Source, columns: Columns, name: str) -> str:
    """The scores of all rows by one member."""
    if name not in source.ragged:
        return f"dense({columns.vectors[name]!r}, {asked(source, name)})"
    ragged = columns.ragged[name]
    how = "bm25" if isinstance(ragged, JoinedColumn) else "sparse"
    return f"{how}({', '.join(map(repr, ragged.names))}, {asked(source, name)})"


def _by_index(source: Source, columns: Columns, name: str, where: str) -> Mapping[str, Section]:
    """How an index of LanceDB ranks by a member, where it can."""
    made = asked(source, name)
    if name not in source.ragged:
        code = _NEAREST.format(asked=made, column=columns.vectors[name], where=where)
        says = (
            "Without an index, this query finds the same rows, and equal rows in any order. With an index it is "
            "faster, and finds most of them."
        )
    elif isinstance(columns.ragged[name], JoinedColumn):
        code = _FTS.format(asked=made, column=columns.ragged[name].names[0], where=where)
        says = (
            "LanceDB's BM25 has k1 1.2, and soloist's has 1.5. So a score is 2.2 to 2.75 times that of soloist. Also, "
            "LanceDB counts the rows of the whole table, and leaves out rows without words."
        )
    else:
        return {}
    return {f"{name} by index": Section(title=f"{name}, by LanceDB's index", code=code, says=says)}
