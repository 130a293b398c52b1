"""From the vectors of several models to one: the plan (checked weights and dims), its fit, and the transform."""

from soloist.fusion.fitting import Fitted, Fitting, require_rows, sampled
from soloist.fusion.plan import FusionPlan, Member, plan_fusion, require_weights
from soloist.fusion.transform import fuse

__all__ = [
    "Fitted",
    "Fitting",
    "FusionPlan",
    "Member",
    "fuse",
    "plan_fusion",
    "require_rows",
    "require_weights",
    "sampled",
]
