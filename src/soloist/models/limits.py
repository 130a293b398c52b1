"""How many tokens of a text a model reads. Pure: a network's configuration and a pipeline's settings in, limits out.

soloist reads as many tokens as sentence-transformers: `processing_kwargs` go before `document_length` or
`query_length`, and those before `max_seq_length`. The loader and the planner ask the same functions: the loader about a
loaded model's settings, the planner about those in its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soloist.errors import ConfigError, ModelLoadError
from soloist.models.pipeline import Task
from soloist.models.spec import ModelSpec

# No text has as many tokens: transformers writes 10^30 where a tokenizer has no limit.
NO_LIMIT = 1_000_000_000
# Networks with a table of positions, learned or computed, which ends (tried with transformers 5.23 in
# tests/models/test_limits.py). All others go by the distance of tokens (rotary, ALiBi, relative), or have no end.
_WITH_POSITIONS = frozenset({
    "albert", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt", "blenderbot",
    "blenderbot-small", "bros", "camembert", "canine", "clip_text_model", "codegen", "convbert", "ctrl",
    "data2vec-text", "deberta", "deberta-v2", "distilbert", "dpr", "electra", "ernie", "esm", "flaubert", "fnet",
    "git", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "ibert", "imagegpt", "layoutlm", "layoutlmv2",
    "layoutlmv3", "lilt", "longformer", "luke", "lxmert", "marian", "markuplm", "mbart", "megatron-bert", "mobilebert",
    "mpnet", "mpt", "mra", "mvp", "nystromformer", "openai-gpt", "opt", "pegasus", "plbart", "prophetnet", "reformer",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "splinter", "squeezebert",
    "tipsv2_text_model", "visual_bert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
})  # fmt: skip
# These never use their first positions, up to that of the padding token.
_COUNT_BEHIND_PADDING = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
# These count the tokens of the mask, so that padding on either side shifts no position.
_COUNT_BY_THE_MASK = frozenset({"biogpt", "opt"})
_FIELDS = dict.fromkeys(
    ("codegen", "ctrl", "gpt-sw3", "gpt2", "gpt_bigcode", "gptj", "imagegpt", "openai-gpt"), "n_positions"
) | {"mpt": "max_seq_len"}
# With this value of a field, a network of these kinds has no table.
_WITHOUT_A_TABLE: Mapping[str, tuple[str, object]] = {
    "deberta": ("position_biased_input", False),
    "deberta-v2": ("position_biased_input", False),
    "esm": ("position_embedding_type", "rotary"),
}
_CUTS = (True, "longest_first", "only_first")
_DOES_NOT_CUT = (False, None, "do_not_truncate")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLimits:
    """The limits that a model's own files set; None where they set none.

    `longest` is for all texts. `document` and `query` are for texts of one task, and go before it. `keeps_end` is True
    where a static model's tokenizer cuts off the beginning of a text; the tokenizers of networks have a setting for it.
    """

    longest: int | None = None
    document: int | None = None
    query: int | None = None
    keeps_end: bool = False

    def of(self, task: Task) -> int | None:
        """The limit for texts of a task."""
        own = self.document if task == "document" else self.query
        return self.longest if own is None else own


def own_limits(name: str, max_seq_length: object, settings: Mapping[str, Any]) -> OwnLimits:
    """The limits by `max_seq_length`, as sentence-transformers has it, and by a pipeline's other settings.

    Raises:
        ModelLoadError: a limit is not a whole number of 1 or more.
    """
    called = tokenizer_settings(settings)
    if called.get("truncation", True) not in _CUTS:
        return OwnLimits()
    if called.get("max_length") is not None:
        return OwnLimits(longest=_limit(name, "max_length", called["max_length"]))
    longest = _limit(name, "max_seq_length", max_seq_length)
    if "max_length" in called:  # null takes the place of a task's limit, and the tokenizer's own remains
        return OwnLimits(longest=longest)
    return OwnLimits(
        longest=longest,
        document=_limit(name, "document_length", settings.get("document_length")),
        query=_limit(name, "query_length", settings.get("query_length")),
    )


def tokenizer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a tokenizer that `processing_kwargs` set."""
    processing = settings.get("processing_kwargs") or {}
    return {**(processing.get("text") or {}), **(processing.get("common") or {})}


def knows_truncation(value: object) -> bool:
    """Whether soloist can cut texts in this way."""
    return value in (*_CUTS, *_DOES_NOT_CUT)


def own_longest(settings: Mapping[str, Any], tokenizer: Mapping[str, Any], network: Mapping[str, Any]) -> object:
    """`max_seq_length` as sentence-transformers has it, from the files of a pipeline, a tokenizer and a network."""
    given = (settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}).get("model_max_length")
    explicit = given if given is not None else settings.get("max_seq_length")
    if explicit is not None:
        return explicit
    limit = tokenizer.get("model_max_length")
    stated = stated_positions(network)
    if stated is None or network.get("model_type") == "mpt":  # a limit that sentence-transformers does not know
        return limit
    return stated if limit is None else min(limit, stated)


def token_limit(spec: ModelSpec, task: Task, own: OwnLimits, end: int | None) -> int | None:
    """How many tokens of a text are read, special tokens and prompt included; None for all.

    `end` is the number of the network's positions. A catalogue's `max_tokens` replaces the model's own limit; only a
    shorter `query_length` stays.

    Raises:
        ConfigError: the spec's limit is beyond the network's positions.
    """
    if spec.max_tokens is not None and end is not None and spec.max_tokens > end:
        raise ConfigError(
            f"{spec.name} has {end} positions, fewer than its max_tokens of {spec.max_tokens}: lower max_tokens"
        )
    asked = own.of(task)
    if spec.max_tokens is not None:
        shorter = own.query if task == "query" and own.query is not None else spec.max_tokens
        asked = min(spec.max_tokens, shorter)
    return min((limit for limit in (asked, end) if limit is not None), default=None)


def limit_notices(spec: ModelSpec, own: OwnLimits, network: Mapping[str, Any]) -> tuple[str, ...]:
    """A notice where a model's files ask for more tokens than its network has positions."""
    end, stated = usable_positions(network), stated_positions(network)
    asked = max((limit for limit in (own.of("document"), own.of("query")) if limit is not None), default=0)
    if spec.max_tokens is not None or end is None or stated is None or asked <= stated:
        return ()
    return (f"its files ask for {asked} tokens of a text, but its network has {end} positions: it reads {end}",)


def padding_notices(side: str, network: Mapping[str, Any]) -> tuple[str, ...]:
    """A notice where padding at the left would shift the positions of a text's tokens."""
    kind = network.get("model_type")
    if side != "left" or usable_positions(network) is None or kind in _COUNT_BEHIND_PADDING | _COUNT_BY_THE_MASK:
        return ()
    return (
        "its tokenizer pads on the left, which would shift the positions that its network counts: soloist pads on the "
        "right, so every text has the vector that it has alone",
    )


def usable_positions(network: Mapping[str, Any]) -> int | None:
    """How many positions a network of transformers has for tokens; None where there is no limit."""
    kind, stated = network.get("model_type"), stated_positions(network)
    field, value = _WITHOUT_A_TABLE.get(str(kind), ("", ""))
    if stated is None or kind not in _WITH_POSITIONS or (field and network.get(field) == value):
        return None
    if kind not in _COUNT_BEHIND_PADDING:
        return stated
    padding = network.get("pad_token_id")
    return stated - 1 - (padding if isinstance(padding, int) and kind != "mpnet" else 1)


def stated_positions(network: Mapping[str, Any]) -> int | None:
    """The number of positions that a configuration states. The network may use fewer, or none."""
    stated = network.get(_FIELDS.get(str(network.get("model_type")), "max_position_embeddings"))
    return stated if isinstance(stated, int) and stated > 0 else None


def _limit(name: str, field: str, value: object) -> int | None:
    if value is None or (isinstance(value, (int, float)) and value >= NO_LIMIT):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelLoadError(
            f"{name} sets {field} to {value!r}, which is not a number of tokens: correct it in the model's files"
        )
    return value
