"""Counts of this process' own for a model that runs elsewhere: exact with its tokenizer, else estimated."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child, whole
from tokmagic.core.prompt import Prompt
from tokmagic.core.stream import Source, Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.endpoint.plausible import implausible, least_tokens, made_up
from tokmagic.engines.endpoint.reports import Reports
from tokmagic.engines.endpoint.usage import read_usages
from tokmagic.engines.local.store import locate, pull_tokenizer
from tokmagic.errors import ModelError, PromptError, TokmagicError
from tokmagic.formatting.numbers import counted
from tokmagic.tokens import encodings
from tokmagic.tokens.arriving import ByPieces, ByTokenizer
from tokmagic.tokens.tokenizer import Tokenizer, rough_count, rough_count_text

if TYPE_CHECKING:
    from tiktoken import Encoding


class Counter:
    """Counts for one model at an endpoint."""

    def __init__(self, name: str, spec: ModelSpec, settings: TokMagic) -> None:
        self._name = name
        self._spec = spec
        self._settings = settings
        self._tokenizer: Tokenizer | None = None
        self._encoding: Encoding | None = None
        self._sought = False
        self._seeking = threading.RLock()
        in_child(self._renew)

    def _renew(self) -> None:
        self._seeking = threading.RLock()

    @property
    def sha256(self) -> str | None:
        """The tokenizer's digest, once it is loaded."""
        return self._tokenizer.sha256 if self._tokenizer is not None else None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that was named, else that of a model of the same name on this machine. Raises ModelError."""
        with self._seeking:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer(self._folder())
            return self._tokenizer

    def _folder(self) -> Path:
        named = self._spec.of_tokenizer
        if named is not None:
            return pull_tokenizer(named, self._settings, lambda _doing, _share: None)
        if (located := locate(ModelSpec(self._spec.source), self._settings)) is not None:
            return located.folder
        raise ModelError(f"the tokenizer of {self._spec.source} is not on this machine")

    def count(self, prompt: Prompt) -> int:
        """Return the input tokens exactly as the model's own tokenizer and template make them.

        Raises PromptError, and ModelError where they are not known: of OpenAI's chats the format is not public.
        """
        tokens, source = self.input(prompt, load=True)
        if source == "counted":
            return tokens
        if self._encoding is not None:
            raise ModelError(f"the chat format of {self._name} is not public, so its tokens can only be estimated")
        raise ModelError(
            f"the tokenizer of {self._spec.source} is not on this machine, so tokens of {self._name} cannot be counted "
            "exactly; name one with %model add … --tokenizer FOLDER-or-ID"
        )

    def input(self, prompt: Prompt, *, load: bool) -> tuple[int, Source]:
        """The input tokens, ``counted`` or ``estimated``; without ``load`` no tokenizer is read for it.

        Raises PromptError.
        """
        tokens, source = self._messages(prompt, load=load)
        if prompt.sampling.json_schema is None:
            return tokens, source
        # Servers count the schema, too, in a form that they do not tell.
        return tokens + rough_count_text(prompt.sampling.json_schema), "estimated"

    def _messages(self, prompt: Prompt, *, load: bool) -> tuple[int, Source]:
        if load:
            self._seek()
        if self._tokenizer is not None:
            # A template that refuses what the server takes is not the server's.
            with suppress(PromptError):
                return len(self._tokenizer.encode(prompt)), "counted"
        if self._encoding is not None:
            return encodings.count(self._encoding, prompt)
        return rough_count(prompt), "estimated"

    def arriving(self) -> ByPieces | ByTokenizer:
        """A count of a text that begins to arrive."""
        return ByPieces() if self._tokenizer is None else ByTokenizer(self._tokenizer.count_text)

    def output(self, texts: list[str]) -> int | None:
        """The tokens of answers by their text: an estimate even with the tokenizer, since ends are not in it.

        None where nothing better is known than how their pieces came.
        """
        if self._tokenizer is not None:
            return sum(map(self._tokenizer.count_text, texts))
        if self._encoding is not None:
            clean = (text.encode("utf-8", "replace").decode() for text in texts)
            with suppress(PromptError):  # a run of blanks that tiktoken cannot split
                return sum(len(encodings.encode(self._encoding, text)) for text in clean)
        return None

    def _seek(self) -> None:
        """Look for a tokenizer or an encoding, once; whoever asks meanwhile waits for what is found."""
        if self._sought:
            return
        with whole(), self._seeking:
            if self._sought:
                return
            try:
                self.tokenizer()
            except (TokmagicError, ImportError):
                if self._spec.tokenizer is None:
                    with suppress(TokmagicError):
                        self._encoding = encodings.openai_encoding(self._spec.source)
            self._sought = True  # only now: an interrupted search begins anew


@dataclass
class Tally:
    """What arrived of one run, and the counts that follow from it."""

    counter: Counter
    prompt: Prompt
    most_output: int
    answer_bytes: int = 0
    """The answer's length in UTF-8, reasoning included."""
    anomaly: str | None = None
    unsure: bool = False
    """Whether the server may bill more than ``final`` says."""
    _told_at: int = 0
    """Our own count of the output when the server gave its last one."""
    _more: bool = False
    """Whether anything arrived after that."""

    def __post_init__(self) -> None:
        tokens, source = self.counter.input(self.prompt, load=False)
        self._asked = Usage(input_tokens=tokens, input_source=source)
        self._said: list[list[str]] = [[] for _ in range(self.prompt.sampling.n)]
        self._arriving = [self.counter.arriving() for _ in self._said]
        self.reports = Reports(self.prompt.sampling.n)

    def take(self, choice: int, text: str) -> None:
        """More of a choice arrived, its reasoning included; it may be one beyond those that were asked for."""
        for _ in range(choice + 1 - len(self._said)):
            self._said.append([])
            self._arriving.append(self.counter.arriving())
        self._said[choice].append(text)
        self._arriving[choice].take(text)
        self._more = True
        self.answer_bytes += len(text.encode("utf-8", "replace"))

    def report(self, usages: Sequence[object], choice: int | None, *, final: bool, alone: bool = False) -> None:
        """The server gave its counts, of one answer or of the run, or something that cannot be.

        ``alone``: they are surely of no other answer, too.
        """
        self.reports.take(read_usages(usages), choice, final=final, alone=alone)
        usage = self._reported()
        if usage is not None and usage.output_tokens is not None:
            self._told_at, self._more = self._own, False

    def so_far(self) -> Usage:
        """The counts at this moment: the server's where it gives them, else estimated from what arrived."""
        usage = self._reported() or Usage()
        if usage.input_tokens is None:
            asked = self._asked
            usage = replace(usage, input_tokens=asked.input_tokens, input_source=asked.input_source)
        if usage.output_tokens is None:
            return replace(usage, output_tokens=self._own, output_source="estimated")
        tokens = usage.output_tokens + self._since
        if not self.reports.covers(self._spoken):
            tokens = max(tokens, self._own)  # it is of some of the answers
        return (
            usage if tokens == usage.output_tokens else replace(usage, output_tokens=tokens, output_source="estimated")
        )

    @property
    def begun(self) -> bool:
        """Whether anything of an answer arrived."""
        return any(self._said)

    @property
    def _own(self) -> int:
        """What arrived, in tokens, as far as it can be known here before the end."""
        return sum(it.tokens for it in self._arriving)

    @property
    def _since(self) -> int:
        """What arrived after the server's last count."""
        return max(1, self._own - self._told_at) if self._more else 0

    def final(self, *, whole: bool) -> Usage:
        """The counts at the end. What the server did not report is counted here, or estimated; never 0 for a text.

        Where more came after the server's count, or a stream was cut off, that count is of an earlier moment, and the
        larger one of both holds; so it does where it is of one of several answers.
        """
        texts = ["".join(said) for said in self._said]
        usage = self._reported() or Usage()
        self.anomaly, self.unsure = self.reports.anomaly, self.reports.unsure
        if usage.input_tokens is None:
            tokens, source = self.counter.input(self.prompt, load=True)
            usage = replace(usage, input_tokens=tokens, input_source=source)
        if self.reports.missing(self._spoken):
            return self._completed(usage, texts)
        early = usage.output_tokens is None or not whole or self._more
        if early or len(texts) > 1:
            usage = self._larger(usage, texts, early=early)
        return usage

    def judge(self, usage: Usage, local_input_tokens: int | None) -> None:
        """Note what is odd about the counts at the end, in view of what was asked and answered."""
        asked = [message.content for message in self.prompt.messages]
        answered = ["".join(said) for said in self._said]
        told = made_up(usage, local_input_tokens, asked, answered)
        odd = implausible(usage, self.prompt.utf8_bytes, self.answer_bytes, self.most_output)
        more = f"the server sent {counted(self.unasked, 'answer')} that were not asked for" if self.unasked else None
        self.anomaly = "; ".join(filter(None, (self.anomaly or odd or told.anomaly, more))) or None
        self.unsure = self.unsure or told.unsure

    def local_input_tokens(self) -> int | None:
        """This process' own exact count of the prompt; None without the model's tokenizer."""
        tokens, source = self.counter.input(self.prompt, load=True)
        return tokens if source == "counted" else None

    @property
    def unasked(self) -> int:
        """How many answers came beyond those that were asked for."""
        return len(self._said) - self.prompt.sampling.n

    def spoke(self, choice: int) -> bool:
        """Whether anything of a choice arrived."""
        return bool(self._said[choice])

    @property
    def _spoken(self) -> set[int]:
        return {choice for choice, said in enumerate(self._said) if said}

    def _reported(self) -> Usage | None:
        return self.reports.usage(self._spoken)

    def _larger(self, usage: Usage, texts: list[str], *, early: bool) -> Usage:
        """The server's output or our own, whichever is larger. Ours is an estimate."""
        reported, guessed = usage.output_tokens, self.counter.output(texts)
        tokens = self._own if guessed is None else guessed
        if reported is None:
            return replace(usage, output_tokens=tokens, output_source="estimated")
        # A count of all answers that came at their end only yields to what is surely more.
        if not early and guessed is None:
            tokens = self._least(texts)
        if tokens <= reported:
            return usage
        if not early:
            shown = counted(reported, "output token")
            self.anomaly = f"the server reports {shown} for {len(texts)} answers of at least {tokens:,}"
        return replace(usage, output_tokens=tokens, output_source="estimated")

    def _completed(self, usage: Usage, texts: list[str]) -> Usage:
        """A usage of some of the answers, with our own count of the others: an estimate."""
        missing = self.reports.missing(self._spoken)
        others = [texts[choice] for choice in missing]
        guessed, reported = self.counter.output(others), usage.output_tokens or 0
        tokens = sum(self._arriving[choice].tokens for choice in missing) if guessed is None else guessed
        spoken = len(self._spoken)
        of = f"{spoken - len(missing)} of {spoken} answers"
        self.anomaly = f"the server reports {counted(reported, 'output token')} for {of}"
        return replace(usage, output_tokens=reported + tokens, output_source="estimated")

    def _least(self, texts: list[str]) -> int:
        """Fewer tokens than there were. A streamed piece holds at least one, but for proxies that cut to any size."""
        pieces = sum(map(len, self._said)) if self.prompt.stream else 0
        return max(min(pieces, sum(map(rough_count_text, texts))), sum(map(least_tokens, texts)))
