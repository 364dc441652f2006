"""A tokenizer's vocabulary, read by its own file and by the package that this file was made for.

transformers reads nearly every folder, too, but builds some tokenizers anew by its own classes, whose rules are not
always the file's. docs/decisions/0019-a-tokenizer-is-read-by-its-own-file.md says where.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tokmagic.errors import ModelError
from tokmagic.tokens import chat_template
from tokmagic.tokens.chat_template import ChatTemplate
from tokmagic.tokens.vocabularies import by_sentencepiece, by_tiktoken, by_tokenizers, by_transformers
from tokmagic.tokens.vocabularies.base import Vocabulary
from tokmagic.tokens.vocabularies.folder import TokenizerFolder, open_folder

FILES = (
    by_tokenizers.FILE,
    by_tiktoken.TEKKEN,
    "*.tiktoken",
    "tiktoken.model",
    "tokenizer.model",
    "tokenizer.model.v*",
)
"""What a folder's vocabulary may be in; of several the first is read."""
_REASON_CHARS = 400


def read(path: Path, *, trust_remote_code: bool = False) -> tuple[Vocabulary, ChatTemplate]:
    """Return the vocabulary and the chat template of a folder. Raises ModelError."""
    file = None
    try:
        folder = open_folder(path)
        file = next((file for name in FILES for file in sorted(path.glob(name), reverse=True)), None)
        if file is None or (trust_remote_code and _is_code(folder)):
            return by_transformers.read(path, trust_remote_code=trust_remote_code)
        return _read_file(folder, file)
    except ImportError as error:
        what, wanted = ("it", "'tokmagic[local]'") if file is None else (file.name, "'tokmagic[tokenizer]'")
        raise _unreadable(path, f"{what} needs the package {error.name}; run: pip install {wanted}") from error
    except Exception as error:
        # The packages raise many types here; all of them mean that these files make no tokenizer.
        reason = (_missing(path) if file is None else None) or " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            reason = "it needs its own code; add the model with --trust-remote-code if you trust its author"
        raise _unreadable(path, reason if len(reason) <= _REASON_CHARS else f"{reason[:_REASON_CHARS]} …") from error


def _unreadable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} has no readable tokenizer: {reason}")


def _missing(path: Path) -> str | None:
    """The package without which transformers takes SentencePiece's files for damaged ones of another format."""
    pieces = next(iter(sorted(path.glob("*.model"))), None)
    for package, wanted in (("sentencepiece", "'tokmagic[tokenizer]'"), ("google.protobuf", "protobuf")):
        if pieces is not None and not _is_installed(package):
            return f"{pieces.name} needs the package {package.removeprefix('google.')}; run: pip install {wanted}"
    return None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # what it is part of is missing
        return False


def _is_code(folder: TokenizerFolder) -> bool:
    code = folder.config.get("auto_map")
    return bool(code.get("AutoTokenizer") if isinstance(code, dict) else code)


def _read_file(folder: TokenizerFolder, file: Path) -> tuple[Vocabulary, ChatTemplate]:
    vocabulary: Vocabulary
    named = folder.named
    if file.name == by_tokenizers.FILE:
        vocabulary = by_tokenizers.read(folder)
    elif file.name == by_tiktoken.TEKKEN:
        vocabulary = by_tiktoken.read_tekken(folder)
    elif by_tiktoken.holds_ranks(file):
        vocabulary = by_tiktoken.read_ranks(folder, file)
    else:
        vocabulary = pieces = by_sentencepiece.SentencePieceVocabulary(folder, file)
        named = pieces.named | dict(named)
    return vocabulary, chat_template.read(folder, named)
