"""``python -m tokmagic.engines.local.convert GGUF FOLDER``: a GGUF file becomes bfloat16 safetensors.

With ``--tokenizer`` before the file, its tokenizer and chat template alone are taken out of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tokmagic.engines.local.splitting import KEY, set_splitting


def convert(gguf: Path, target: Path) -> None:
    """Read ``gguf`` with transformers and save model, tokenizer and chat template in ``target``.

    Raises ModelError where the file's tokenizer follows rules that are not known here.
    """
    # Without dequantize=True a model read from GGUF cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(str(target))
    convert_tokenizer(gguf, target)


def convert_tokenizer(gguf: Path, target: Path) -> None:
    """Save the tokenizer and the chat template of ``gguf`` in ``target``. Raises as :func:`convert` does."""
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.save_pretrained(str(target))
    set_splitting(target, str(GGUFReader(gguf).fields[KEY].contents()))


if __name__ == "__main__":
    *option, file, folder = sys.argv[1:]
    (convert_tokenizer if option == ["--tokenizer"] else convert)(Path(file), Path(folder))
