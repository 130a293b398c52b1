"""The words of texts. Pure: texts in, terms and their counts out. Knows nothing of files, models or rankings."""

from soloist.words.analyser import Analyser, analyser_of
from soloist.words.counting import joined_terms

__all__ = ["Analyser", "analyser_of", "joined_terms"]
