"""How a vocabulary's text is split before its merges apply, set in tokenizer.json by the name that a GGUF gives it.

transformers leaves these rules out for most names and splits as GPT-2 does: what it saves counts other tokens than
llama.cpp does with the same file, and feeds a model ids that it was not trained on.
"""

from __future__ import annotations

from pathlib import Path

from tokmagic.errors import ModelError

KEY = "tokenizer.ggml.pre"
"""The field of a GGUF that names the rules."""
SMOLLM = "smollm"


def set_splitting(folder: Path, name: str) -> None:
    """Write a folder's tokenizer.json anew with the rules called ``name``. Raises ModelError, OSError."""
    from tokenizers import Tokenizer, pre_tokenizers

    if name != SMOLLM:
        raise ModelError(f"the file splits text by the rules {name!r}, which are not known here")
    file = folder / "tokenizer.json"
    made = Tokenizer.from_file(str(file))
    # Each digit by itself, then as GPT-2 does: llama.cpp's two patterns of this name.
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    written = file.with_suffix(".new")
    written.write_text(made.to_str(pretty=True), encoding="utf-8")
    written.replace(file)
