"""`soloist encode`: a question as the vector that asks what a run made, wherever its vectors went."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soloist.cli.outcome import exit_codes, importing, written_to_stdout
from soloist.cli.stdin_lines import incoming_texts
from soloist.errors import ConfigError, SoloistError
from soloist.fusion_methods import FUSED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from soloist.retrieval.questions import Questions

_AT_ONCE = 1_000  # texts that are embedded together
_DIR_HELP = "The folder that soloist embed wrote, or that of soloist export --to questions."
_TEXT_HELP = (
    "What to embed. - reads texts from stdin, one a line, and prints a line for each as it arrives. Lines without text "
    "are left out."
)
_MODEL_HELP = "The member whose vector it is: dense, sparse, or the words of the text."
_FUSED_HELP = "The fused vector, which is also the default of a run that has fused vectors."
_ROLE_HELP = "query, or document for a text as the run read its chunks."
_CATALOGUE_HELP = "A TOML file of your models, if those of the run are in other places on this machine."


def encode(
    path: Annotated[Path, typer.Argument(metavar="DIR", help=_DIR_HELP)],
    text: Annotated[str, typer.Argument(metavar="QUESTION", help=_TEXT_HELP)],
    model: Annotated[str | None, typer.Option(metavar="NAME", help=_MODEL_HELP)] = None,
    fused: Annotated[bool, typer.Option("--fused", help=_FUSED_HELP)] = False,
    role: Annotated[str, typer.Option(metavar="ROLE", help=_ROLE_HELP)] = "query",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a text.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(envvar="SOLOIST_CATALOGUE", metavar="PATH", help=_CATALOGUE_HELP)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Print the vector of a question, by the models, prompts and fusion of a run.

    A line has the numbers of a dense vector, dimension:weight pairs of a sparse one, or term:count pairs of words. The
    numbers are float32, with as many digits as tell each of them from its neighbours.
    """
    with exit_codes(debug=debug):
        if fused and model is not None:
            raise ConfigError(f"--fused and --model {model} are two vectors: give one of them")
        with importing():
            from soloist.retrieval.opened_questions import open_questions

        questions = open_questions(path, catalogue=catalogue)
        printing = _Printing(questions, FUSED if fused else model, role, as_json)
        if text != "-":
            printing.print([text])
            return
        is_any = False
        for texts in incoming_texts(sys.stdin, _AT_ONCE):
            is_any = True
            printing.print(texts)
        if not is_any:
            raise ConfigError("stdin has no text: give one a line, or give it as QUESTION")


@dataclass(frozen=True, slots=True)
class _Printing:
    """How texts are embedded and shown."""

    questions: Questions
    name: str | None
    role: Any
    as_json: bool

    def print(self, texts: Sequence[str]) -> None:
        """Print a line for each text, and then the notices about them.

        A text without a vector is an error once the texts before it are printed.
        """
        known = set(self.questions.notices)
        try:
            rows = self._rows(texts)
        except SoloistError:
            if len(texts) == 1:
                raise
            for text in texts:
                self.print([text])
            return
        with written_to_stdout("the vectors"):
            for text, row in zip(texts, rows, strict=True):
                typer.echo(self._line(text, row))
        for notice in self.questions.notices:
            if notice not in known:
                typer.echo(f"soloist: {notice}", err=True)

    @property
    def _kind(self) -> str:
        return self.questions.kinds.get(self.name or FUSED, "dense")

    def _rows(self, texts: Sequence[str]) -> Sequence[Any]:
        if self._kind == "lexical":
            return self.questions.encode_words(texts, self.name or "")
        if self._kind == "sparse":
            return self.questions.encode_sparse(texts, self.name or "", self.role)
        return [dict(enumerate(row)) for row in self.questions.encode(texts, self.name, self.role)]

    def _line(self, text: str, row: Mapping[Any, Any]) -> str:
        from soloist.jsontext import json_text

        numbers = [_shortest(value) for value in row.values()]
        if self.as_json:
            values = [json.loads(number) for number in numbers]
            of_kind: dict[str, dict[str, Any]] = {
                "lexical": {"words": dict(zip(row, values, strict=True))},
                "sparse": {"indices": list(row), "values": values},
                "dense": {"vector": values},
            }
            return json_text({"text": text, **of_kind[self._kind]})
        if self._kind == "dense":
            return " ".join(numbers)
        return " ".join(f"{key}:{number}" for key, number in zip(row, numbers, strict=True))


def _shortest(value: Any) -> str:
    """A number with as many digits as tell it from its neighbours: a count, or a float32."""
    import numpy as np

    return str(value) if isinstance(value, int) else str(np.float32(value))
