"""What a notebook makes of a value: an HTML form, and a table. The values inherit from here.

The forms are in `soloist.reports.html`, which registers them by the names of the values' classes. So neither side
imports the other. Knows no value and no HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from soloist.errors import ConfigError
from soloist.jsontext import json_text

if TYPE_CHECKING:
    import pyarrow as pa

HtmlForm = Callable[[Any], str]
_FORMS: dict[str, HtmlForm] = {}


def register_html_forms(forms: Mapping[str, HtmlForm]) -> None:
    """Make these the HTML forms of the classes with these names."""
    _FORMS.update(forms)


class Shown:
    """A value with an HTML form in notebooks."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        """What a notebook shows. If no form is registered, this is None, and the notebook shows the value as text."""
        form = _FORMS.get(type(self).__name__)
        return None if form is None else form(self)


class ShownAsTable(Shown):
    """A value that is a table too."""

    __slots__ = ()

    def table_rows(self) -> list[dict[str, Any]]:
        """The rows of the table, as dicts by the names of the columns."""
        raise NotImplementedError

    def to_arrow(self) -> pa.Table:
        """The table in Arrow. Lists and dicts are JSON in it."""
        import pyarrow as pa

        return pa.Table.from_pylist([{name: _flat(value) for name, value in row.items()} for row in self.table_rows()])

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`.

        Raises:
            ConfigError: pandas is not installed.
        """
        return load_pandas().DataFrame(self.table_rows())


class ShownByModel(ShownAsTable):
    """A value whose table has a row for each of its `models`."""

    __slots__ = ()
    models: Sequence[Any]

    def table_rows(self) -> list[dict[str, Any]]:
        """The fields of each model."""
        return [asdict(model) for model in self.models]


def load_pandas() -> Any:
    """The module pandas, which soloist itself does not need.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("pandas")
    except ModuleNotFoundError as exc:
        raise ConfigError("to_pandas needs pandas: run pip install pandas, or call to_arrow") from exc


def _flat(value: Any) -> Any:
    return json_text(value) if isinstance(value, (Mapping, list, tuple)) else value
