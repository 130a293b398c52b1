"""A run as a tool of assistants, over the Model Context Protocol: one tool, `search`. Needs mcp, the official library.

from soloist.integrations.mcp import search_server

search_server("run").run()  # answers on stdin and stdout, as `soloist mcp run` does
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from soloist.broken_imports import importing_optional
from soloist.errors import ConfigError, SoloistError
from soloist.integrations.opening import ByGiven, RunGiven, run_of, search
from soloist.reports.hits import hit_values
from soloist.retrieval.rankers.choice import choice_of, chosen_ranker

with importing_optional("mcp", what=__name__, package="mcp", extra="mcp"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
    from pydantic import BaseModel, Field

MOST_HITS = 100


class Found(BaseModel):
    """What the tool answers: hits, the best first, and what was noticed of the question, such as that it was cut."""

    hits: list[dict[str, Any]]
    notices: list[str]


def search_server(run: RunGiven, *, k: int = 10, by: ByGiven = None, collections: Sequence[str] = ()) -> MCPServer[Any]:
    """A server with the tool `search`: the chunks of a run as `OpenedRun.search` ranks them.

    An answer has `k` hits where the assistant does not say how many, and at most 100. Of `collections`, or of all, an
    assistant may choose some.

    Raises:
        OutputError: there is no finished run.
        ConfigError: it has no such ranker or collection, or `k` is not from 1 to 100.
    """
    tool = _Search(run, k, by, collections)
    server: MCPServer[Any] = MCPServer("soloist", log_level="WARNING")
    server.add_tool(
        tool.search, description=tool.description,
        annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
    )  # fmt: skip
    return server


class _Search:
    def __init__(self, run: RunGiven, k: int, by: ByGiven, collections: Sequence[str]) -> None:
        if not 1 <= k <= MOST_HITS:
            raise ConfigError(f"k is {k!r}: give a number of hits from 1 to {MOST_HITS}")
        self._run = run_of(run)
        opened = self._run()
        corpus = opened.corpus(collections)
        chosen_ranker(choice_of(by, opened.record), corpus)
        self._k, self._by, self._rows = k, by, corpus.rows
        self._collections = tuple(dict.fromkeys(collections)) or opened.collections

    @property
    def description(self) -> str:
        """What the assistant reads of the tool."""
        return (
            f"Searches {self._rows:,} chunks of text in these collections: {', '.join(self._collections)}. Every chunk "
            "is scored, and the best ones come first, each with its score, place, text and metadata."
        )

    def search(
        self,
        question: Annotated[str, Field(description="What to look for, in plain words.")],
        k: Annotated[int | None, Field(ge=1, le=MOST_HITS, description="How many chunks to find.")] = None,
        collections: Annotated[list[str] | None, Field(description="Search only these collections.")] = None,
    ) -> Found:
        """The best chunks for a question; an error of soloist is one that the assistant reads."""
        opened = self._run()
        known = set(opened.notices)
        try:
            among = self._chosen(collections)
            rows = opened.corpus(among).rows
            hits = search(self._run, question, min(k or self._k, rows), self._by, among)
        except SoloistError as exc:
            raise ToolError(str(exc)) from exc
        return Found(hits=list(map(hit_values, hits)), notices=[said for said in opened.notices if said not in known])

    def _chosen(self, collections: Sequence[str] | None) -> Sequence[str]:
        for name in collections or ():
            if name not in self._collections:
                choices = ", ".join(self._collections)
                raise ConfigError(f"the collection {name} is not searched here: choose one of {choices}")
        return collections or self._collections
