"""The run engine: a plan of passes, and the one loop that works it off."""

from soloist.engine.result import ModelReport, RunResult
from soloist.engine.run import run

__all__ = ["ModelReport", "RunResult", "run"]
