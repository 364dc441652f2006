"""Answers of the servers of others, as `tests/peers/record.py` wrote them down."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "peers"


@dataclass(frozen=True)
class Recording:
    """One answer: in the file a status line, the headers that matter, an empty line, and the body byte for byte."""

    status: int
    headers: dict[str, str]
    body: bytes

    def to_bytes(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\n".join(lines).encode() + b"\n\n" + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> Recording:
        head, _, body = data.partition(b"\n\n")
        status, *headers = head.decode().split("\n")
        return cls(int(status.split()[1]), dict(line.split(": ", 1) for line in headers), body)


def recorded(name: str) -> Recording:
    """The answer called ``name``, such as ``litellm/stream_usage``; ``requests.json`` there says what was asked."""
    return Recording.from_bytes((FOLDER / f"{name}.txt").read_bytes())


def names() -> list[str]:
    """Every recording, such as ``litellm/stream_usage``."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.txt"))
