"""What clients ask: the JSON of a request as checked values, or a refusal with one sentence. Knows no HTTP library."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from soloist.errors import ConfigError
from soloist.retrieval.query_checks import checked_query
from soloist.serving.limits import Limits
from soloist.serving.refusals import RefusedError
from soloist.wording import count_text, listed

Role = Literal["query", "document"]
Encoding = Literal["float", "base64"]
_SHOWN_NUMBER = 10**15
_LONGEST_NAME = 255  # characters
_EMBEDDINGS = ("model", "input", "encoding_format", "dimensions", "input_type", "user")
_SEARCH = ("question", "k", "by", "collections")
_TOKEN_IDS = (
    "input has token ids, which are those of another tokenizer: send texts, in langchain-openai with "
    "OpenAIEmbeddings(check_embedding_ctx_length=False)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsAsked:
    """A request for vectors. `dimensions` is None where the client does not say."""

    model: str
    texts: tuple[str, ...]
    encoding: Encoding
    dimensions: int | None
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAsked:
    """A question to the run. `k` and `by` are None, and `collections` empty, where the client does not say."""

    question: str
    k: int | None
    by: str | None
    collections: tuple[str, ...]


def embeddings_asked(body: bytes, limits: Limits) -> EmbeddingsAsked:
    """What a request to /v1/embeddings asks.

    Raises:
        RefusedError: it is not JSON, or a field is missing, unknown, or has a wrong value.
    """
    fields = _fields(body, _EMBEDDINGS)
    dimensions = fields.get("dimensions")
    if dimensions is not None and not _is_count(dimensions):
        raise _wrong("dimensions", dimensions, "a whole number of 1 or more, or leave it out")
    return EmbeddingsAsked(
        model=_text(fields, "model", "the name of a model, see /v1/models"),
        texts=_texts(fields.get("input"), limits),
        encoding=_choice(fields, "encoding_format", get_args(Encoding), "float"),
        dimensions=dimensions,
        role=_choice(fields, "input_type", get_args(Role), "query"),
    )


def search_asked(body: bytes, limits: Limits) -> SearchAsked:
    """What a request to /v1/search asks.

    Raises:
        RefusedError: as `embeddings_asked`.
    """
    fields = _fields(body, _SEARCH)
    k, collections = fields.get("k"), fields.get("collections")
    if k is not None and not (_is_count(k) and k <= limits.hits):
        raise _wrong("k", k, f"a whole number from 1 to {limits.hits}, or leave it out")
    if collections is not None and not (isinstance(collections, list) and all(map(_is_name, collections))):
        raise _wrong("collections", collections, "a list of names, or leave it out")
    by = fields.get("by")
    if by is not None and not (by and _is_name(by)):
        raise _wrong("by", by, "the name of a model or of a ranker")
    question = _text(fields, "question", "a text")
    return SearchAsked(
        question=_checked("question", question, limits), k=k, by=by, collections=tuple(collections or ())
    )


def _fields(body: bytes, known: Sequence[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except RecursionError as exc:
        raise RefusedError(400, "the body of the request is nested too deeply: send one JSON object") from exc
    except ValueError as exc:  # also a number with too many digits, and bytes that are not UTF-8
        raise RefusedError(400, "the body of the request is not JSON: send one JSON object in UTF-8") from exc
    if not isinstance(value, dict):
        raise RefusedError(
            400, f"the body of the request is {_kind(value)}: send a JSON object with {listed(known[:2])}"
        )
    for name in value:
        if name not in known:
            raise RefusedError(
                400,
                f"the request has the field {_shown(name)}, which is not known here: leave it out, or choose one of "
                f"{', '.join(known)}",
                param=_safe(name[:80]),
            )
    return value


def _texts(value: Any, limits: Limits) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_checked("input", value, limits),)
    if not isinstance(value, list):
        if value is None:
            raise RefusedError(400, "the request has no input: give a text, or a list of texts", param="input")
        raise _wrong("input", value, "a text, or a list of texts")
    if not value:
        raise RefusedError(400, "input is an empty list: give one text or more", param="input")
    if len(value) > limits.texts:
        raise RefusedError(
            400,
            f"input has {count_text(len(value), 'text')}, and a request takes {limits.texts:,}: send several requests",
            param="input",
        )
    for item in value:
        if _is_token(item) or (isinstance(item, list) and item and all(map(_is_token, item))):
            raise RefusedError(400, _TOKEN_IDS, param="input", code="token_ids")
        if not isinstance(item, str):
            raise RefusedError(400, f"input has {_kind(item)} in its list: give a list of texts", param="input")
    return tuple(_checked("input", text, limits) for text in value)


def _checked(param: str, text: str, limits: Limits) -> str:
    noun = "text of input" if param == "input" else param
    if len(text) > limits.text_characters:
        raise RefusedError(
            400,
            f"a {noun} has {count_text(len(text), 'character')}, and the server takes "
            f"{limits.text_characters:,}: split it",
            param=param,
        )
    try:
        return checked_query(text, noun)
    except ConfigError as exc:
        raise RefusedError(400, str(exc), param=param) from exc


def _text(fields: Mapping[str, Any], name: str, what: str) -> str:
    value = fields.get(name)
    if value is None:
        raise RefusedError(400, f"the request has no {name}: give {what}", param=name)
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, what)
    return value


def _choice(fields: Mapping[str, Any], name: str, choices: tuple[Any, ...], usual: str) -> Any:
    value = fields.get(name)
    if value is None:
        return usual
    if value not in choices:
        raise _wrong(name, value, listed(choices, "or"))
    return value


def _wrong(name: str, value: Any, what: str) -> RefusedError:
    return RefusedError(400, f"{name} is {_shown(value)}: give {what}", param=name)


_KIND_NAMES: Sequence[tuple[Callable[[Any], bool], str]] = (
    (lambda value: value is None, "null"),
    (lambda value: isinstance(value, bool), "a truth value"),
    (lambda value: isinstance(value, int | float), "a number"),
    (lambda value: isinstance(value, str), "a text"),
    (lambda value: isinstance(value, list), "a list"),
    (lambda value: isinstance(value, dict), "an object"),
)


def _kind(value: Any) -> str:
    return next(name for is_it, name in _KIND_NAMES if is_it(value))


def _shown(value: Any) -> str:
    """A value as a sentence shows it: a short one as it is, and otherwise its kind."""
    if isinstance(value, str):
        return _safe(repr(value[:40])) if len(value) <= 40 else f"{_safe(repr(value[:40]))} and more"
    return str(value) if _is_token(value) and abs(value) < _SHOWN_NUMBER else _kind(value)


def _safe(text: str) -> str:
    """Without lone surrogates, which JSON in UTF-8 cannot have."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    """Whether it may be a name: a longer text would fill the sentence that it is not one."""
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _is_count(value: Any) -> bool:
    return _is_token(value) and value >= 1
