"""Figures as SVG within a page: two widths, and colours that the page decides. Knows matplotlib, and nothing of runs.

A colour is a role, such as `ink`. matplotlib draws a hexadecimal number that stands for the role. In the SVG, the
page's variable of that name replaces the number. So one figure serves a light page and a dark page.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from soloist.broken_imports import load_optional
from soloist.reports.text import printable

SERIES = 8
MARK = "mark"  # the class of marks that show a fact
CLASSES = (MARK, "split", "limit", "budget")  # what a figure may give as `gid`
# In units of the SVG. If the page is as wide as the figure, a text of 12 units is about 12 pixels high.
WIDE, HALF, NARROW = 960, 560, 360
_NAME_CHARACTERS = {WIDE: 32, HALF: 24, NARROW: 20}
_LEGEND_COLUMNS = {WIDE: 4, HALF: 3, NARROW: 2}
_FONT = 12
_ROLES = {"ink": "#010101", "muted": "#010102", "grid": "#010103"} | {
    f"series-{number}": f"#0102{number:02x}" for number in range(SERIES)
}
_NAMES = {value: f"var(--{name})" for name, value in _ROLES.items()}
_HEX = re.compile(r"#0[0-9a-f]{5}\b")
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
# matplotlib's settings and the filters of warnings belong to the whole process.
_DRAWING = threading.Lock()


def role(name: str) -> str:
    """The colour that stands for a role: `ink`, `muted`, `grid`, or `series-0` and so on."""
    return _ROLES[name]


def series(number: int) -> str:
    """The colour of a series. Colours repeat after `SERIES`."""
    return _ROLES[f"series-{number % SERIES}"]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A figure to draw on, and how wide it is. `figure` is one of matplotlib's."""

    figure: Any
    width: int

    def axes(self, rows: int = 1) -> list[Any]:
        """Axes below each other, which share the horizontal one where there are several."""
        found = self.figure.subplots(rows, 1, sharex=rows > 1, squeeze=False)
        return [axes for row in found for axes in row]

    def name(self, text: str) -> str:
        """A name that fits beside or above axes: on one line, and cut in its middle."""
        most, text = _NAME_CHARACTERS[self.width], printable(text)
        return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 + 1 :]}"

    def legend(self, handles: dict[str, Any]) -> None:
        """Names of series above the axes."""
        if handles:
            self.figure.legend(
                list(handles.values()), [self.name(text) for text in handles], loc="outside upper left",
                ncols=_LEGEND_COLUMNS[self.width], frameon=False, fontsize=_FONT - 1, handlelength=1.2,
                columnspacing=1.2, borderpad=0.1,
            )  # fmt: skip


def require_figures() -> Any:
    """The library that draws.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    return load_optional("matplotlib.figure", what="soloist report", package="matplotlib", extra="report")


def svg(name: str, alt: str, width: int, height: int, draw: Callable[[Canvas], None]) -> str:
    """A figure as an SVG element. `name` makes its ids different from those of other figures of the page."""
    figures = require_figures()
    from matplotlib.backends import backend_svg

    with _settings(name):
        # 72 points an inch: the units of the SVG are those of the size.
        figure = figures.Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
        draw(Canvas(figure, width))
        text = io.StringIO()
        backend_svg.FigureCanvasSVG(figure).print_svg(text, metadata=_NO_METADATA)  # savefig draws everything twice
    return _for_page(text.getvalue(), name, alt)


@contextlib.contextmanager
def _settings(name: str) -> Iterator[None]:
    """matplotlib's settings for the SVG of a page, whatever the settings of the process are."""
    import matplotlib

    ink, muted, grid = role("ink"), role("muted"), role("grid")
    settings = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": _FONT, "text.parse_math": False, "text.color": ink,
        "axes.labelcolor": ink, "axes.edgecolor": muted, "axes.facecolor": "none", "axes.titlesize": _FONT,
        "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": grid, "xtick.color": muted, "ytick.color": muted,
        "xtick.labelcolor": ink, "ytick.labelcolor": ink, "xtick.labelsize": _FONT - 1, "ytick.labelsize": _FONT - 1,
        "hatch.color": ink, "hatch.linewidth": 0.8, "legend.labelcolor": ink,
    }  # fmt: skip
    with _DRAWING, matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # The page's fonts draw the texts. matplotlib only measures the texts, and lacks letters of some scripts.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from (current )?font", category=UserWarning)
        yield


def _for_page(text: str, name: str, alt: str) -> str:
    """The SVG element without size, with ids of its own, the page's colours and a text for screen readers."""
    root = ElementTree.fromstring(text)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    for element in root.iter():
        _rewrite(element, name)
    root.set("id", name)
    root.set("role", "img")
    root.set("aria-label", printable(alt))
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, name: str) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id" and value in CLASSES:  # many marks of a figure have it
            del element.attrib[key]
            element.set("class", value)
        elif key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{_XLINK}}}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        else:
            themed = _HEX.sub(lambda found: _NAMES.get(found[0], found[0]), value)
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", themed))
