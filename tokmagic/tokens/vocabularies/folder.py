"""What the small files beside a vocabulary say of it: tokenizer_config.json and those that it replaced."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EXTRA = "extra_special_tokens"


@dataclass(frozen=True, slots=True)
class TokenizerFolder:
    """A folder with a tokenizer, and the settings in it."""

    path: Path
    config: Mapping[str, Any]
    named: Mapping[str, str] = field(default_factory=dict)
    """What its special tokens are called, such as ``bos_token``, and how each is written."""

    def adds(self, token: str) -> bool:
        """Whether every text gets ``bos`` or ``eos``. Only a setting says so where the vocabulary itself does not."""
        return self.config.get(f"add_{token}_token") is True

    def added(self) -> dict[int, dict[str, Any]]:
        """Tokens by their ids that may be no part of the vocabulary's file. Raises ValueError."""
        listed = self.config.get("added_tokens_decoder")
        if listed is not None:
            return {int(token_id): dict(token) for token_id, token in sorted(listed.items(), key=lambda it: int(it[0]))}
        special = set(self.named.values())
        return {
            int(token_id): {"content": token, "normalized": token not in special, "special": token in special}
            for token, token_id in sorted(_read(self.path / "added_tokens.json").items(), key=lambda it: it[1])
        }


def open_folder(path: Path) -> TokenizerFolder:
    """Read a folder's settings; those that it does not have are empty. Raises ValueError, OSError."""
    config = _read(path / "tokenizer_config.json")
    naming = dict(config)
    if "added_tokens_decoder" not in config:
        naming |= _read(path / "special_tokens_map.json")
    extra = naming.get(_EXTRA)
    named = [(key, value) for key, value in naming.items() if key.endswith("_token")]
    named += extra.items() if isinstance(extra, dict) else ()
    return TokenizerFolder(path, config, dict(_spelled(named)))


def _spelled(named: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, str]]:
    for name, value in named:
        spelled = value.get("content") if isinstance(value, dict) else value
        if isinstance(spelled, str):
            yield name, spelled


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not an object")
    return found
