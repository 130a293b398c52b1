"""`questions.json`, all that is needed to embed questions for a run, and the file of its fusion's matrices beside it.

The last value of `questions.json` is a checksum of the text before it, so that a changed byte anywhere is seen. Other
files are named by their checksums: to write `questions.json` switches from the old ones to the new ones at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load

from soloist.arrays import Vectors
from soloist.errors import OutputError, OutputPathError
from soloist.jsontext import json_text
from soloist.stores.layout import Layout

Used = TypeVar("Used")

QUESTIONS = "questions.json"
MODELS = "models"  # the folder of copied models
_FORMAT = "soloist questions"
_VERSION = 1
_CHECKSUM = "sha256"
_AGAIN = "copy the folder again, or export the questions of the run again"


def questions_text(content: Mapping[str, Any]) -> str:
    """The text of `questions.json`."""
    return _with_checksum({"format": _FORMAT, "version": _VERSION, **content})


def read_questions(folder: Path, use: Callable[[Any], Used]) -> Used:
    """What `use` makes of the content of `questions.json`.

    Raises:
        OutputError: the file cannot be read, was changed, or is of a later version.
    """
    path = folder / QUESTIONS
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        checked = {name: value for name, value in content.items() if name != _CHECKSUM}
        is_whole = _with_checksum(checked) == text
    except OSError as exc:
        raise OutputError(f"{path} cannot be read ({exc.strerror}): {_AGAIN}") from exc
    except (ValueError, AttributeError, RecursionError) as exc:
        raise damaged(path) from exc
    if not is_whole:
        raise damaged(path)
    if content.get("format") != _FORMAT or content.get("version") != _VERSION:
        raise OutputError(
            f"{path} has the format {content.get('format')!r} in version {content.get('version')!r}, and this soloist "
            f"reads version {_VERSION} of {_FORMAT!r}: install the soloist that wrote it"
        )
    try:
        return use(content)
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        raise OutputError(
            f"{path} does not hold what an export writes there ({type(exc).__name__}: {exc}): {_AGAIN}"
        ) from exc


def is_questions_folder(folder: Path) -> bool:
    """Whether a folder has the file."""
    return (folder / QUESTIONS).is_file()


def fit_name(content: bytes) -> str:
    """The name of a file of matrices."""
    return f"fit-{hashlib.sha256(content).hexdigest()}.safetensors"


def read_fit_beside(folder: Path, name: str) -> tuple[Vectors, ...]:
    """The matrices in a file of this name.

    Raises:
        OutputError: the file cannot be read, or was changed.
    """
    path = folder / Path(name).name
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise OutputError(f"{path} cannot be read ({exc.strerror}): {_AGAIN}") from exc
    if fit_name(content) != path.name:
        raise damaged(path)
    try:
        found = load(content)
    except SafetensorError as exc:
        raise damaged(path) from exc
    return tuple(found[key] for key in sorted(found))


def require_questions_or_run(path: Path) -> None:
    """Refuse what cannot be asked: a path that is not a folder, or a folder with neither questions nor a run.

    Raises:
        OutputPathError: it is one of these.
    """
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
    elif is_questions_folder(path) or (path / "run.json").is_file() or Layout(path).is_run():
        return
    else:
        state = f"has neither {QUESTIONS} nor the files of a run"
    raise OutputPathError(f"{path} {state}: give the folder of soloist embed, or that of soloist export --to questions")


def damaged(path: Path) -> OutputError:
    """The error at a file of such a folder that was changed."""
    return OutputError(f"{path} is damaged, because its bytes are not those that were written: {_AGAIN}")


def _with_checksum(content: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json_text(content).encode()).hexdigest()
    return json_text({**content, _CHECKSUM: digest}, indent=1) + "\n"
