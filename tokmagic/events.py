"""The types of prompts, streams, money, budgets and runs, to import by name: ``from tokmagic.events import Rates``."""

from tokmagic.core.budget import Admission, Budget, Hold, Scope, Standing
from tokmagic.core.money import Bound, Cost, Precision, Rates, Tier, Uncertainty
from tokmagic.core.prompt import Message, Prompt, Role, Sampling
from tokmagic.core.record import CacheStatus, EngineInfo, Reading, RunRecord, Selection, Status, Sum
from tokmagic.core.stream import Event, Finished, FinishReason, Logprob, Source, Started, Token, Usage

Totals = Sum
"""The earlier name of a sum over a notebook's or a day's runs."""

__all__ = [
    "Admission",
    "Bound",
    "Budget",
    "CacheStatus",
    "Cost",
    "EngineInfo",
    "Event",
    "FinishReason",
    "Finished",
    "Hold",
    "Logprob",
    "Message",
    "Precision",
    "Prompt",
    "Rates",
    "Reading",
    "Role",
    "RunRecord",
    "Sampling",
    "Scope",
    "Selection",
    "Source",
    "Standing",
    "Started",
    "Status",
    "Sum",
    "Tier",
    "Token",
    "Uncertainty",
    "Usage",
]
