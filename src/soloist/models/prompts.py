"""Which prompts go before texts. Pure: a spec and a model's own prompts in, the choice out.

The loader and the planner ask this one function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soloist.errors import ModelLoadError
from soloist.models.spec import ModelSpec

# The first of these that is not empty goes before documents.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The texts before documents and before queries, and notices for the user about that choice."""

    document: str
    query: str
    notices: tuple[str, ...] = ()


def choose_prompts(spec: ModelSpec, own: Mapping[str, Any]) -> Prompts:
    """The spec's prompts, else those of `own`, a folder's config_sentence_transformers.json.

    Raises:
        ModelLoadError: the folder's prompts do not give every name a text.
    """
    prompts = _texts(spec, own.get("prompts") or {})
    name = next((name for name in DOCUMENT_PROMPTS if prompts.get(name)), None)
    document = prompts[name] if name is not None else ""
    query = prompts.get("query", "")
    chosen = Prompts(
        document=document if spec.document_prompt is None else spec.document_prompt,
        query=query if spec.query_prompt is None else spec.query_prompt,
    )
    notices = [
        *_of_another_name(spec, name, document),
        *_of_queries_alone(spec, chosen),
        *_of_the_default(spec, own.get("default_prompt_name"), prompts),
    ]
    return Prompts(document=chosen.document, query=chosen.query, notices=tuple(notices))


def _texts(spec: ModelSpec, prompts: object) -> dict[str, str]:
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ModelLoadError(
            f"{spec.name} has a prompt that is not a text: correct prompts in its config_sentence_transformers.json"
        )
    return {name: text or "" for name, text in prompts.items()}


def _of_another_name(spec: ModelSpec, name: str | None, document: str) -> list[str]:
    """sentence-transformers adds an empty prompt `document`, and its encode_document takes that one."""
    if spec.document_prompt is not None or name in (None, "document"):
        return []
    return [
        f"its documents get its prompt {name!r} ({document!r}), but encode_document of sentence-transformers gives "
        "them no prompt: to do the same, set document_prompt to an empty text in a catalogue"
    ]


def _of_queries_alone(spec: ModelSpec, chosen: Prompts) -> list[str]:
    if (spec.document_prompt, spec.query_prompt) != (None, None) or not chosen.query or chosen.document:
        return []
    return [
        f"its queries get the prompt {chosen.query!r} and its documents get no prompt: if it was trained with a prompt "
        "for documents, set document_prompt in a catalogue"
    ]


def _of_the_default(spec: ModelSpec, default: object, prompts: Mapping[str, str]) -> list[str]:
    if (spec.document_prompt, spec.query_prompt) != (None, None) or not prompts.get(str(default)):
        return []
    if default == "query" or default == next((name for name in DOCUMENT_PROMPTS if prompts.get(name)), None):
        return []
    return [
        f"its default prompt {default!r} is not used: documents and queries have their own prompts, as with "
        "encode_document and encode_query of sentence-transformers"
    ]
