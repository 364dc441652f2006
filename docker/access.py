"""Who may start the server, and who may enter it: never root, never without a token."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

DEFAULT = ["jupyter", "lab"]
SINGLE_USER = "jupyterhub-singleuser"
_SERVERS = {"lab", "notebook", "server", "nbclassic"}
_TOKEN = re.compile(r"--(?:[A-Za-z]+\.)?token(?:=(.*))?", re.DOTALL)
_FIX = "leave it out for a random token, or give one that is hard to guess"


def command(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command to become: options alone are JupyterLab's, and under JupyterHub its server takes Lab's place."""
    default = [SINGLE_USER] if environ.get("JUPYTERHUB_API_TOKEN") else DEFAULT
    if not words or words[0].startswith("-"):
        return [*default, *words]
    if list(words[:2]) == DEFAULT:
        return [*default, *words[2:]]
    return list(words)


def is_server(command: Sequence[str]) -> bool:
    """Whether the command serves notebooks."""
    name = Path(command[0]).name
    if name == "jupyter":
        return len(command) > 1 and command[1] in _SERVERS
    return name == SINGLE_USER or name in {f"jupyter-{server}" for server in _SERVERS}


def refusal(command: Sequence[str], uid: int, environ: Mapping[str, str]) -> str | None:
    """Why the command must not start, with its fix; None if it may."""
    if uid == 0:
        return (
            "runs as root, which is refused: anyone who gets in would own the container; "
            "leave --user out, or give another such as --user 1000:0"
        )
    if not is_server(command):
        return None
    if file := environ.get("JUPYTER_TOKEN_FILE"):  # compose.yaml sets it to nothing where none is given
        _, fault = secret(file)
        if fault:
            return f"JUPYTER_TOKEN_FILE: {fault}"
    for name, value in tokens(command, environ):
        if not value.strip().strip("'\""):
            return f"{name} is empty, which would let anyone in; {_FIX}"
    return None


def tokens(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The tokens that were given, each with where."""
    if "JUPYTER_TOKEN" in environ:
        yield "JUPYTER_TOKEN", environ["JUPYTER_TOKEN"]
    if file := environ.get("JUPYTER_TOKEN_FILE"):
        yield "JUPYTER_TOKEN_FILE", secret(file)[0]
    for index, word in enumerate(command):
        if found := _TOKEN.fullmatch(word):
            after = command[index + 1] if index + 1 < len(command) else ""
            value = found[1] if found[1] is not None else "" if after.startswith("-") else after
            yield word.partition("=")[0], value


def secret(file: str) -> tuple[str, str]:
    """The secret that a file holds, and why it cannot be read, with the fix; one of them is empty."""
    try:
        return Path(file).read_text(encoding="utf-8").strip(), ""
    except (OSError, ValueError) as error:
        return "", f"{file} cannot be read: {error}; let uid {os.getuid()} read it"
