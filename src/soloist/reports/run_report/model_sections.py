"""What a report says of the models' work: rates, lengths, batches, reuse and time. Facts in, sections out."""

from __future__ import annotations

from collections.abc import Sequence

from soloist.reports.run_report.sections import Section, Table, seconds_text, share_text, shown_text, table
from soloist.reports.run_report.thinning import BARS, MODELS, SHAPES, thin_rates
from soloist.reports.run_report.values import BatchShape, RunFacts, TokenLengths, Work
from soloist.wording import count_text


def rates(facts: RunFacts) -> Section:
    """How fast each model was, shard by shard."""
    title = "Tokens per second"
    if not facts.rates:
        return Section(name="rates", title=title, text=("No shard with a rate is recorded.",))
    _, size = thin_rates(facts.rates)
    joined = f" A point stands for {size} shards in a row, at their rate together." if size > 1 else ""
    rows = [row for name in _names(facts) if (row := _rate_row(facts, name)) is not None]
    fastest = max(rows, key=lambda row: float(row[4].replace(",", "")))
    return Section(
        name="rates",
        title=title,
        text=(f"A point is a shard that was embedded. Its tokens are those of the texts, without padding.{joined}",),
        tables=(table("Rates", ("model", "shards", "tokens", "seconds", "tokens/s", "slowest", "fastest"), rows),),
        has_figure=True,
        alt=f"Rate of each shard over time, by model. The fastest model is {fastest[0]} with {fastest[4]} tokens/s.",
    )


def _rate_row(facts: RunFacts, model: str) -> tuple[str, ...] | None:
    own = [rate for rate in facts.rates if rate.model == model]
    if not own:
        return None
    tokens, seconds = sum(rate.tokens for rate in own), sum(rate.seconds for rate in own)
    each = [rate.tokens_per_second for rate in own]
    speeds = (tokens / seconds, min(each), max(each))
    return (model, f"{len(own):,}", f"{tokens:,}", f"{seconds:,.1f}", *(f"{speed:,.0f}" for speed in speeds))


def lengths(facts: RunFacts) -> Section:
    """How long the texts are in each model's tokens, and what its limit cut off."""
    title = "Token lengths, and what was cut off"
    cut = _cut_table(facts)
    if not facts.lengths:
        text = "The run has no file of vectors with token counts."
        return Section(name="lengths", title=title, text=(text,), tables=(cut,) if cut.rows else ())
    bins = [
        (found.model, f"{low:,} to {high - 1:,}", f"{count:,}", f"{count_cut:,}")
        for found in facts.lengths
        for low, high, count, count_cut in zip(
            found.edges, found.edges[1:], found.counts, found.cut_counts, strict=False
        )
    ]
    said = "; ".join(f"{found.model}: {_cut_text(found)}" for found in facts.lengths)
    return Section(
        name="lengths",
        title=title,
        text=(
            "The tokens of each text that a model read, with its prompt and special tokens. Hatched: texts that the "
            "model's limit cut. The dashed line is the limit.",
            *shown_text("models", len(facts.lengths), MODELS),
        ),
        tables=(cut, table("Texts by length", ("model", "tokens", "texts", "of them cut"), bins, most=400)),
        has_figure=True,
        alt=f"Texts by their token length, for each model. {said}.",
    )


def _cut_text(found: TokenLengths) -> str:
    return f"{found.texts_cut:,} of {count_text(found.texts, 'text')} cut, {count_text(found.tokens_cut, 'token')} lost"


def _cut_table(facts: RunFacts) -> Table:
    """What the limits cut off the present chunks: the last session of each model counted all of them."""
    last = {work.model: work for work in facts.work if work.all_tokens}
    limits = {model.name: model.max_tokens for model in facts.models}
    longest = {found.model: f"{found.longest:,}" for found in facts.lengths}
    rows = [
        (
            name, f"{limit:,}" if (limit := limits.get(name)) else "no limit", f"{work.all_tokens:,}",
            longest.get(name, "-"), f"{work.truncated_rows:,}", f"{work.truncated_tokens:,}",
        )
        for name, work in last.items()
    ]  # fmt: skip
    columns = ("model", "limit", "tokens read", "longest text", "texts cut", "tokens cut off")
    return table("What the limits cut off", columns, rows)


def batches(facts: RunFacts) -> Section:
    """The shapes of batches."""
    if not any(facts.batches.values()):
        return Section(name="batches", title="Batches", text=("No batch is recorded.",))
    budgets = {model.name: model for model in facts.models}
    rows = []
    for name, shapes in facts.batches.items():
        model = budgets.get(name)
        budget = f"{model.token_budget:,} ({model.budget_source})" if model and model.token_budget else "-"
        rows.append((name, *_batch_cells(shapes), budget))
    columns = ("model", "batches", "fewest rows", "median", "most rows", "longest", "token budget")
    frequent = [
        (name, f"{shape.rows:,}", f"{shape.padded_length:,}", f"{shape.count:,}")
        for name, shapes in facts.batches.items()
        for shape in shapes[:10]
    ]
    most = SHAPES // max(1, min(MODELS, len(facts.batches)))
    count = sum(shape.count for shapes in facts.batches.values() for shape in shapes)
    return Section(
        name="batches",
        title="Batches",
        text=(
            "A circle is a shape of batches. The larger the circle, the more such batches. Where a line is "
            "drawn, it is the token budget.",
            *shown_text("models", len(facts.batches), MODELS),
            *(line for shapes in facts.batches.values() for line in shown_text("shapes", len(shapes), most)),
        ),
        tables=(
            table("Batches", columns, rows),
            table("The most frequent shapes", ("model", "rows", "padded length", "batches"), frequent),
        ),
        has_figure=True,
        alt=f"Rows and padded lengths of all batches, by model. There were {count:,} in all.",
    )


def _batch_cells(shapes: Sequence[BatchShape]) -> tuple[str, ...]:
    if not shapes:
        return "0", "-", "-", "-", "-"
    rows = [shape.rows for shape in shapes]
    count = sum(shape.count for shape in shapes)
    longest = max(shape.padded_length for shape in shapes)
    return f"{count:,}", f"{min(rows):,}", f"{_median_rows(shapes):,}", f"{max(rows):,}", f"{longest:,}"


def _median_rows(shapes: Sequence[BatchShape]) -> int:
    """The median of the rows of batches; if two are in the middle, the smaller one."""
    left = (sum(shape.count for shape in shapes) - 1) // 2
    for shape in sorted(shapes, key=lambda shape: shape.rows):
        left -= shape.count
        if left < 0:
            return shape.rows
    return 0


def padding(facts: RunFacts) -> Section:
    """What devices computed beside the tokens of the texts."""
    sums = {name: _sum(facts, name) for name in _names(facts)}
    rows = [
        (name, f"{work.tokens:,}", f"{work.padded_tokens - work.tokens:,}",
         share_text(work.padded_tokens - work.tokens, work.padded_tokens))
        for name, work in sums.items()
        if work.padded_tokens
    ]  # fmt: skip
    if not rows:
        return Section(name="padding", title="Padding", text=("No computed batch is recorded.",))
    said = ", ".join(f"{row[0]} {row[3]}" for row in rows)
    return Section(
        name="padding",
        title="Padding",
        text=(
            "What devices computed: tokens of texts, and padding beside shorter texts of a batch.",
            *shown_text("models", len(rows), BARS),
        ),
        tables=(table("Padding", ("model", "tokens of texts", "padding", "share of padding"), rows),),
        has_figure=True,
        alt=f"Tokens and padding by model. Share of padding: {said}.",
    )


def work(facts: RunFacts) -> Section:
    """Which chunks were embedded, and which have vectors that were there."""
    columns = ("session", "model", "embedded", "repeated", "reused", "from other runs", "kept", "computed again")
    rows = [
        (str(part.session), part.model, *(f"{n:,}" for n in (part.embedded, part.repeated, part.reused)),
         *(f"{n:,}" for n in (part.from_others, part.kept, part.recomputed)))
        for part in facts.work
    ]  # fmt: skip
    if not rows:
        return Section(name="work", title="Repeats and reuse", text=("No work on chunks is recorded.",))
    devices = [
        (str(part.session), part.model, device, f"{count:,}", share_text(count, part.embedded))
        for part in facts.work
        for device, count in part.rows_per_device.items()
    ]
    embedded = sum(part.embedded for part in facts.work)
    shared = table("Chunks by device", ("session", "model", "device", "chunks", "share"), devices)
    return Section(
        name="work",
        title="Repeats and reuse",
        text=(
            "Embedded: went through the model. Repeated: the text of another chunk. Reused: a vector from an earlier "
            "state of the run, or from another run. Kept: finished by an earlier session. Computed again: in float32, "
            "because a vector was zero or not finite.",
            *shown_text("rows", len(rows), BARS),
        ),
        tables=(table("Chunks by session and model", columns, rows), *([shared] if devices else [])),
        has_figure=True,
        alt=f"Chunks by what became of them, for each session and model. {embedded:,} were embedded.",
    )


def phases(facts: RunFacts) -> Section:
    """Where the time went."""
    title = "Time by phase"
    if not facts.phases:
        return Section(name="phases", title=title, text=("No phase is recorded.",))
    models = [name for name in _names(facts) if any(name in phase.by_model for phase in facts.phases)]
    rows = [
        (phase.name, seconds_text(phase.seconds), *(
            seconds_text(phase.by_model[name]) if name in phase.by_model else "-" for name in models))
        for phase in facts.phases
    ]  # fmt: skip
    longest = max(facts.phases, key=lambda phase: phase.seconds)
    return Section(
        name="phases",
        title=title,
        text=(
            f"Phases overlap, so together they may take more than the {seconds_text(facts.seconds)} of the sessions.",
            "Hand-over: from a model's last vector to the next model's first batch. Reading: the input, and the run's "
            "own shards for each model.",
        ),
        tables=(table("Time by phase", ("phase", "all", *models), rows),),
        has_figure=True,
        alt=f"Seconds of each phase. The longest is {longest.name} with {seconds_text(longest.seconds)}.",
    )


def _names(facts: RunFacts) -> list[str]:
    """The models of the run, and models that only events name."""
    return list(dict.fromkeys([*facts.names, *(part.model for part in facts.work)]))


def _sum(facts: RunFacts, model: str) -> Work:
    own = [part for part in facts.work if part.model == model]
    return Work(
        session=0, model=model, tokens=sum(part.tokens for part in own),
        padded_tokens=sum(part.padded_tokens for part in own),
    )  # fmt: skip
