"""One answer while it is generated: its text, its stop strings, and its tokens handed on."""

from __future__ import annotations

from tokmagic.core.stream import FinishReason, Logprob, Token
from tokmagic.engines.local.stream import LocalStream
from tokmagic.engines.stops import StopFilter
from tokmagic.tokens.tokenizer import Decoder


class Answer:
    """Choice number ``choice`` of a run; it ends with an id in ``eos``, or at one of the strings ``stop``."""

    def __init__(
        self, stream: LocalStream, choice: int, decoder: Decoder, eos: frozenset[int], stop: tuple[str, ...]
    ) -> None:
        self._stream = stream
        self._choice = choice
        self._decoder = decoder
        self._eos = eos
        self._stop = StopFilter(stop)
        self.tokens = 0
        self.is_over = False

    def take(self, token_id: int, at_ns: int, logprob: float | None) -> None:
        """Hand on a token that was known at ``at_ns``."""
        text = self._decoder.push(token_id)
        piece = self._stop.push(text)
        self.tokens += 1
        logprobs = () if logprob is None else (Logprob(text, logprob),)
        self._stream.put(Token(at_ns, piece, token_id, self._choice, logprobs=logprobs))
        self.is_over = token_id in self._eos or self._stop.stopped

    def end(self, *, interrupted: bool) -> tuple[str, FinishReason]:
        """Return what text is left, and why the answer ended."""
        rest = self._stop.push(self._decoder.flush()) + self._stop.flush()
        return rest, "stop" if self.is_over else "interrupted" if interrupted else "length"
