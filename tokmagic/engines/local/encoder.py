"""Sentence embeddings by a text encoder in a folder, such as those that sentence-transformers saves.

transformers runs the encoder. How its tokens become one vector is what the folder says (``modules.json`` and the
pooling's ``config.json``, as sentence-transformers writes them), else their mean. Nothing is fetched, and no code of
the folder runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from tokmagic.errors import ModelError

_BATCH = 32
_MODES = ("mean_tokens", "cls_token", "lasttoken")
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


class Encoder:
    """An encoder in memory, on the CPU, in 32 bits."""

    def __init__(self, folder: Path) -> None:
        """Load what is in ``folder``. Raises ModelError."""
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no model: it has no config.json; give the folder of a text encoder")
        try:
            self._mode = _pooling(folder)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if self._tokenizer.pad_token is None:  # which one is all the same: padding is masked
                padding = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
                self._tokenizer.pad_token = padding
            loaded: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            self._most = _length(folder, self._tokenizer, loaded)
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
                [texts[at] or " " for at in order[start : start + _BATCH]],  # of no tokens there is no mean
                padding=True,
                truncation=True,
                max_length=self._most,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**fed).last_hidden_state
            rows.append(_pooled(states, fed["attention_mask"], self._mode))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)[torch.tensor(order).argsort()]

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
    if mode == "mean_tokens":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    texts, places = torch.arange(len(states)), torch.arange(mask.shape[1])
    # The first or the last that is no padding, on whichever side that stands.
    wanted = mask * (places if mode == "lasttoken" else places.flip(0))
    return states[texts, wanted.argmax(dim=1)]


def _pooling(folder: Path) -> str:
    """How tokens become one vector; whether that is normalised too is all the same to a cosine. Raises ModelError."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return "mean_tokens"
    modules = json.loads(listed.read_text(encoding="utf-8"))
    names = [str(it["type"]).rpartition(".")[2] for it in modules]
    for name in names:
        if name not in _KNOWN_MODULES:
            raise ModelError(f"the encoder in {folder} has a module {name}, which is not supported; take another")
    mode = "mean_tokens"
    for name, it in zip(names, modules, strict=True):
        if name == "Pooling":
            given = json.loads((folder / it["path"] / "config.json").read_text(encoding="utf-8"))
            on = [key.removeprefix("pooling_mode_") for key, value in given.items() if value is True]
            modes = [key for key in on if key in _MODES or key.startswith(("max", "weighted", "mean_sqrt"))]
            if len(modes) != 1 or modes[0] not in _MODES:
                raise ModelError(f"the encoder in {folder} pools by {' and '.join(modes)}, which is not supported")
            mode = modes[0]
    return mode


def _length(folder: Path, tokenizer: Any, model: Any) -> int:
    """How many tokens it reads at most."""
    limits = [int(tokenizer.model_max_length), int(getattr(model.config, "max_position_embeddings", 512) or 512)]
    told = folder / "sentence_bert_config.json"
    if told.is_file():
        limits.append(int(json.loads(told.read_text(encoding="utf-8")).get("max_seq_length") or limits[0]))
    return min(limits)
