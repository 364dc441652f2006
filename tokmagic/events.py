"""The types of prompts, streams, rates, costs and runs, to import by name: ``from tokmagic.events import Rates``."""

from tokmagic.core.money import Cost, Rates, Tier
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, Reading, RunRecord
from tokmagic.core.stream import Event, Finished, Logprob, Started, Token, Usage

__all__ = [
    "Cost",
    "EngineInfo",
    "Event",
    "Finished",
    "Logprob",
    "Message",
    "Prompt",
    "Rates",
    "Reading",
    "RunRecord",
    "Sampling",
    "Started",
    "Tier",
    "Token",
    "Usage",
]
