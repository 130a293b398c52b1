"""The README beside a Qdrant folder: the queries that rank as the run does, and what differs. Asks no client."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from soloist.exports.readme import QUESTION, example_weights, page, run_path
from soloist.exports.rows import Source
from soloist.stores import folder_name

_CODE = """\
import hashlib
from collections import Counter
from statistics import pstdev

from qdrant_client import QdrantClient, models
{question}

client = QdrantClient(path={path!r})  # or url="http://localhost:6333"
names = {names!r}
sparse, words = {sparse!r}, {words!r}
ours = models.Filter(
    must=[models.FieldCondition(key="collection", match=models.MatchAny(any={collections!r}))]
)


def asked(name, question):
    # A question as one kind of vector.
    if name in sparse:
        weights = questions.encode_sparse([question], name)[0]
        return models.SparseVector(indices=list(weights), values=list(weights.values()))
    if name in words:
        times = Counter()
        for term, count in questions.encode_words([question], name)[0].items():
            times[int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")] += count
        return models.SparseVector(indices=list(times), values=list(times.values()))
    return question_vector(name, question).tolist()


def hits(name, question, limit):
    # Collection and id of the best points of this export by one name, with their scores.
    vector = asked(name, question)
    if isinstance(vector, models.SparseVector) and not vector.indices:
        return {{}}
    found = client.query_points({table!r}, query=vector, using=names[name], query_filter=ours, limit=limit)
    points = [(point.payload, point.score) for point in found.points]
    return {{(payload["collection"], payload["id"]): score for payload, score in points}}


def hybrid(question, weights, k=10):
    # By the weighted sum of standardised scores. It asks for the score of every point.
    points, total = client.count({table!r}, count_filter=ours).count, Counter()
    for name, weight in weights.items():
        found = hits(name, question, points)
        deviation = pstdev([*found.values(), *[0.0] * (points - len(found))])
        # Scores that are all the same rank nothing. Those of dense vectors are off by up to 1e-6.
        is_flat = deviation <= (0 if name in sparse or name in words else 1e-6)
        for key, score in found.items():
            total[key] += 0 if is_flat else weight * score / deviation
    return [key for key, _ in total.most_common(k)]


def rrf(question, weights, k=10):
    # By reciprocal ranks, which needs the best 1,000 points by each name.
    total = Counter()
    for name, weight in weights.items():
        for rank, key in enumerate(hits(name, question, 1_000), 1):
            total[key] += weight / (60 + rank)
    return [key for key, _ in total.most_common(k)]


weights = {weights!r}
print(hybrid("what do you look for?", weights))
"""
_FILES = """\
A point has a vector for each name. Dense vectors are compared by their cosine, sparse vectors by their dot product.
Words are a sparse vector too. The dimension of a term is a hash of it. Its value is the part of BM25 that follows
from the text. Qdrant multiplies it by the term's IDF.
"""
_NOTES = """
- All queries are of this export's collections alone, whatever else the table has.
- `hits` has the scores of `soloist search --model NAME` within float32, and `hybrid` ranks as `soloist search` does.
  With words this holds only if the table has all of the run and nothing else.
- `rrf` ranks as `soloist search --rrf` with these weights. Qdrant's own fusions weigh members in another way,
  so the code adds up the ranks itself.
- `hybrid` asks for every point. With many points take `rrf`.
- Qdrant takes a term's IDF from the whole table. Everything else in the table changes it: other runs, and other
  collections of this run.
- The values of words follow from the average length of all texts of the run, also of collections that are not exported.
  An export keeps the average of the export before until that average is off by more than 1%. So a score of words is
  off by at most 1%.
- A server finds dense vectors by an approximate index. `search_params=models.SearchParams(exact=True)` finds all.
"""


def readme_path(folder: Path, table: str) -> Path:
    """Where the README of a collection is, beside the files of Qdrant."""
    return folder / f"README-{folder_name(table)}.md"


def qdrant_readme(source: Source, names: Mapping[str, str], folder: Path, table: str) -> str:
    """The text. `names` are the collection's names of vectors by the run's."""
    kinds = {name: member.kind for name, member in source.ragged.items()}
    question = QUESTION.format(run=run_path(source)).strip()
    code = _CODE.format(
        question=question, path=str(folder.absolute()), table=table, names=dict(names),
        sparse=[name for name, kind in kinds.items() if kind == "sparse"],
        words=[name for name, kind in kinds.items() if kind == "lexical"],
        collections=list(source.collections), weights=example_weights(source),
    )  # fmt: skip
    return page(
        source, title=f"A run of soloist in the Qdrant collection {table}", files=_FILES, code=code, notes=_NOTES
    )
