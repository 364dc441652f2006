"""What a GGUF file says of itself, read without any package: architecture, quantisation, sizes, special tokens."""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokmagic.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# gguf_metadata_value_type: how struct reads each number.
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_NAMES = """
0 f32, 1 f16, 2 q4_0, 3 q4_1, 7 q8_0, 8 q5_0, 9 q5_1, 10 q2_k, 11 q3_k_s, 12 q3_k_m, 13 q3_k_l, 14 q4_k_s, 15 q4_k_m,
16 q5_k_s, 17 q5_k_m, 18 q6_k, 19 iq2_xxs, 20 iq2_xs, 21 q2_k_s, 22 iq3_xs, 23 iq3_xxs, 24 iq1_s, 25 iq4_nl, 26 iq3_s,
27 iq3_m, 28 iq2_s, 29 iq2_m, 30 iq4_xs, 31 iq1_m, 32 bf16, 36 tq1_0, 37 tq2_0, 38 mxfp4_moe, 39 nvfp4, 40 q1_0
"""
_FILE_TYPES = {int(number): name for number, name in (it.split() for it in _NAMES.split(","))}
"""llama_ftype, by its number: what most of a file's weights are stored as."""
_F16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The single values among a file's metadata by their names, such as ``llama.context_length``."""

    file: Path
    values: dict[str, Any]
    sha256: str
    """Of all the metadata: vocabulary, merges and chat template too."""

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def quant(self) -> str:
        """What most weights are stored as, such as ``q4_1``."""
        number = self.values.get("general.file_type")
        return _FILE_TYPES.get(number, f"type {number}") if isinstance(number, int) else "unknown"

    @property
    def context_tokens(self) -> int | None:
        """How many tokens the model was trained to look back on."""
        return self._of_model("context_length")

    @property
    def eos(self) -> frozenset[int]:
        """The ids that end an answer by the file's own word."""
        names = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        return frozenset(int(self.values[name]) for name in names if name in self.values)

    @property
    def splitting(self) -> str:
        """The name of the rules by which its tokenizer splits text."""
        return str(self.values.get("tokenizer.ggml.pre", ""))

    @property
    def kv_bytes_per_token(self) -> int | None:
        """What a token takes in the KV cache at most, kept as f16; None where the file does not tell."""
        layers, width, heads = (
            self._of_model(it) for it in ("block_count", "embedding_length", "attention.head_count")
        )
        if not (layers and width and heads):
            return None
        kv_heads = self._of_model("attention.head_count_kv") or heads
        lengths = sum(self._of_model(f"attention.{it}_length") or width // heads for it in ("key", "value"))
        return layers * kv_heads * lengths * _F16_BYTES

    @property
    def weights_bytes(self) -> int:
        """The size of the file, with the other parts of a model that was split."""
        return sum(part.stat().st_size for part in self.parts)

    @property
    def parts(self) -> tuple[Path, ...]:
        """The file, or all files of a model that was split."""
        found = re.fullmatch(r"(.+)-\d{5}(-of-\d{5}\.gguf)", self.file.name)
        if found is None:
            return (self.file,)
        return tuple(sorted(self.file.parent.glob(f"{found[1]}-[0-9][0-9][0-9][0-9][0-9]{found[2]}")))

    def _of_model(self, name: str) -> int | None:
        value = self.values.get(f"{self.architecture}.{name}")
        return int(value) if isinstance(value, int) else None


def read(file: Path) -> Header:
    """Read a file's metadata. Raises ModelError for a file that is no GGUF, or is cut off."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != _MAGIC:
                raise ModelError(f"{file} is not a GGUF file; give a file that llama.cpp can read, or a model's folder")
            return _Reader(data).header(file)
    except (OSError, ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is broken or cut off ({error}); fetch the file again") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def header(self, file: Path) -> Header:
        version = self._number(4)
        if version not in _VERSIONS:
            raise ValueError(f"version {version} of the format")
        self._length()  # of the tensors
        values = {}
        for _ in range(self._length()):
            name, kind = self._text(), self._number(4)
            value = self._value(kind)
            if value is not None:
                values[name] = value
        return Header(file, values, hashlib.sha256(self._data[: self._at]).hexdigest())

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        return self._skip_array() if kind == _ARRAY else self._number(kind)

    def _skip_array(self) -> None:
        kind, length = self._number(4), self._length()
        if kind in _NUMBERS:
            self._move(length * struct.calcsize(_NUMBERS[kind]))
            return
        for _ in range(length):
            if kind == _TEXT:
                self._move(self._length())
            else:
                self._value(kind)

    def _text(self) -> str:
        length = self._length()
        begin = self._at
        self._move(length)
        return self._data[begin : self._at].decode()

    def _length(self) -> int:
        (value,) = _LENGTH.unpack_from(self._data, self._at)
        self._at += _LENGTH.size
        return int(value)

    def _number(self, kind: int) -> Any:
        read = _NUMBERS[kind]
        (value,) = struct.unpack_from(read, self._data, self._at)
        self._at += struct.calcsize(read)
        return value

    def _move(self, length: int) -> None:
        if self._at + length > len(self._data):
            raise ValueError("it ends within its metadata")
        self._at += length
