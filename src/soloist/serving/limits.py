"""How much a server takes on. Values only."""

from __future__ import annotations

from dataclasses import dataclass, fields

from soloist.errors import ConfigError

_MAY_BE_0 = frozenset({"window_seconds", "finish_seconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a server. The bounds of a request are those of OpenAI where OpenAI has one.

    Args:
        body_bytes: of a request.
        texts: of a request.
        text_characters: of one text.
        tokens: of a request, as the model reads them.
        hits: that a search may ask for.
        waiting_texts: of all requests together; further ones are refused until some are answered.
        waiting_characters: of these texts.
        connections: that are open at the same time.
        turn_characters: of the texts that go through a model together, for each core.
        turns: that are in work at the same time: one is computed while the other's answers are written.
        window_seconds: how long a question waits for others, where others came lately.
        receive_seconds: within which a request must have arrived.
        send_seconds: within which a client must take 256 KiB more of its answer, or the rest.
        finish_seconds: within which a server that is stopped finishes its requests.
    """

    body_bytes: int = 4 << 20
    texts: int = 2_048
    text_characters: int = 1 << 17
    tokens: int = 300_000
    hits: int = 1_000
    waiting_texts: int = 4_096
    waiting_characters: int = 16 << 20
    connections: int = 512
    turn_characters: int = 1_024
    turns: int = 2
    window_seconds: float = 0.002
    receive_seconds: float = 20.0
    send_seconds: float = 30.0
    finish_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuse a bound that lets nothing through.

        Raises:
            ConfigError: there is one.
        """
        for name, value in ((each.name, getattr(self, each.name)) for each in fields(self)):
            if not (value > 0 or (value == 0 and name in _MAY_BE_0)):
                raise ConfigError(f"the limit {name} is {value}, so no question would be answered: give a higher one")
