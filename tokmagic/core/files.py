"""Files: read with an error of ours, written completely or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokmagic.errors import UsageError


def expanded(text: str) -> Path:
    """A path with ``~`` and ``~name`` filled in. Raises UsageError for a user who is not known here."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{text}: there is no user {Path(text).parts[0][1:]!r} here; give the whole path") from None


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file. What has a meaning in a URL is written out: ``?`` begins options, ``%41`` is an A."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def atomic_write(path: Path, text: str) -> None:
    """Write a file, or leave an earlier one as it was, as :func:`replacing` does. Raises OSError.

    A lone surrogate, which UTF-8 cannot write, becomes JSON's own escape.
    """
    data = text.encode("utf-8", "backslashreplace")
    with replacing(path) as file:
        file.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The file to write in place of ``path``, which takes it at the block's end; where that fails it stays as it was.

    A link stays one, and so does who may read. What is no file, such as /dev/null or a pipe, is written to itself.
    """
    if path.exists() and not path.is_file():
        yield path  # a folder is refused
        return
    file = Path(os.path.realpath(path))
    part = file.with_name(f".{file.name[:100]}.{os.getpid()}.part")
    try:
        yield part
        with suppress(FileNotFoundError):
            part.chmod(stat.S_IMODE(file.stat().st_mode))
        part.replace(file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_file(path: str) -> bytes:
    """A file's bytes. Raises UsageError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}; give an .ipynb file") from error
