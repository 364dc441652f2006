"""``tokmagic reproduce``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from tokmagic.errors import BudgetError, UsageError
from tokmagic.notebooks import reproduce as reproduction
from tokmagic.prices import budgets as budgets
from tokmagic.prices import plain
from tokmagic.runs import api


def reproduce(given: argparse.Namespace) -> int:
    """``tokmagic reproduce NOTEBOOK``: exit 1 where something changed, failed, or nothing was compared."""
    with _ended_as_interrupted(), _progress_gone():
        report = reproduction.reproduce(
            api.session(),
            given.notebook,
            frozen_file=given.frozen,
            out=given.output,
            kernel=given.kernel,
            timeout_s=None if given.timeout is None else _seconds(given.timeout),
            budget_usd=None if given.budget is None else _usd(given.budget),
            allowed=given.allow,
            progress=_progress,
        )
    if given.json:
        text = json.dumps(reproduction.as_dict(report), ensure_ascii=False, indent=1)
    else:
        told = [str(reproduction.table(report))] if report.comparisons else []
        text = "\n".join([*told, *(f"{given.notebook}: {problem}" for problem in report.problems)])
    # A lone surrogate, which UTF-8 cannot write, becomes JSON's own escape.
    text = text.encode("utf-8", "backslashreplace").decode()
    with suppress(BrokenPipeError):  # `| head`; whether it changed is told by the status
        print(text)
    return 0 if report.ok else 1


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Make a request to end (SIGTERM, a closed terminal) an interrupt: else the runs' texts stay behind in /tmp."""
    kinds = [kind for name in ("SIGTERM", "SIGHUP") if (kind := getattr(signal, name, None)) is not None]
    earlier = [kind for kind in kinds if signal.getsignal(kind) is signal.SIG_DFL]  # nohup ignores SIGHUP
    for kind in earlier:
        signal.signal(kind, _interrupt)
    try:
        yield
    finally:
        for kind in earlier:
            signal.signal(kind, signal.SIG_DFL)


def _interrupt(_kind: int, frame: FrameType | None) -> None:
    # A shell starts what it runs in the background with SIGINT ignored.
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _usd(text: str) -> str | None:
    try:
        return plain(budgets.usd(text, what="--budget"))
    except BudgetError as error:
        raise UsageError(str(error)) from None


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**7:
        raise UsageError(f"--timeout is {text!r}; give whole seconds, above 0, such as 600")
    return int(text)


@contextmanager
def _progress_gone() -> Iterator[None]:
    """Leave no half line of progress before what is told next."""
    try:
        yield
    finally:
        _progress("")


def _progress(doing: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{doing}")
        sys.stderr.flush()
