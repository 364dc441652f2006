"""What the small files beside a vocabulary say of it: tokenizer_config.json and those that it replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EXTRA, _ADDITIONAL = "extra_special_tokens", "additional_special_tokens"
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """A folder with a tokenizer, and the settings in it."""

    path: Path
    config: Mapping[str, Any]
    named: Mapping[str, str] = field(default_factory=dict)
    """What its special tokens are called, such as ``bos_token``, and how each is written."""
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """All its special tokens as they are written, those too that have no name, each with the flags that are given."""

    def adds(self, token: str) -> bool:
        """Whether every text gets ``bos`` or ``eos``. Only a setting says so where the vocabulary itself does not."""
        return self.config.get(f"add_{token}_token") is True

    def added(self) -> dict[int, dict[str, Any]]:
        """Tokens by their ids that may be no part of the vocabulary's file. Raises ValueError."""
        listed = self.config.get("added_tokens_decoder")
        if listed is not None:
            return {int(token_id): dict(token) for token_id, token in sorted(listed.items(), key=lambda it: int(it[0]))}
        return {
            int(token_id): {"content": token, "normalized": token not in self.special, "special": token in self.special}
            for token, token_id in sorted(_read(self.path / "added_tokens.json").items(), key=lambda it: it[1])
        }


def open_folder(path: Path) -> TokenizerFolder:
    """Read a folder's settings; those that it does not have are empty. Raises ValueError, OSError."""
    config = _read(path / "tokenizer_config.json")
    older = _read(path / "special_tokens_map.json") if "added_tokens_decoder" not in config else {}
    naming = {**config, **older}
    extra = naming.get(_EXTRA)
    named = {key: value for key, value in naming.items() if key.endswith("_token")}
    named |= extra if isinstance(extra, dict) else {}
    # As in transformers: of several lists the first one holds.
    lists = (config.get(_EXTRA), config.get(_ADDITIONAL), older.get(_EXTRA), older.get(_ADDITIONAL))
    listed = next((it for it in lists if it and isinstance(it, list)), [])
    names = {name: spelled for name, value in named.items() if (spelled := _spelled(value)) is not None}
    special = {spelled: _flags(it) for it in (*named.values(), *listed) if (spelled := _spelled(it)) is not None}
    return TokenizerFolder(path, config, names, special)


def _spelled(token: Any) -> str | None:
    spelled = token.get("content") if isinstance(token, dict) else token
    return spelled if isinstance(spelled, str) else None


def _flags(token: Any) -> dict[str, Any]:
    return {flag: token[flag] for flag in _FLAGS if flag in token} if isinstance(token, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not an object")
    return found
