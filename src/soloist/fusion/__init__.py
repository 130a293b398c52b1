"""From the vectors of several models to one: the plan (checked weights and dims) and the transform."""

from soloist.fusion.plan import FusionPlan, Member, plan_fusion, require_weights
from soloist.fusion.transform import fuse

__all__ = ["FusionPlan", "Member", "fuse", "plan_fusion", "require_weights"]
