"""``python -m tokmagic.engines.local.convert GGUF FOLDER``: a GGUF file becomes bfloat16 safetensors."""

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
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    set_splitting(target, str(GGUFReader(gguf).fields[KEY].contents()))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
