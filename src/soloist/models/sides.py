"""The two sides of a loaded model: the pipeline of documents and that of queries. Knows sentence-transformers' Router.

Most models have one pipeline for both. A model with routes gets a pipeline for either side, without the router, around
the same modules. So only the documents' route is copied to a device, and all that holds of a pipeline holds of a route.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from soloist.errors import ModelLoadError
from soloist.models.module_facts import is_a, is_table, width_of
from soloist.models.pipeline import RouteError, Task, route_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: weak references point to it
class Sides:
    """A pipeline for documents and one for queries, which may be the same."""

    document: SentenceTransformer
    query: SentenceTransformer

    def distinct(self) -> tuple[SentenceTransformer, ...]:
        """The pipelines, each once."""
        return (self.document,) if self.query is self.document else (self.document, self.query)

    def share_parts(self) -> bool:
        """Whether two pipelines have a part in common, which is then not to be changed for one of them."""
        if self.query is self.document:
            return False
        return bool(set(self.document.modules()) & set(self.query.modules()))


def sides_of(name: str, module: SentenceTransformer, dtype: torch.dtype) -> Sides:
    """The sides of a model. Its tables are put into `dtype`; its networks were loaded in it.

    Raises:
        ModelLoadError: the model has no route for a side, or its sides have vectors of different widths.
    """
    if not any(_is_router(part) for part in module.modules()):
        return Sides(document=module, query=module)
    try:
        parts = {task: list(_parts(module, task)) for task in _TASKS}
    except RouteError as exc:
        raise ModelLoadError(f"{name} cannot be used: {exc}; name its routes document and query") from exc
    for part in module.modules():
        if is_table(part):
            part.to(dtype)
    document = _pipeline(module, parts["document"])
    is_one = [id(part) for part in parts["document"]] == [id(part) for part in parts["query"]]
    query = document if is_one else _pipeline(module, parts["query"])
    widths = width_of(document), width_of(query)
    if widths[0] != widths[1]:
        raise ModelLoadError(
            f"{name} gives documents {widths[0]} dimensions and queries {widths[1]}, so they cannot be compared: "
            "choose a model whose routes have one width"
        )
    return Sides(document=document, query=query)


_TASKS: tuple[Task, ...] = ("document", "query")


def _is_router(part: torch.nn.Module) -> bool:
    return is_a(part, "Router")


def _parts(module: torch.nn.Module, task: Task) -> Iterator[torch.nn.Module]:
    part: Any
    for part in module.children():
        if _is_router(part):
            yield from _parts(part.sub_modules[route_of(part.route_mappings, part.sub_modules, task)], task)
        else:
            yield part


def _pipeline(whole: SentenceTransformer, parts: list[torch.nn.Module]) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer  # which has loaded the model with routes

    made = SentenceTransformer(
        modules=parts,
        device="cpu",
        prompts=whole.prompts,
        default_prompt_name=whole.default_prompt_name,
        similarity_fn_name=whole.similarity_fn_name,
        truncate_dim=whole.truncate_dim,
    )
    return made.eval()
