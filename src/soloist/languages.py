"""The languages whose words soloist can cut: one row each. Pure: names only; the work is in `soloist.words`.

Help, settings and errors read this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How the words of a text are cut.

    - `stop_words` names the list of bm25s whose words are left out; None leaves no word out.
    - `stemmer` is the Snowball algorithm that cuts off endings; None keeps every word as it is.
    - `splits_identifiers` says whether `getUserName`, `snake_case` and `a.b.c` are also found by their parts.
    """

    stop_words: str | None = None
    stemmer: str | None = None
    splits_identifiers: bool = False


# bm25s has had lists of stop words for these since 0.3.0, under their names.
_WITH_STOP_WORDS = (
    "dutch", "french", "german", "italian", "norwegian", "portuguese", "russian", "spanish",
    "swedish", "turkish",
)  # fmt: skip
# Every other natural language of Snowball 2.2, the first version that PyStemmer has wheels of for these Pythons.
_WITH_STEMMER = (
    "arabic", "armenian", "basque", "catalan", "danish", "finnish", "greek", "hindi", "hungarian", "indonesian",
    "irish", "lithuanian", "nepali", "romanian", "serbian", "tamil", "yiddish",
)  # fmt: skip
DEFAULT_LANGUAGE = "english"
LANGUAGES: Mapping[str, Language] = {
    # Measured: nDCG@10 .714, .577 and .365 on three judged sets. With identifiers in parts .701, .706 and .365.
    "english": Language(stop_words="EN", stemmer="english"),
    "code": Language(stop_words="EN", stemmer="english", splits_identifiers=True),
    "none": Language(splits_identifiers=True),
    **{name: Language(stop_words=name.upper(), stemmer=name) for name in _WITH_STOP_WORDS},
    **{name: Language(stemmer=name) for name in _WITH_STEMMER},
}
