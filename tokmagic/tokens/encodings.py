"""OpenAI's encodings, by tiktoken: the only place that knows it.

tiktoken fetches an encoding's file when it is first asked for one, and anew where the file it has does not match. Here
nothing is ever fetched: an encoding whose file is not on this machine, whole, is refused with what to do about it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tokmagic.core.prompt import Message, Prompt, utf8
from tokmagic.core.stream import Source
from tokmagic.errors import ModelError, PromptError

if TYPE_CHECKING:
    from tiktoken import Encoding

_AT = "https://openaipublic.blob.core.windows.net/"
_P50K = ("encodings/p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069")
_O200K = ("encodings/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
# What tiktoken asks for: the file's address and its SHA-256, as in tiktoken_ext/openai_public.py (0.14).
_FILES: dict[str, tuple[tuple[str, str], ...]] = {
    "gpt2": (
        ("gpt-2/encodings/main/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        ("gpt-2/encodings/main/encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    ),
    "r50k_base": (
        ("encodings/r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"),
    ),
    "p50k_base": (_P50K,),
    "p50k_edit": (_P50K,),
    "cl100k_base": (
        ("encodings/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
    ),
    "o200k_base": (_O200K,),
    "o200k_harmony": (_O200K,),
}

REPLY_TOKENS = 3
"""What every answer of OpenAI's chat models is primed with, counted as input."""
MESSAGE_TOKENS = 3
"""What every message of a chat takes beside its role's name and its content."""
# Both as the OpenAI cookbook counts them ("How to count tokens with tiktoken"). The format itself is not public, so
# every count of a chat is an estimate.


def openai_encoding(model: str) -> Encoding:
    """Return the encoding of an OpenAI model, ``gpt-4o`` or ``openai/gpt-4o``.

    Raises ModelError where tiktoken does not know the model, where tiktoken itself or the encoding's file is missing
    (nothing is fetched, and no other encoding stands in), and where the file is damaged.
    """
    try:
        from tiktoken.model import encoding_name_for_model
    except ImportError:
        raise ModelError(
            f"the tokenizer of {model} needs the package tiktoken; run: pip install 'tokmagic[openai]'"
        ) from None
    try:
        name = encoding_name_for_model(model.removeprefix("openai/"))
    except KeyError:
        raise ModelError(
            f"the tokenizer of {model} is not known: it is not an OpenAI model listed by tiktoken; count with a "
            "model whose tokenizer is in a folder"
        ) from None
    return _encoding(name, _folder(), model)


def count(encoding: Encoding, prompt: Prompt) -> tuple[int, Source]:
    """Return the input tokens of ``prompt`` for an OpenAI model: counted for a plain text, estimated for a chat.

    Raises PromptError.
    """
    total = sum(len(encode(encoding, message.content)) for message in prompt.messages)
    if prompt.completion:
        return total, "counted"
    return total + sum(message_overhead(encoding, it) for it in prompt.messages) + REPLY_TOKENS, "estimated"


def encode(encoding: Encoding, text: str) -> list[int]:
    """Return the ids of ``text``, in which the names of special tokens are plain text. Raises PromptError."""
    utf8(text)  # in a lone surrogate's place tiktoken would put U+FFFD
    try:
        ids: list[int] = encoding.encode(text, disallowed_special=())
    except ValueError as error:
        raise PromptError(f"tiktoken cannot split this text ({error}); shorten its longest run of blanks") from None
    return ids


def message_overhead(encoding: Encoding, message: Message) -> int:
    """Return what a chat's message takes beside its content, estimated."""
    return MESSAGE_TOKENS + len(encode(encoding, message.role))


@lru_cache(maxsize=8)
def _encoding(name: str, folder: Path | None, model: str) -> Encoding:
    # The folder is part of the key: what was refused for want of a file is looked for again in another one.
    _require_files(name, folder, model)
    import tiktoken

    try:
        return tiktoken.get_encoding(name)
    except (ValueError, OSError) as error:
        raise ModelError(f"the encoding {name} of {model} cannot be read: {error}") from error


def _require_files(name: str, folder: Path | None, model: str) -> None:
    if name not in _FILES:
        raise ModelError(
            f"{model} uses the encoding {name}, whose files are not known here; upgrade tokmagic, or count with a "
            "model whose tokenizer is in a folder"
        )
    fetch = f"TIKTOKEN_CACHE_DIR=DIR python -c 'import tiktoken; tiktoken.get_encoding(\"{name}\")'"
    fix = f"on a machine with a network run: {fetch}; then set TIKTOKEN_CACHE_DIR to a copy of DIR here"
    if folder is None:
        raise ModelError(f"TIKTOKEN_CACHE_DIR is empty, so the encoding {name} of {model} has no file; {fix}")
    for path, sha256 in _FILES[name]:
        file = folder / hashlib.sha1((_AT + path).encode(), usedforsecurity=False).hexdigest()
        try:
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            why = error.strerror or error
            raise ModelError(
                f"the encoding {name} of {model} is not on this machine ({file}: {why}), and nothing is fetched; {fix}"
            ) from None
        if found != sha256:
            raise ModelError(f"{file} is damaged: it is not the file of the encoding {name}; {fix}")


def _folder() -> Path | None:
    """Where tiktoken looks for files, by its own rule; None where it is told to keep none."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"
