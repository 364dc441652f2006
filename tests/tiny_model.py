"""A stand-in for the default model: its tokenizer and chat template, and random weights that answer in a moment.

What a test says of the engine, a kernel or a page is the same for any weights; what it says of the default
model itself needs ``model_home``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HIDDEN, LAYERS, HEADS, INNER = 64, 2, 4, 128
SPREAD = 0.4
"""Of the weights: wide enough that what comes next depends on what came before, and does not repeat at once."""


def tiny_home(folder: Path, model_home: Path) -> Path:
    """Make a data folder in which ``smollm2`` names such a model, of 32-bit weights."""
    (default,) = (model_home / "models").glob("*SmolLM2*Instruct")
    made = folder / "models" / default.name
    made.mkdir(parents=True)
    for file in default.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, made)
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "head_dim": HIDDEN // HEADS,
    }
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config |= {**sizes, "dtype": "float32", "tie_word_embeddings": False}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _write_weights(made / "model.safetensors", int(config["vocab_size"]), _blanks(made / "tokenizer.json"))
    return folder


def _blanks(tokenizer: Path) -> list[int]:
    """The ids of tokens that are blank: Ġ, Ċ, ĉ and č are how a byte-level vocabulary writes these characters."""
    vocabulary: dict[str, int] = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    return [number for token, number in vocabulary.items() if set(token) <= set("ĠĊĉč")]


def _write_weights(path: Path, vocabulary: int, blanks: list[int]) -> None:
    # By numpy, since not every process that makes one would import torch.
    import numpy as np
    from safetensors.numpy import save_file

    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "lm_head.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        attention = {"q_proj": HIDDEN, "k_proj": HIDDEN // 2, "v_proj": HIDDEN // 2, "o_proj": HIDDEN}
        shapes |= {f"model.layers.{layer}.self_attn.{name}.weight": (out, HIDDEN) for name, out in attention.items()}
        mlp = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
        shapes |= {f"model.layers.{layer}.mlp.{name}.weight": shape for name, shape in mlp.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (HIDDEN,)
    random = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else random.normal(0, SPREAD, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    # A blank is seldom the likeliest, so that between the words of JSON, where any number may stand, it ends.
    weights["lm_head.weight"][blanks] = 0
    save_file(weights, path, {"format": "pt"})
