"""How much of an answer is taken in, so that no server can fill this machine's memory."""

from __future__ import annotations

from dataclasses import dataclass
from sys import getsizeof

from tokmagic.core.prompt import Sampling
from tokmagic.core.stream import Token
from tokmagic.errors import EndpointError

_MIB = 2**20
# Beyond so many tokens nothing more is granted.
_MOST_TOKENS = 2_000_000
# What Python needs for a piece of an answer and for a log probability, and how often a text is there when it is joined.
_PIECE_BYTES, _LOGPROB_BYTES, _TEXT_COPIES = 110, 170, 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What an answer may take: far more than any honest one of so many tokens, reasoning included.

    ``body_bytes`` are those of one JSON text, an event of a stream or a whole answer, ``values`` how many values it may
    have, ``kept_bytes`` what the whole answer may take in memory.
    """

    body_bytes: int
    values: int
    kept_bytes: int

    @classmethod
    def of(cls, sampling: Sampling) -> Limits:
        """The limits of a run that asks for so much."""
        tokens = min(sampling.max_tokens * sampling.n, _MOST_TOKENS)
        body, values, kept = (576, 48, 4096) if sampling.logprobs else (64, 8, 1024)
        return cls(2 * _MIB + body * tokens, 250_000 + values * tokens, 24 * _MIB + kept * tokens)

    def too_long(self) -> EndpointError:
        """What is said of a text that is longer."""
        return EndpointError(f"it sent more than {self.body_bytes // _MIB} MiB; no answer is that long")

    def check_values(self, text: str) -> None:
        """Raise EndpointError for JSON that would become too many objects."""
        if sum(map(text.count, "[{,")) > self.values:
            raise EndpointError(f"it sent JSON of more than {self.values:,} values; no answer has that many")


def kept_bytes(token: Token, call: str) -> int:
    """About how many bytes a piece of an answer, with a ``call`` of tools, takes until the run has ended."""
    texts = getsizeof(token.text) + getsizeof(token.reasoning) + getsizeof(call) - 3 * getsizeof("")
    return _PIECE_BYTES + _TEXT_COPIES * texts + _LOGPROB_BYTES * len(token.logprobs)
