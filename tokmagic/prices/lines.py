"""In which line of a TOML text a key stands, which the parser does not tell."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence

Path = tuple[str | int, ...]
"""Keys from outside in; the index of a table in a list is a number."""


def line_of(text: str, path: Path) -> int:
    """Return the line, from 1 on, of a key of a text that tomllib has read without complaint.

    It is that of what the key stands in where it has no line of its own.
    """
    lines = text.splitlines()
    keys = list(_keys(lines))
    inside = [number for key, number in keys if path == key[: len(path)]]
    if inside:
        return inside[0] + 1
    around = [(key, number) for key, number in keys if key == path[: len(key)]]
    if not around:
        return 1
    key, number = max(around, key=lambda found: len(found[0]))
    # Inside a value that begins in that line, and may go on over several.
    for part in path[len(key) :]:
        mark = r"\{" if isinstance(part, int) else rf"(?<![\w-]){re.escape(part)}[\"']?\s*="
        times = part + 1 if isinstance(part, int) else 1
        for later in range(number, len(lines)):
            times -= len(re.findall(mark, lines[later]))
            if times <= 0:
                number = later
                break
    return number + 1


def _keys(lines: Sequence[str]) -> Iterator[tuple[Path, int]]:
    table: Path = ()
    seen: Counter[Path] = Counter()
    for number, line in enumerate(lines):
        text = line.strip()
        if text.startswith("["):
            header = _only_key(text)
            if not header:
                continue
            if text.startswith("[["):
                seen[header] += 1
                header = (*header, seen[header] - 1)
            table = header
            yield table, number
        elif key := _key_of(text):
            yield (*table, *key), number


def _key_of(text: str) -> Path:
    """The key of a line ``key = value``; a key in quotes may hold an equals sign."""
    for sign in re.finditer("=", text):
        if key := _only_key(f"{text[: sign.start()]} = 0"):
            return key
    return ()


def _only_key(text: str) -> Path:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(found, dict) and len(found) == 1:
        ((name, found),) = found.items()
        path.append(name)
        if isinstance(found, Sequence):
            found = found[0]
    return tuple(path)
