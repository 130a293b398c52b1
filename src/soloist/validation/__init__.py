"""The validation plan's scenarios and its checklist as code: what is claimed, and what was seen of it."""

from soloist.validation.checks import CHECKS, CheckResult, judge
from soloist.validation.evidence import Evidence
from soloist.validation.outcome import Validation
from soloist.validation.readings import Verdict
from soloist.validation.rehearsal import rehearse

__all__ = ["CHECKS", "CheckResult", "Evidence", "Validation", "Verdict", "judge", "rehearse"]
