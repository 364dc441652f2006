"""Would transformers make the same ids of a tokenizer's folder? Many servers count that way."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from tokmagic.core.prompt import Message, Prompt
from tokmagic.formatting.numbers import counted
from tokmagic.tokens.tokenizer import Tokenizer
from tokmagic.tokens.vocabularies import by_transformers

SAMPLES = (
    "Steps:\n\n1. one\n\n2. two\n\n3. three",
    "| item | 2025 | 2026 |\n|---|---|---|\n| GPU | 1,234.50 |  987.00 |",
    '{\n  "id": 1234567,\n  "price": 0.05,\n  "tags": ["a", "b"]\n}',
    "def f(x):\n    if x > 10:\n\treturn x ** 2\n",
    "  two  blanks   three\t\ttabs \n \n\n ends ",
    "It's we'LL don’t, naïve façade e\u0301",
    "预算上限是每天３元。東京は晴れです。",
    "👩‍🚀 🇵🇹 ½ ² ٣ Ⅷ",
    "https://example.org/a_b-c?d=1&e=%20#f",
)
"""Texts of the kinds on which readers differ."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What came of the comparison. ``agrees`` is None where transformers cannot read the folder."""

    agrees: bool | None
    told: str


def compare(tokenizer: Tokenizer) -> Agreement | None:
    """Compare ids of ``SAMPLES``, as texts and as a chat; None where transformers is not installed.

    Imports transformers, which takes seconds the first time. Raises nothing.
    """
    try:
        name = f"transformers {importlib.metadata.version('transformers')}"
    except importlib.metadata.PackageNotFoundError:
        return None
    try:
        theirs = by_transformers.load(tokenizer.folder, trust_remote_code=tokenizer.trust_remote_code)
        pairs = _pairs(tokenizer, theirs)
    except Exception as error:
        # transformers raises many types, and this is for information alone.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Agreement(None, f"{name} cannot read it: {reason}")
    differing = sum(ours != other for ours, other in pairs)
    if not differing:
        return Agreement(True, f"{name} makes the same ids")
    here, there = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    many = f"{name} makes other ids of {differing} of {counted(len(pairs), 'sample')}"
    return Agreement(False, f"{many}: {counted(there, 'token')}, {here:,} here")


def _pairs(tokenizer: Tokenizer, theirs: Any) -> list[tuple[list[int], list[int]]]:
    """Each sample's ids here and there."""
    pairs = [
        (list(tokenizer.encode(Prompt((Message("user", text),), completion=True))), list(theirs(text)["input_ids"]))
        for text in SAMPLES
    ]
    if theirs.chat_template:
        content = "\n\n".join(SAMPLES)
        chat = [{"role": "user", "content": content}]
        ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        pairs.append((list(tokenizer.encode(Prompt((Message("user", content),)))), list(ids)))
    return pairs
