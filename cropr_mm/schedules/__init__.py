"""Schedules: how many patch tokens remain after each block."""

from cropr_mm.schedules.at_progress import AtProgress
from cropr_mm.schedules.base import Schedule, ScheduleSettings
from cropr_mm.schedules.constant_rate import ConstantRate
from cropr_mm.schedules.discs import Discs, ShrinkingDiscs
from cropr_mm.schedules.explicit_shares import ExplicitShares
from cropr_mm.schedules.explicit_tokens import ExplicitTokens
from cropr_mm.schedules.inflected_rate import InflectedRate
from cropr_mm.schedules.keep_ratios import KeepRatios
from cropr_mm.schedules.stages import Stages
from cropr_mm.schedules.window_stages import WindowStages

__all__ = [
    "AtProgress",
    "ConstantRate",
    "Discs",
    "ExplicitShares",
    "ExplicitTokens",
    "InflectedRate",
    "KeepRatios",
    "Schedule",
    "ScheduleSettings",
    "ShrinkingDiscs",
    "Stages",
    "WindowStages",
]
