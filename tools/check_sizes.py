"""Hold the code to its sizes: functions, files and classes. Knows Python's syntax trees, and nothing of soloist.

Run as `python -m tools.check_sizes`; prints a line for everything that is too large, and then exits with 1.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("src", "processor", "scripts")
FILE_LINES = 400
FUNCTION_LINES = 60
NINE_OF_TEN_FUNCTIONS_LINES = 20
CLASS_METHODS = 15
LARGE_CLASSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a part of a file is: lines of a function, or methods of a class."""

    place: str
    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of some files."""

    files: tuple[Size, ...]
    functions: tuple[Size, ...]
    classes: tuple[Size, ...]


def measure(paths: Iterable[Path]) -> Sizes:
    """The sizes of these Python files. A function's lines include its docstring, and not its decorators."""
    files: list[Size] = []
    functions: list[Size] = []
    classes: list[Size] = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        files.append(Size(place=str(path), name=path.name, size=len(text.splitlines())))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions.append(_part(path, node, (node.end_lineno or node.lineno) - node.lineno + 1))
            elif isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))]
                classes.append(_part(path, node, len(methods)))
    return Sizes(files=tuple(files), functions=tuple(functions), classes=tuple(classes))


def complaints(sizes: Sizes) -> Iterator[str]:
    """A line for everything that is too large."""
    for file in _over(sizes.files, FILE_LINES):
        yield f"{file.place}: the file has {file.size} lines; at most {FILE_LINES} are allowed"
    for function in _over(sizes.functions, FUNCTION_LINES):
        yield f"{function.place}: {function.name} has {function.size} lines; at most {FUNCTION_LINES} are allowed"
    lines = percentile([function.size for function in sizes.functions], 90)
    if lines > NINE_OF_TEN_FUNCTIONS_LINES:
        yield (
            f"the 90th percentile of all functions is {lines} lines; at most {NINE_OF_TEN_FUNCTIONS_LINES} are allowed"
        )
    large = _over(sizes.classes, CLASS_METHODS)
    if len(large) > LARGE_CLASSES:
        yield f"{len(large)} classes have over {CLASS_METHODS} methods; at most {LARGE_CLASSES} are allowed:"
        yield from (f"  {found.place}: {found.name} has {found.size} methods" for found in large)


def percentile(values: Sequence[int], percent: int) -> int:
    """The smallest value that so many percent of the values do not exceed; 0 of no values."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else 0


def _part(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, size: int) -> Size:
    return Size(place=f"{path}:{node.lineno}", name=node.name, size=size)


def _over(sizes: Sequence[Size], limit: int) -> list[Size]:
    return sorted((part for part in sizes if part.size > limit), key=lambda part: -part.size)


def main(folders: Sequence[str]) -> int:
    """Check all Python files below the folders; the exit code."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    if not paths:
        print(f"{', '.join(folders)}: no Python files: run this in the root of the repository")
        return 1
    lines = list(complaints(measure(paths)))
    print("\n".join(lines) if lines else f"{len(paths)} files are within their sizes")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or FOLDERS))
