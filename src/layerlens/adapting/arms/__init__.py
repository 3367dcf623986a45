"""What a plan is compared with: `names.py` says what each arm is, `run.py` runs one."""

from layerlens.adapting.arms.full import all_trainable
from layerlens.adapting.arms.names import ArmName
from layerlens.adapting.arms.ranks import CUSTOMARY_RANK, CUSTOMARY_ROLES, customary_ranks, with_ranks
from layerlens.adapting.arms.refused import why_refused
from layerlens.adapting.arms.run import run_arm

__all__ = [
    "CUSTOMARY_RANK",
    "CUSTOMARY_ROLES",
    "ArmName",
    "all_trainable",
    "customary_ranks",
    "run_arm",
    "why_refused",
    "with_ranks",
]
