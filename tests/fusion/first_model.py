"""A fusion for the test that adds one: the vectors of the first model alone."""

from __future__ import annotations

from soloist.fusion.rule import Dims, FixedRule


def _settle(dim, used):
    return Dims(kept=None, fused=used[0].dim, notices=(f"only {used[0].name} is searched",))


def _first(plan, vectors, ids):
    return vectors[0].copy()


RULE = FixedRule(settle=_settle, fuse=_first)
