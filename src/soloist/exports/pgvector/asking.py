"""The SQL that ranks the rows of a table of PostgreSQL as the run does, and by each member alone. Sends no query.

These rankings are exact: PostgreSQL uses an HNSW index only for an ORDER BY of the distance alone. Such a query has a
section of its own, which says what its answers lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soloist.exports.asking import Section, asked, how_to_ask, ranked_by
from soloist.exports.pgvector.indexes import INDEXED_ROWS, MOST_INDEXED_DIMS
from soloist.exports.pgvector.members import DenseMember, Member, SparseMember, WordsMember
from soloist.exports.rows import Source

_SEARCHED = "collection = ANY(%(collections)s)"
# Equal scores are in the order of the run's rows, as far as the table knows it.
_ORDER = 'array_position(%(collections)s::text[], collection), source_file COLLATE "C", source_index'
_FOUND = "collection, id, source_file, source_index"
# What an index finds before equal rows are put in their order: as many as HNSW looks for (hnsw.ef_search).
_NEAREST = 40
_BY_INDEX = f"""SELECT collection, id, score
FROM (
    SELECT {_FOUND}, {{score}} AS score
    FROM {{table}} AS stored WHERE {{searched}}
    ORDER BY {{distance}} LIMIT {_NEAREST}
) AS nearest
ORDER BY score DESC, {_ORDER}
LIMIT 10"""
_SAYS_BY_INDEX = f"""From {INDEXED_ROWS:,} rows on, an HNSW index makes this query fast and approximate.
The query can then find fewer than ten rows: PostgreSQL leaves out other collections after the index has answered.

- pgvector 0.8 or newer: `SET hnsw.iterative_scan = strict_order` makes the index go on until it has enough rows.
- `SET LOCAL enable_indexscan = off` inside a transaction makes this query exact.
- Without an index this query finds the same rows as the one above, but where over {_NEAREST} rows are equal."""
# BM25 as soloist.retrieval.posted_scores has it.
_BM25 = """{words}_asked AS (
    SELECT * FROM unnest(%({terms})s::text[], %({counts})s::float8[]) AS asked(term, times)
), {words}_rows AS (
    SELECT count(*)::float8 AS number, avg({length})::float8 AS length
    FROM {table} AS stored WHERE {searched}
), {words}_found AS (
    SELECT key, {length}::float8 AS length, asked.term, asked.times,
        {counts}[array_position({terms}, asked.term)]::float8 AS f
    FROM {table} AS stored JOIN {words}_asked AS asked ON {words} @@ quote_literal(asked.term)::tsquery
    WHERE {searched}
), {words}_frequency AS (
    SELECT term, count(*)::float8 AS number FROM {words}_found GROUP BY term
), {words}_scores AS (
    SELECT key, sum(
        times * ln(1 + (whole.number - frequency.number + 0.5) / (frequency.number + 0.5))
        * f / (f + 1.5 * (0.25 + 0.75 * found.length / whole.length)) ORDER BY term COLLATE "C"
    ) AS score
    FROM {words}_found AS found JOIN {words}_frequency AS frequency USING (term)
    CROSS JOIN {words}_rows AS whole GROUP BY key
)"""


def how_to_ask_table(source: Source, table: str, members: Mapping[str, Member]) -> str:
    """The text for a table, by its name with the schema, in quotes and with percent signs doubled for psycopg."""
    connect = "import psycopg\n\nconnection = psycopg.connect('postgresql://user@host/database')"
    sections: dict[str, Section] = {}
    weights = ranked_by(source)
    if len(weights) > 1:
        sections["hybrid"] = Section(
            title="As the run ranks: all members together",
            says="It reads every row. Standard deviations and means are over all rows of the collections.",
            code=_code(source, list(weights), members, _hybrid(table, weights, members)),
        )
    for name, member in members.items():
        own = "As the run ranks: " if list(weights) == [name] else ""
        sections[name] = Section(title=f"{own}{name}", code=_code(source, [name], members, _alone(table, member)))
        if _can_have_index(member):
            code = _code(source, [name], members, _by_index(table, member))
            sections[f"{name} by index"] = Section(title=f"{name}, by pgvector's index", says=_SAYS_BY_INDEX, code=code)
    return how_to_ask(source, connect, sections, shares_disk=False)


def _code(source: Source, names: Sequence[str], members: Mapping[str, Member], query: str) -> str:
    """Python that asks a query."""
    lines, values = [], {"collections": repr(list(source.collections))}
    for name in names:
        member, made = members[name], asked(source, name)
        if isinstance(member, WordsMember):
            lines.append(f"{member.words} = {made}")
            values |= {member.terms: f"list({member.words})", member.counts: f"list({member.words}.values())"}
        elif isinstance(member, SparseMember):
            lines.append(f"{member.column} = {made}  # dimensions count from 0, and from 1 in PostgreSQL")
            entries = f"','.join(f'{{at + 1}}:{{weight}}' for at, weight in {member.column}.items())"
            values[member.column] = f"'{{' + {entries} + '}}/{member.dim}'"
        elif isinstance(member, DenseMember):
            values[member.column] = f"str({made}.tolist())"
    lines += ["values = {", *(f"    {name!r}: {value}," for name, value in values.items()), "}"]
    escaped = query.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    lines.append(f'hits = connection.execute("""\n{escaped}\n""", values).fetchall()')
    return "\n".join(lines)


def _alone(table: str, member: Member) -> str:
    """The ten best rows by one member: collection, id and score."""
    if isinstance(member, WordsMember):
        return (
            f"WITH {_bm25(table, member)}\n"
            "SELECT collection, id, found.score\n"
            f"FROM {table} AS stored JOIN {member.words}_scores AS found USING (key)\n"
            f"ORDER BY found.score DESC, {_ORDER}\nLIMIT 10"
        )
    return (
        f"SELECT collection, id, {_score(member)} AS score\n"
        f"FROM {table} AS stored WHERE {_having(member)}\n"
        f"ORDER BY score DESC, {_ORDER}\nLIMIT 10"
    )


def _by_index(table: str, member: Member) -> str:
    """The same of a member with vectors, in a way that an HNSW index can answer."""
    column = member.columns[0]
    sign = "<#>" if column.kind == "sparsevec" else "<=>"
    distance = f"{column.name} {sign} %({column.name})s::{column.kind}"
    return _BY_INDEX.format(score=_score(member), table=table, searched=_having(member), distance=distance)


def _can_have_index(member: Member) -> bool:
    """Whether an HNSW index of what a column has as it is, so not of half precision, can be there."""
    if isinstance(member, DenseMember):
        return member.dim <= MOST_INDEXED_DIMS
    return isinstance(member, SparseMember)


def _having(member: Member) -> str:
    """The condition for the rows that a member of vectors finds: of sparse ones, those that share a dimension."""
    column = member.columns[0]
    if column.kind == "sparsevec":
        return f"{_SEARCHED} AND {column.name} <#> %({column.name})s::sparsevec < 0"
    return f"{_SEARCHED} AND {column.name} IS NOT NULL"


def _hybrid(table: str, weights: Mapping[str, float], members: Mapping[str, Member]) -> str:
    """The ten best rows by the weighted sum of standardised scores."""
    words = [member for name in weights if isinstance(member := members[name], WordsMember)]
    parts = [_bm25(table, member) for member in words]
    scores = {_column(members[name]): _score(members[name]) for name in weights}
    joins = "".join(f" LEFT JOIN {member.words}_scores USING (key)" for member in words)
    listed = ",\n        ".join(f"{score} AS {name}" for name, score in scores.items())
    found = f"SELECT {_FOUND},\n        {listed}\n    FROM {table} AS stored{joins}\n    WHERE {_SEARCHED}"
    parts.append(f"scores AS (\n    {found}\n)")
    moments = ",\n        ".join(_moments(_column(members[name]), members[name]) for name in weights)
    parts.append(f"moments AS (\n    SELECT {moments}\n    FROM scores\n)")
    terms = "\n    + ".join(_standardised(_column(members[name]), weight) for name, weight in weights.items())
    # Without dense members, rows that share nothing with the question are not found.
    is_posted = not any(isinstance(members[name], DenseMember) for name in weights)
    matching = f"WHERE {' OR '.join(f'{name} > 0' for name in scores)}\n" if is_posted else ""
    return (
        f"WITH {', '.join(parts)}\nSELECT collection, id,\n    {terms} AS score\nFROM scores CROSS JOIN moments\n"
        f"{matching}ORDER BY score DESC NULLS LAST, {_ORDER}\nLIMIT 10"
    )


def _moments(column: str, member: Member) -> str:
    """The mean and the standard deviation of a column. A deviation of 0 says that all rows have the same score."""
    differs = f"stddev_pop({column}) > 1e-6" if isinstance(member, DenseMember) else f"max({column}) > min({column})"
    deviation = f"CASE WHEN {differs} THEN stddev_pop({column}) ELSE 0 END"
    return f"avg({column}) AS {column}_mean, {deviation} AS {column}_deviation"


def _standardised(column: str, weight: float) -> str:
    """A term of the sum. A member that gives all rows the same score has no part in it."""
    return (
        f"CASE WHEN {column}_deviation > 0\n"
        f"        THEN {weight!r} * ({column} - {column}_mean) / {column}_deviation ELSE 0 END"
    )


def _score(member: Member) -> str:
    if isinstance(member, WordsMember):
        return f"coalesce({member.words}_scores.score, 0)"
    column = member.columns[0]
    return f"-({column.name} <#> %({column.name})s::{column.kind})"


def _column(member: Member) -> str:
    return member.words if isinstance(member, WordsMember) else member.columns[0].name


def _bm25(table: str, member: WordsMember) -> str:
    """The scores of the rows that have a word of the question, as a part of a WITH."""
    return _BM25.format(
        table=table, searched=_SEARCHED, words=member.words, terms=member.terms, counts=member.counts,
        length=member.length,
    )  # fmt: skip
