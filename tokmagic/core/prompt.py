"""What is asked: messages and sampling, independent of any model's chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tokmagic.errors import PromptError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the answer is drawn. ``None`` leaves a value to the model's own generation config.

    ``json_schema`` is a JSON schema, as JSON text, that the answer has to fit. With ``logprobs`` the answer comes with
    each token's log probability.
    """

    max_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    json_schema: str | None = None
    logprobs: bool = False


DRAWING = ("temperature", "top_p", "top_k", "min_p")
"""The options that say how a token is drawn from the model's probabilities; any of them asks for sampling."""
PENALTIES = ("repetition_penalty",)
"""The options that change these probabilities first, for greedy answers too."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, independent of any model's chat template.

    With ``completion`` the single message's content is fed as it stands, without a chat template. ``stream`` False asks
    a server for the whole answer at once. With ``ignore_eos`` the answer goes on to its limit of tokens, for
    measurements; with ``min_tokens`` to so many tokens at least. A stop text ends it all the same.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    completion: bool = False
    stream: bool = True
    ignore_eos: bool = False
    min_tokens: int = 0

    @property
    def utf8_bytes(self) -> int:
        """The length of its texts in UTF-8, its schema included."""
        texts = (*(message.content for message in self.messages), self.sampling.json_schema or "")
        return sum(len(text.encode("utf-8", "replace")) for text in texts)


def spelled(text: str) -> str:
    """``text`` with incomplete characters (lone surrogates), which no file and no database takes, as ``\\udce9``.

    File names that are not UTF-8 reach Python as lone surrogates, and a text may have been cut within a character.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def utf8(text: str) -> bytes:
    """A prompt's text in UTF-8. Raises PromptError for a lone surrogate, which no tokenizer and no server takes."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PromptError(
            "the prompt contains an incomplete character (a lone surrogate); fix the text where it was cut"
        ) from None
