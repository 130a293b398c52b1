"""What clients may ask, and the sentence for what they may not. No server is needed for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from soloist.errors import ConfigError
from soloist.serving.asked import EmbeddingsAsked, SearchAsked, embeddings_asked, search_asked
from soloist.serving.limits import Limits
from soloist.serving.refusals import RefusedError

LIMITS = Limits(texts=3, text_characters=20, hits=5)


def asked(**fields: Any) -> EmbeddingsAsked:
    return embeddings_asked(json.dumps({"model": "fused", "input": "a", **fields}).encode(), LIMITS)


def test_what_is_left_out_has_its_usual_value() -> None:
    """A client of OpenAI sends neither role nor, sometimes, an encoding."""
    assert asked() == EmbeddingsAsked(model="fused", texts=("a",), encoding="float", dimensions=None, role="query")
    assert asked(input=["a", "b"], encoding_format="base64", dimensions=3, input_type="document", user="me") == (
        EmbeddingsAsked(model="fused", texts=("a", "b"), encoding="base64", dimensions=3, role="document")
    )
    assert search_asked(b'{"question": "a"}', LIMITS) == SearchAsked(question="a", k=None, by=None, collections=())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"input": [1, 2]}, "token ids, .*check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "token ids"),
        ({"input": 3}, "input is 3: give a text, or a list of texts"),
        ({"input": None}, "the request has no input: give"),
        ({"input": []}, "input is an empty list: give"),
        ({"input": [True]}, "input has a truth value in its list: give"),
        ({"input": [None]}, "input has null in its list"),
        ({"input": [[]]}, "input has a list in its list"),
        ({"input": ["a", " "]}, "a text of input is empty: give some text"),
        ({"input": "a\ud800"}, "has a lone surrogate at character 1, which is not text: give it in UTF-8"),
        ({"input": "a" * 21}, "a text of input has 21 characters, and the server takes 20: split it"),
        ({"input": ["a"] * 4}, "input has 4 texts, and a request takes 3: send several requests"),
        ({"model": ""}, "model is '': give the name of a model"),
        ({"model": None}, "the request has no model: give"),
        ({"model": {"a": 1}}, "model is an object: give"),
        ({"encoding_format": "hex"}, "encoding_format is 'hex': give float or base64"),
        ({"input_type": ["query"]}, "input_type is a list: give query or document"),
        ({"dimensions": 0}, "dimensions is 0: give a whole number of 1 or more"),
        ({"dimensions": True}, "dimensions is a truth value: give a whole number"),
        ({"truncate": True}, "the field 'truncate', which is not known here: leave it out, or choose one of model"),
        ({"\ud800": 1}, "the field '\\\\ud800', which is not known here"),
    ],
)
def test_what_cannot_be_asked(fields: dict[str, Any], sentence: str) -> None:
    """A sentence that does not say what is wrong costs the writer of a client an hour."""
    with pytest.raises(RefusedError, match=sentence) as refused:
        asked(**fields)
    assert refused.value.status == 400
    json.loads(refused.value.body())


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "is not JSON: send one JSON object in UTF-8"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        (b"[1]", "the body of the request is a list: send a JSON object with question and k"),
        (b"null", "the body of the request is null"),
        (b"[" * 100_000, "is nested too deeply: send one JSON object"),
        (b'{"question": 1}', "question is 1: give a text"),
        (b'{"question": "\\u0000", "k": 6}', "k is 6: give a whole number from 1 to 5, or leave it out"),
        (b'{"question": "a", "k": 1.5}', "k is a number: give"),
        (b'{"question": "a", "k": ' + b"1" * 5_000 + b"}", "is not JSON"),
        (b'{"question": "a", "collections": "alpha"}', "collections is 'alpha': give a list of names"),
        (b'{"question": "a", "by": 1}', "by is 1: give the name of a model or of a ranker"),
    ],
)
def test_what_is_no_search(body: bytes, sentence: str) -> None:
    """Bytes from a stranger end the parser, and with it the request of others."""
    with pytest.raises(RefusedError, match=sentence):
        search_asked(body, LIMITS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["model", "input", "encoding_format", "dimensions", "input_type", "question", "k", "by"])


@settings(max_examples=300)
@given(st.dictionaries(NAMES, VALUES, max_size=6) | VALUES, st.sampled_from([embeddings_asked, search_asked]))
def test_whatever_is_asked_has_an_answer_or_one_sentence(value: Any, read: Any) -> None:
    """An exception of another kind would be the server's fault, and its answer a 500."""
    try:
        read(json.dumps(value).encode(), LIMITS)
    except RefusedError as refused:
        assert 400 <= refused.status < 500
        message = json.loads(refused.body())["error"]["message"]
        assert message and "\n" not in message


def is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


@settings(max_examples=200)
@given(st.binary(max_size=60))
@example(b'{"model":" ","input":"!"}')
def test_whatever_bytes_come_have_one_sentence(body: bytes) -> None:
    """As above, for what is no JSON."""
    assume(not is_json(body))  # now and then chance makes a request
    with pytest.raises(RefusedError):
        embeddings_asked(body, LIMITS)


@pytest.mark.parametrize("fields", [{"by": "x" * 1_000_000}, {"collections": ["x" * 1_000_000]}])
def test_a_name_without_end_is_not_sent_back(fields: dict[str, Any]) -> None:
    """A refusal would be as long as the request, and more: the sentence says the name."""
    with pytest.raises(RefusedError) as refused:
        search_asked(json.dumps({"question": "a", **fields}).encode(), Limits())
    assert refused.value.status == 400 and len(str(refused.value)) < 200


@pytest.mark.parametrize(("name", "value"), [("turns", 0), ("texts", -1), ("receive_seconds", float("nan"))])
def test_a_limit_that_lets_nothing_through(name: str, value: float) -> None:
    """Every question would wait for ever, or be refused, and nothing say why."""
    with pytest.raises(ConfigError, match=f"the limit {name} is {value}, so no question would be answered: give"):
        Limits(**{name: value})
    assert Limits(window_seconds=0.0, finish_seconds=0.0)
