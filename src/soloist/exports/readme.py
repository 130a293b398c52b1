"""The README of an export with sparse vectors or words: how to read it, and the code that ranks as the run does.

The code asks the run's own models for the vectors of a question, and its own rules for the words of one. Everything
else is in the export. Knows no store: a format gives the code that reads it.
"""

from __future__ import annotations

from pathlib import Path

from soloist.exports.asking import TITLE
from soloist.exports.rows import Source

_IMPORTS = """\
import json

import numpy as np
import scipy.sparse
"""
QUESTION = """\
import soloist

# Its folder, or the one that soloist export --to questions wrote, which is enough.
questions = soloist.open_questions({run!r})


def question_vector(name, question):
    return questions.encode([question], name)[0]
"""
_SCORES = """\
def scores(name, question):
    # The score of every row, by one name.
    if name in dense:
        return dense[name].astype(np.float64) @ question_vector(name, question).astype(np.float64)
    if name in sparse:
        asked = questions.encode_sparse([question], name)[0]
        return sparse[name].tocsc()[:, np.array(list(asked), int)].astype(np.float64) @ np.array(list(asked.values()))
    rows, lengths = len(ids), np.asarray(counts[name].sum(axis=1)).ravel()
    columns = {term: column for column, term in enumerate(terms[name])}
    total, matrix = np.zeros(rows), counts[name].tocsc()
    for term, times in questions.encode_words([question], name)[0].items():
        if term in columns:
            count = matrix[:, columns[term]].toarray().ravel().astype(np.float64)
            idf = np.log(1 + (rows - (count > 0).sum() + 0.5) / ((count > 0).sum() + 0.5))
            total += times * idf * count / (count + 1.5 * (0.25 + 0.75 * lengths / lengths.mean()))
    return total


def standardised(name, found):
    # Scores that are all the same rank nothing. Those of dense vectors are off by up to 1e-6.
    is_flat = found.std() <= 1e-6 if name in dense else found.min() == found.max()
    return np.zeros(len(found)) if is_flat else (found - found.mean()) / found.std()


def search(question, weights, k=10):
    # Collection and id of the best rows. Several names rank by the weighted sum of their standardised scores.
    by_name = {name: scores(name, question) for name, weight in weights.items() if weight}
    total = sum(by_name.values())
    if len(by_name) > 1:
        total = sum(weights[name] * standardised(name, found) for name, found in by_name.items())
    best = np.argsort(-total, kind="stable")
    if not any(name in dense for name in by_name):  # then a row has to share something with the question
        best = best[np.any([found[best] > 0 for found in by_name.values()], axis=0)]
    return [ids[row] for row in best[:k]]
"""
# For formats that have a member as lists; `rows` gives those of a row.
LISTS = """\
def matrix(keys, values, columns):
    # The lists of all rows as a CSR matrix.
    numbers = np.repeat(np.arange(len(keys)), [len(row) for row in keys])
    flat = [key for row in keys for key in row], [value for row in values for value in row]
    return scipy.sparse.csr_matrix((flat[1], (numbers, flat[0])), shape=(len(keys), columns))


def numbered(lists):
    # All terms, and the lists with the column of each term.
    known = sorted({term for row in lists for term in row})
    columns = {term: column for column, term in enumerate(known)}
    return known, [[columns[term] for term in row] for row in lists]
"""


def readme(source: Source, *, title: str, files: str, loading: str) -> str:
    """The text. `files` says what there is, and `loading` is code that gives `ids`, and by name `dense` arrays,
    `sparse` and `counts` CSR matrices and lists of `terms`.
    """
    question = QUESTION.format(run=run_path(source))
    example = f"weights = {example_weights(source)!r}\nprint(search('what do you look for?', weights))\n"
    code = f"{_IMPORTS}\n{question}\n\n{loading.rstrip()}\n\n\n{_SCORES}\n\n{example}"
    return page(source, title=title, files=files, code=code)


def page(source: Source, *, title: str, files: str, code: str, notes: str = "") -> str:
    """A README with this code."""
    about = f"{title}\n\nThe run is `{run_path(source)}`, its id `{source.run}`.\n\n{files.strip()}\n"
    return f"{TITLE}\n\n{about}\n{_ranking(source)}\n```python\n{code.strip()}\n```\n{notes}"


def example_weights(source: Source) -> dict[str, float]:
    """The weights of the run's own ranking, if all of its terms are exported; else the first name alone."""
    if source.hybrid and set(source.hybrid) <= set(source.names):
        return dict(source.hybrid)
    return {source.names[0]: 1.0}


def beside(path: Path) -> Path:
    """The README of a target that takes no file inside: it is beside the target."""
    named = path.resolve() if path.name in ("", "..") else path
    return named.parent / f"{named.name}.README.md"


def run_path(source: Source) -> str:
    """The folder of the run, for code that may be called anywhere."""
    return str(source.folder.path.absolute())


def _ranking(source: Source) -> str:
    own = source.hybrid and set(source.hybrid) <= set(source.names)
    by = "all members together, as `soloist search` does" if own else f"`{source.names[0]}`"
    return f"This code ranks by {by}. With the weights of one name it ranks by that name alone.\n"
