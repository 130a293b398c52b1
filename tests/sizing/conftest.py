"""The engine's usual config, which these tests change."""

from __future__ import annotations

import pytest
from support.collections import config_below

from soloist.config import RunConfig


@pytest.fixture
def config(tmp_path, tiny_models) -> RunConfig:
    """Two tiny models on two roomy simulated devices."""
    return config_below(tmp_path, tiny_models)
