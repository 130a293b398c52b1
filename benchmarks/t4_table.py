"""The predictions of docs/t4.md, from the code that plans.

python -m benchmarks.t4_table
"""

from __future__ import annotations

from soloist.memory.cards import CARDS
from soloist.memory.planner import memory_limit
from soloist.memory.prediction import tracer_of
from soloist.models.catalogue import BUILT_IN
from soloist.sizing.budgets import Budget, table_row
from soloist.sizing.run_plan import PlannedModel, plan_run

MODELS = ("jina-code-embeddings-1.5b", "bge-m3", "qwen3-embedding-0.6b")
LENGTHS = (128, 512, 1024, 2048, 8192)
GB = 1e9


def main() -> None:
    """Print the table as Markdown."""
    card = CARDS["T4"]
    known = []
    for name in MODELS:
        spec = BUILT_IN.get(name)
        assert spec.blueprint is not None
        tracer = tracer_of(spec.blueprint, "float16", card)
        known.append(
            PlannedModel(
                name=name,
                budget=Budget(tokens=table_row("cuda", is_static=False).tokens, source="table", device="cuda Tesla T4"),
                max_tokens=spec.max_tokens,
                weight_sizes=tracer.weights.sizes_bytes,
                tracer=tracer,
            )
        )
    exclusive = plan_run(known, "exclusive", card)
    standard = plan_run(known, "standard", card)
    limit, total = memory_limit(card) / GB, card.total_bytes / GB
    print(f"Planned with: {limit:.2f} GB of {total:.2f} GB; float16; GB is 10^9 bytes.\n")
    print("| model | tokens a row | rows exclusive | rows standard | limit | weights | peak | reserved |")
    print("|---|---|---|---|---|---|---|---|")
    for name in MODELS:
        for length in LENGTHS:
            rows, limits = exclusive.limits[name].rows(length), exclusive.limits[name]
            found = exclusive.predictors[name].predict(rows, length)
            print(
                f"| {name} | {length:,} | {rows} | {standard.limits[name].rows(length)} | {limits.reason(length)} | "
                f"{found.weights_bytes / GB:.2f} | {found.peak_bytes / GB:.2f} | {found.reserved_bytes / GB:.2f} |"
            )


if __name__ == "__main__":
    main()
