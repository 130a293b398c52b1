"""What a notebook shows of results: the figures of the terminal, as HTML that no content can break out of."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import pandas
import pyarrow as pa
import pytest
from support.collections import TABLE_SETTINGS as SETTINGS

import soloist

TAGS = {"style", "div", "b", "span", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
TEXT = "</pre><script>alert(1)</script> how are devices given back?"
ID = "<img src=x onerror=alert(2)>"
TITLE = '"><svg onload=alert(3)> given & taken'
COLLECTION = "a&b <i>"


class Page(HTMLParser):
    """The tags of a piece of HTML, and its text as a reader sees it."""

    def __init__(self, html: str | None) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        assert html is not None, "no form is registered"
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._open.append(tag)
        assert not [name for name, _ in attrs if name not in ("class", "style")]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text += data


def page_of(value) -> Page:
    page = Page(value._repr_html_())
    assert page.tags <= TAGS, page.tags - TAGS
    return page


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose collection, ids, texts and metadata are HTML, and its result."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "chunks" / COLLECTION).mkdir(parents=True)
    lines = [{"id": ID, "text": TEXT, "metadata": {"title": TITLE}}]
    lines += [{"id": f"{n}", "text": f"a lease of device {n}", "metadata": {"title": f"device {n}"}} for n in range(40)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "chunks" / COLLECTION / "<u>.jsonl").write_text(text)
    result = soloist.embed(root / "chunks", out=root / "run", lock_dir=root / "locks", **SETTINGS)
    return root, result


def test_a_result_is_shown_as_its_tables(hostile):
    """A notebook showed two screens of nested dataclasses."""
    _, result = hostile
    page = page_of(result)
    assert "wordllama" in page.text and "chunks/s" in page.text
    assert f"COLLECTION/{{chunks, vectors}} for {COLLECTION}" in page.text
    assert list(result.to_pandas()["name"]) == ["wordllama"]
    assert result.to_arrow()["chunks"].to_pylist() == [41]


def test_hits_are_shown_with_their_texts(hostile):
    """The text of a chunk ran as a script in the notebook of whoever searched for it."""
    root, _ = hostile
    hits = soloist.open_run(root / "run").search("how are devices given back?", 3)
    page = page_of(hits)
    assert (hits[0].id, hits[0].text) == (ID, TEXT), "the first hit is the hostile one"
    assert all(shown in page.text for shown in (ID, TEXT, TITLE, COLLECTION, "<u>.jsonl (chunk 0)"))
    assert page_of(hits[1:]).text.count("a lease of device") == 2, "a slice is shown too"
    assert "no hits" in page_of(hits[3:]).text
    frame, table = hits.to_pandas(), hits.to_arrow()
    assert list(frame["id"]) == [hit.id for hit in hits] and frame["metadata"][0] == {"title": TITLE}
    assert table["rank"].to_pylist() == [1, 2, 3] and json.loads(table["metadata"][0].as_py()) == {"title": TITLE}


def test_without_pandas_one_sentence_says_so(hostile, monkeypatch):
    """A traceback that names a missing module does not say that to_arrow works."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        soloist.errors.ConfigError, match=r"^to_pandas needs pandas: run pip install pandas, or call to"
    ):
        hostile[1].to_pandas()


def test_a_plan_is_shown_with_its_verdict(hostile):
    """The verdict is what the person wants first."""
    root, _ = hostile
    plan = soloist.plan(root / "chunks", models=["wordllama"], accelerator="simulated:2xT4", session="9h")
    page = page_of(plan)
    assert page.text.startswith("fits into a session of 9:00:00")
    assert "wordllama: chunks by tokens, before truncation" in page.text
    assert plan.to_pandas()["rows"].tolist() == [41] and pa.types.is_string(plan.to_arrow().schema.field("curve").type)
    assert not (root / "run").joinpath("plan").exists() and plan.fits


def test_an_evaluation_is_shown_with_its_verdicts(hostile):
    """The command prints it, and Python had no function for it."""
    root, _ = hostile
    found = soloist.evaluate(root / "run", bm25=False)
    page = page_of(found)
    assert "nDCG@10" in page.text and "The run has one member, so there is no ensemble to judge." in page.text
    frame = found.to_pandas()
    assert frame["name"].tolist() == ["wordllama"] and frame["nDCG@10"][0] == found.systems[0].measures["nDCG@10"]
    assert isinstance(frame, pandas.DataFrame) and found.to_arrow()["kind"].to_pylist() == ["model"]


def test_a_validation_is_shown_point_by_point(hostile):
    """It wrote files, and a notebook showed nothing of them."""
    root, _ = hostile
    found = soloist.validate(
        root / "chunks", out=root / "report", models=["wordllama"], accelerator="cpu", lock_dir=root / "locks",
        sample_chunks=12, quick=True,
    )  # fmt: skip
    page = page_of(found)
    assert found.holds and "✓ pass" in page.text and "cannot be shown here" in page.text
    assert f"{root / 'report'}: validation.json, validation.md, report.html" in page.text
    assert {*found.to_pandas()["verdict"]} == {"pass", "cannot be shown here"}
    written = json.loads((root / "report" / "validation.json").read_text())
    assert [check["name"] for check in written["checks"]] == [check.name for check in found.checks]
