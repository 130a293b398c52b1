"""What a client is told where there is no answer: a status and one sentence, as OpenAI's clients read it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from soloist.errors import ConfigError, EncodingError, OutputError, SoloistError
from soloist.jsontext import json_text

_KINDS = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 503: "overloaded_error"}
_FIRST_OF_SERVER = 500


class RefusedError(Exception):
    """A request that gets no answer. `status` is that of HTTP; `param` is the field of the request that is at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON of the answer."""
        usual = "server_error" if self.status >= _FIRST_OF_SERVER else "invalid_request_error"
        error: dict[str, Any] = {
            "message": str(self), "type": _KINDS.get(self.status, usual), "param": self.param, "code": self.code,
        }  # fmt: skip
        return json_text({"error": error}).encode()


class ClientGoneError(Exception):
    """The client has closed its connection, so nobody waits for the answer."""


def overloaded(seconds: float, *, of: str = "texts waiting") -> RefusedError:
    """The server has enough to do, or enough `of` something else. `seconds` is how long its work will take."""
    wait = max(1, min(60, math.ceil(seconds)))
    return RefusedError(
        503,
        f"the server has as many {of} as it takes: ask again in {wait} s",
        code="overloaded",
        headers={"Retry-After": str(wait)},
    )


def ending() -> RefusedError:
    """The server was stopped."""
    return RefusedError(503, "the server is about to end: ask again in a moment", headers={"Retry-After": "5"})


def refusal_of(error: Exception, param: str | None) -> RefusedError:
    """What a client is told of an error. Where the server is at fault, it is told no more than that.

    `param` is the field of the request whose value may be at fault.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, ConfigError | EncodingError):
        return RefusedError(400, str(error), param=param)
    if isinstance(error, OutputError):
        return RefusedError(
            503, "the server cannot read its run, or the run was changed: the server must be started again"
        )
    what = "the server failed at this request"
    if isinstance(error, SoloistError):
        what = "the server cannot use this model"
    return RefusedError(500, f"{what}, and its own output says more: ask the person who runs it")
