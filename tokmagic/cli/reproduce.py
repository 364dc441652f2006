"""``tokmagic reproduce``: a notebook run again."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import get_args

from tokmagic.cli.common import add_json, print_json
from tokmagic.core.money import plain
from tokmagic.errors import UsageError
from tokmagic.formatting.terminal import progress
from tokmagic.notebooks import reproduce
from tokmagic.prices import usd
from tokmagic.prompts.parser import integer
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Run a notebook again, for real: its cells write their files and endpoints bill. Show what changed since it "
        "was frozen, and which differences could explain it."
    )
    add = verb.add_argument
    add("notebook", metavar="NOTEBOOK", help="an .ipynb file; it is run in a new kernel, and not changed")
    add("--frozen", metavar="FILE", help="what %%tokmagic freeze wrote (NOTEBOOK.tokmagic.json beside it)")
    told = "a kind of change that is reported but does not fail: text, tokens, cost, finish or runs (repeatable)"
    add("--allow", action="append", default=[], metavar="KIND", choices=list(get_args(reproduce.Kind)), help=told)
    add("-o", "--output", metavar="OUT", help="write the notebook with its new outputs to this file")
    add("--timeout", type=integer, metavar="S", help="seconds that a cell may take (no limit)")
    add("--budget", metavar="USD", help="maximum cost of all runs together")
    add("--kernel", metavar="NAME", help="the kernel to run it in (the notebook's own)")
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Run it and tell: exit 1 where something changed, failed, or nothing was compared."""
    if given.timeout is not None and not 0 < given.timeout < 10**7:
        raise UsageError(f"--timeout is {given.timeout}; give whole seconds, above 0, such as 600")
    cap = None if given.budget is None else usd(given.budget, what="--budget", error=UsageError, above_zero=True)
    with _ended_as_interrupted(), ExitStack() as last:
        last.callback(progress, "")  # leave no half line of progress before what is told next
        report = reproduce.reproduce(
            api.session(),
            given.notebook,
            frozen=given.frozen,
            out=given.output,
            kernel=given.kernel,
            timeout_s=given.timeout,
            budget_usd=plain(cap),
            allowed=given.allow,
            progress=progress,
        )
    with suppress(BrokenPipeError):  # `| head`; whether it changed is told by the status
        if given.json:
            print_json(reproduce.as_dict(report), indent=1)
        else:
            told = [str(reproduce.table(report))] if report.comparisons else []
            print("\n".join([*told, *(f"{given.notebook}: {problem}" for problem in report.problems)]))
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
