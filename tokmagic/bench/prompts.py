"""Prompts of an exact number of tokens, each different from its first word on, so that no prefix cache knows them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from tokmagic.bench.plan import Plan
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import Engine, Tokenized
from tokmagic.errors import ModelError, PromptError, UsageError
from tokmagic.tokens.tokenizer import Tokenizer

_WANTED_WORDS = 400
_TRIED_IDS = 40_000
_LEAST_WORDS = 20
_ATTEMPTS = 50
# Where no tokenizer is known here, or one that knows no words: common, so that each is one token for nearly all, and
# some of them short.
_COMMON = [
    *("a", "by", "the", "with"),
    *("water", "house", "light", "stone", "river", "table", "paper", "green", "music", "window", "garden", "summer"),
    *("winter", "forest", "bread", "letter", "silver", "mountain", "market", "bridge", "morning", "evening", "kitchen"),
]


class Prompts:
    """Makes the prompts of a bench."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        """Reads the model's tokenizer where it can be had. Raises UsageError for fewer tokens than its template has."""
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._tokenizer = _tokenizer(engine)
        self._words = _COMMON if self._tokenizer is None else _one_token_words(self._tokenizer, self._random)
        self._completion = self._tokenizer is not None and not _takes_chats(self._tokenizer)
        self._prefix = self._draw(plan.shared_prefix)
        self._made: set[str] = set()
        self._sizes: dict[str, int] = {}
        if self._tokenizer is not None and (least := self._count([self._words[0]])) > plan.prompt_tokens:
            raise UsageError(
                f"--prompt-tokens is {plan.prompt_tokens:,}, and the shortest prompt of this model has {least:,} with "
                "its chat template; give more"
            )

    @property
    def exact(self) -> bool:
        """Whether prompts have exactly as many tokens as asked for, by the model's own tokenizer."""
        return self._tokenizer is not None

    def __iter__(self) -> Iterator[Prompt]:
        """Prompts without end, no two the same. Raises UsageError where there are no more of that length."""
        while True:
            yield self._prompt(self._new())

    def _new(self) -> list[str]:
        for _ in range(_ATTEMPTS):
            words = self._fitted()
            text = " ".join(words)
            if text not in self._made:
                self._made.add(text)
                return words
        raise UsageError(
            f"there are too few different prompts of {self._plan.prompt_tokens:,} tokens; raise --prompt-tokens"
        )

    def _fitted(self) -> list[str]:
        """Words that make a prompt of the wanted length."""
        wanted = self._plan.prompt_tokens
        words = [*self._prefix, *self._draw(max(1, wanted - len(self._prefix)))]
        if self._tokenizer is None:
            return words
        for _ in range(_ATTEMPTS):
            over = self._count(words) - wanted
            if over == 0:
                return words
            spare = -over
            while spare < self._least and len(words) > len(self._prefix):
                spare += self._tokens_of(words.pop())
            words += self._filling(spare) or self._draw(1)
        beside = f" after a shared prefix of {len(self._prefix):,}" if self._prefix else ""
        raise UsageError(
            f"no prompt of exactly {wanted:,} tokens{beside} can be made for this model; change --prompt-tokens"
        )

    def _filling(self, tokens: int) -> list[str]:
        """Words that come to so many tokens, or to a few less."""
        found: list[str] = []
        while tokens >= self._least:
            word = self._random.choice(self._words)
            if self._tokens_of(word) > tokens:
                word = self._random.choice(self._shortest)
            found.append(word)
            tokens -= self._tokens_of(word)
        return found

    @cached_property
    def _least(self) -> int:
        """The fewest tokens that a word has."""
        return min(map(self._tokens_of, self._words))

    @cached_property
    def _shortest(self) -> list[str]:
        return [word for word in self._words if self._tokens_of(word) == self._least]

    def _tokens_of(self, word: str) -> int:
        """The tokens of a word after another one, by itself."""
        assert self._tokenizer is not None
        if word not in self._sizes:
            self._sizes[word] = max(1, self._tokenizer.count_text(f"a {word}") - self._tokenizer.count_text("a"))
        return self._sizes[word]

    def _draw(self, count: int) -> list[str]:
        return self._random.choices(self._words, k=count)

    def _prompt(self, words: list[str]) -> Prompt:
        plan = self._plan
        message = Message("user", " ".join(words))
        made = Prompt((message,), plan.sampling, completion=self._completion)
        return replace(made, ignore_eos=plan.ignore_eos)

    def _count(self, words: list[str]) -> int:
        assert self._tokenizer is not None
        return self._tokenizer.count(self._prompt(words))


def _tokenizer(engine: Engine) -> Tokenizer | None:
    if not isinstance(engine, Tokenized):
        return None
    try:
        return engine.tokenizer()
    except ModelError:
        if engine.info.traits.remote:  # the model of a server need not be known here
            return None
        raise


def _takes_chats(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.text(Prompt((Message("user", "a"),)))
    except PromptError:
        return False
    return True


def _one_token_words(tokenizer: Tokenizer, chance: random.Random) -> list[str]:
    """Words of the vocabulary that are one token each where a space stands before them."""
    found: list[str] = []
    for number in chance.sample(range(_TRIED_IDS), _TRIED_IDS):
        word = _word(tokenizer.token_bytes(number))
        if word is not None and tokenizer.text_ids(f"a {word}")[1:] == [number]:
            found.append(word)
            if len(found) == _WANTED_WORDS:
                break
    # Some vocabularies have hardly any; then words of several tokens are fitted one by one.
    return found if len(found) >= _LEAST_WORDS else _COMMON


def _word(spelled: bytes | None) -> str | None:
    if spelled is None or not spelled.startswith(b" ") or not spelled[1:].isalpha() or not spelled.islower():
        return None
    return spelled[1:].decode("ascii", "ignore") if spelled.isascii() and len(spelled) > 3 else None
