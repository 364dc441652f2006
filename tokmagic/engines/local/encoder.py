"""Sentence embeddings by a text encoder in a folder, such as those that sentence-transformers saves.

transformers runs the encoder. What it is fed and how its tokens become one vector is what the folder says, in the
files that sentence-transformers writes (its versions 2 to 6.2): ``modules.json``, the pooling's ``config.json``,
``sentence_bert_config.json`` and ``config_sentence_transformers.json``. Where it says nothing, texts are fed as they
are and the vector is the mean of their tokens. Nothing is fetched, and no code of the folder runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from tokmagic.errors import ModelError

_BATCH = 32
_MODES = ("mean", "cls", "lasttoken")
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a folder says beside its model: the pooling, what each text is fed with, and how long it may be."""

    mode: str = "mean"
    prompt: str = ""
    lower: bool = False
    most: int | None = None


class Encoder:
    """An encoder in memory, on the CPU, in 32 bits."""

    def __init__(self, folder: Path) -> None:
        """Load what is in ``folder``. Raises ModelError."""
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no model: it has no config.json; give the folder of a text encoder")
        try:
            self._rules = _rules(folder)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if self._tokenizer.pad_token is None:  # which one is all the same: padding is masked
                padding = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
                self._tokenizer.pad_token = padding
            loaded: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            self._most = _length(self._rules, self._tokenizer, loaded)
        except ModelError:
            raise
        except Exception as error:
            says = " ".join(str(error).split())
            raise ModelError(
                f"the encoder in {folder} cannot be loaded: {type(error).__name__}: {says:.200}"
            ) from error
        self._model = loaded.eval()

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of length 1, a row for each text; of long texts the beginning."""
        rows = []
        # Those of about one length together: a batch is padded to its longest.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for start in range(0, len(order), _BATCH):
            fed = self._tokenizer(
                [self._fed(texts[at]) for at in order[start : start + _BATCH]],
                padding=True,
                truncation=True,
                max_length=self._most,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**fed).last_hidden_state
            rows.append(_pooled(states, fed["attention_mask"], self._rules.mode))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)[torch.tensor(order).argsort()]

    def _fed(self, text: str) -> str:
        whole = self._rules.prompt + text or " "  # of no tokens there is no mean
        return whole.lower() if self._rules.lower else whole

    def similarities(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """Of each text with its others the cosines of the angles between them, −1 to 1; all are embedded together."""
        places: dict[str, int] = {}
        for one, others in pairs:
            for text in (one, *others):
                places.setdefault(text, len(places))
        vectors = self.embed(list(places))
        found = []
        for one, others in pairs:
            angles = vectors[[places[it] for it in others]] @ vectors[places[one]]
            found.append([float(it) for it in angles.clamp(-1, 1)])
        return found


def _pooled(states: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """One vector a text. ``states``: texts × tokens × width; ``mask``: texts × tokens, 0 for padding."""
    if mode == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    texts, places = torch.arange(len(states)), torch.arange(mask.shape[1])
    # The first or the last that is no padding, on whichever side that stands.
    wanted = mask * (places if mode == "lasttoken" else places.flip(0))
    return states[texts, wanted.argmax(dim=1)]


def _rules(folder: Path) -> _Rules:
    """Read them. Raises ModelError for what is not supported."""
    modules: Any = _read(folder / "modules.json") or []
    names = [str(it["type"]).rpartition(".")[2] for it in modules]
    for name in names:
        if name not in _KNOWN_MODULES:
            raise ModelError(f"the encoder in {folder} has a module {name}, which is not supported; take another")
    # Older ones are called after the model's kind, such as sentence_roberta_config.json.
    told: Any = next((_read(it) for it in sorted(folder.glob("sentence_*_config.json"))), {})
    if "message" in told.get("modality_config", {}):
        raise ModelError(f"the encoder in {folder} puts texts in a chat template, which is not supported; take another")
    general = _read(folder / "config_sentence_transformers.json")
    prompt = str((general.get("prompts") or {}).get(general.get("default_prompt_name")) or "")
    # Whether the vector is normalised too is all the same to a cosine.
    pooling = [
        _read(folder / it["path"] / "config.json") for name, it in zip(names, modules, strict=True) if name == "Pooling"
    ]
    modes = [mode for it in pooling for mode in _modes(it)] or ["mean"]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise ModelError(f"the encoder in {folder} pools by {' and '.join(modes)}, which is not supported")
    if prompt and any(it.get("include_prompt") is False for it in pooling):
        raise ModelError(f"the encoder in {folder} pools without its prompt, which is not supported; take another")
    return _Rules(modes[0], prompt, told.get("do_lower_case") is True, told.get("max_seq_length"))


def _modes(pooling: Mapping[str, Any]) -> list[str]:
    """How a pooling's settings say it; before sentence-transformers 5.4 each way was a key of its own."""
    given = pooling.get("pooling_mode")
    if given is not None:
        return [given] if isinstance(given, str) else list(given)
    on = [key.removeprefix("pooling_mode_") for key, value in pooling.items() if value is True]
    known = [key for key in on if key in ("cls_token", "lasttoken") or key.endswith("_tokens")]
    return [key.removesuffix("_tokens").removesuffix("_token") for key in known]


def _length(rules: _Rules, tokenizer: Any, model: Any) -> int:
    """How many tokens it reads at most."""
    told = int(rules.most or tokenizer.model_max_length)
    places = int(getattr(model.config, "max_position_embeddings", 512) or 512)
    return min(told, places) if places > 0 else told  # XLNet says -1 for any


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
