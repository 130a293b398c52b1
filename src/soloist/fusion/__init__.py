"""From the vectors of several models to one: the plan (checked weights and dims), its fit, and the transform.

`hybrid` weighs members whose vectors cannot become one.
"""

from soloist.fusion.fitting import Fitted, Fitting, require_rows, sampled
from soloist.fusion.hybrid import HybridPlan, HybridTerm, dense_fusion, dense_weights, member_weights, plan_hybrid
from soloist.fusion.plan import FusionPlan, Member, plan_fusion, require_weights
from soloist.fusion.transform import fuse

__all__ = [
    "Fitted",
    "Fitting",
    "FusionPlan",
    "HybridPlan",
    "HybridTerm",
    "Member",
    "dense_fusion",
    "dense_weights",
    "fuse",
    "member_weights",
    "plan_fusion",
    "plan_hybrid",
    "require_rows",
    "require_weights",
    "sampled",
]
