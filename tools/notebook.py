"""Write the example notebook from its source. Knows files and Jupyter's formats, and nothing of soloist.

Run as `python -m tools.notebook`. The source is Markdown. Its blocks of Python become the cells of code. Never edit
the notebook itself: edit the source, and run this.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat

SOURCE = Path(__file__).parents[1] / "examples" / "kaggle.md"


def notebook_text(source: str) -> str:
    """The notebook of a source, without outputs; the same text each time."""
    notebook = jupytext.reads(source, fmt="md")
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number:02}"  # jupytext gives a random id
    return str(nbformat.writes(notebook)) + "\n"


def main() -> int:
    """Write the notebook beside its source; the exit code."""
    target = SOURCE.with_suffix(".ipynb")
    target.write_text(notebook_text(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
