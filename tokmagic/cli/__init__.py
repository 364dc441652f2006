"""The ``tokmagic`` command. Errors go to stderr in one line; exit 2 for wrong usage, 1 for failure."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, get_args

from tokmagic.cli import commands, reproducing
from tokmagic.core.version import __version__
from tokmagic.errors import TokmagicError, UsageError, nearest
from tokmagic.notebooks.reproduce import Kind

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a full or broken disk answers where the output goes into a file."""


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError in one line, with the nearest word."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Each verb's parser looks at its own words, so an unknown one is told the verb's nearest option."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown word {unknown[0]!r}{nearest(unknown[0], self._option_string_actions)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices: Iterable[str] | None = action.choices
        if choices is not None and value not in choices:
            self.error(f"unknown {action.metavar} {value!r}{nearest(value, choices)}; known: {', '.join(choices)}")


def parser() -> Parser:
    """The command's words and options."""
    top = Parser(prog="tokmagic", description="See what every prompt costs, while you write it.")
    top.add_argument("--version", action="version", version=f"tokmagic {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = verbs.add_parser("doctor", help="what works here and what does not, each problem with its fix")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--brief", action="store_true", help="only the problems, one per line")
    form.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=commands.doctor)

    verb = verbs.add_parser("pull", help="fetch a model once, so that later starts are quick")
    verb.add_argument("name", nargs="?", help="model name or Hugging Face id (the default model)")
    verb.add_argument("--force", action="store_true", help="fetch it again")
    verb.set_defaults(run=commands.pull)

    verb = verbs.add_parser("run", help="run a prompt from a file or standard input")
    verb.add_argument("file", nargs="?", default="-", help="file with the prompt; - or none: standard input")
    verb.add_argument("-m", "--model", metavar="NAME", help="model name, Hugging Face id or folder")
    verb.add_argument("--api-base", metavar="URL", help="an OpenAI-compatible server, whose model is named by -m")
    verb.add_argument("--api-key-name", metavar="ENV", help="environment variable that holds the server's key")
    verb.add_argument("--server", metavar="KIND", help="the kind of server, such as openai or vllm")
    verb.add_argument("--tokenizer", metavar="SPEC", help="model or folder whose tokenizer counts locally for it")
    verb.add_argument("--system", metavar="TEXT")
    verb.add_argument("--max-tokens", type=int, default=256, metavar="N")
    verb.add_argument("--temperature", type=float, metavar="T")
    verb.add_argument("--top-p", type=float, metavar="P")
    verb.add_argument("--seed", type=int, metavar="N")
    verb.add_argument("--stop", action="append", default=[], metavar="TEXT")
    verb.add_argument("--tag", action="append", default=[], metavar="TEXT")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the template")
    verb.add_argument("--literal", action="store_true", help="no template: all text is literal")
    verb.add_argument("--completion", action="store_true", help="no chat template")
    verb.add_argument("--input", metavar="USD", help="USD per 1M input tokens")
    verb.add_argument("--output", metavar="USD", help="USD per 1M output tokens")
    verb.add_argument("--gpu-hour", metavar="USD", help="USD per hour of the device")
    verb.add_argument("--as", dest="shadow", metavar="PROVIDER/MODEL", help="also calculate what that model would cost")
    verb.add_argument("--budget", metavar="USD", help="maximum that this run may cost")
    verb.add_argument("--yes", action="store_true", help="run a prompt longer than a budget allows without asking")
    cached = verb.add_mutually_exclusive_group()
    cached.add_argument("--cache", action="store_true", help="replay an identical run even without a seed")
    cached.add_argument("--no-cache", action="store_true", help="bypass the cache for this run")
    cached.add_argument("--refresh", action="store_true", help="generate again and replace the cached answer")
    _json(verb)
    verb.set_defaults(run=commands.run)

    verb = verbs.add_parser("count", help="count a text's tokens without running it")
    verb.add_argument("file", nargs="?", default="-", help="file with the text; - or none: standard input")
    verb.add_argument("-m", "--model", metavar="A,B,…", action="append", default=[], help="models to count for")
    _json(verb)
    verb.set_defaults(run=commands.count)

    verb = verbs.add_parser("report", help="tokens, cost and latency of recorded runs")
    verb.add_argument("--by", help="cell, run, model, notebook, day, tag, user or status")
    kind = verb.add_mutually_exclusive_group()
    kind.add_argument("--waste", action="store_true", help="runs that cost something and gave nothing new")
    kind.add_argument(
        "--reprice", action="store_true", help="what the runs would cost today, next to their recorded cost"
    )
    kind.add_argument("--project", metavar="N/UNIT", help="what a measured cell costs at scale, such as 1e6/day")
    verb.add_argument(
        "--cell",
        metavar="CELL",
        help="with --project: the cell's number in the table, or its id (default: the latest that ran)",
    )
    _selection(verb)
    _json(verb)
    verb.set_defaults(run=commands.report)

    verb = verbs.add_parser("export", help="recorded runs, one per line")
    verb.add_argument("--format", default=None, help="jsonl (default), csv or parquet")
    verb.add_argument("-o", "--output", metavar="FILE", help="file to write (standard output)")
    _selection(verb)
    verb.set_defaults(run=commands.export)

    verb = verbs.add_parser("check", help="a notebook's saved numbers against limits, for pre-commit and CI")
    verb.add_argument("notebook", nargs="+", metavar="NOTEBOOK", help="an .ipynb file; nothing in it is run")
    verb.add_argument("--max-cost", metavar="USD", help="maximum cost of all its cells together")
    verb.add_argument("--max-tokens", metavar="N", help="maximum tokens of all its cells together, input plus output")
    verb.add_argument(
        "--max-increase", metavar="PCT", help="maximum growth of each cell and of the whole notebook, such as 10%%"
    )
    verb.add_argument(
        "--against", metavar="OLD", help="the earlier version: a file, or git:REV for the same path there"
    )
    _json(verb)
    verb.set_defaults(run=commands.check)

    verb = verbs.add_parser(
        "reproduce",
        help="run a notebook again and show what changed",
        description="Run a notebook again, for real: its cells write their files and endpoints bill. Show what "
        "changed since it was frozen, and which differences could explain it.",
    )
    verb.add_argument("notebook", metavar="NOTEBOOK", help="an .ipynb file; it is run in a new kernel, and not changed")
    verb.add_argument(
        "--frozen", metavar="FILE", help="what %%tokmagic freeze wrote (NOTEBOOK.tokmagic.json beside it)"
    )
    verb.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="KIND",
        choices=list(get_args(Kind)),
        help="a kind of change that is reported but does not fail: text, tokens, cost, finish or runs (repeatable)",
    )
    verb.add_argument("-o", "--output", metavar="OUT", help="write the notebook with its new outputs to this file")
    verb.add_argument("--timeout", metavar="S", help="seconds that a cell may take (no limit)")
    verb.add_argument("--budget", metavar="USD", help="maximum cost of all runs together")
    verb.add_argument("--kernel", metavar="NAME", help="the kernel to run it in (the notebook's own)")
    _json(verb)
    verb.set_defaults(run=reproducing.reproduce)

    verb = verbs.add_parser("ledger", help="copy the ledger into another database")
    verb.add_argument(
        "action", metavar="ACTION", choices=["move"], help="move: copy every ended run into the ledger at URL"
    )
    verb.add_argument("url", metavar="URL", help="such as postgresql+psycopg://user@host/database")
    verb.set_defaults(run=commands.ledger)
    return top


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON")


def _selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--notebook", metavar="PATH", help="only this notebook's runs")
    verb.add_argument("--since", metavar="DATE", help="only runs from this day on (YYYY-MM-DD)")
    verb.add_argument("--until", metavar="DATE", help="only runs before this day")
    verb.add_argument("--month", metavar="MONTH", help="only runs of this month (YYYY-MM)")
    verb.add_argument("--user", metavar="NAME", help="only this user's runs")
    verb.add_argument("--model", metavar="NAME", help="only runs of the model of this name")
    verb.add_argument(
        "--tag", action="append", default=[], metavar="TEXT", help="only runs with this tag (repeat to require several)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    status = 0
    try:
        given = parser().parse_args(arguments)
        status = int(given.run(given))
        sys.stdout.flush()  # what is still buffered may be what cannot be written
        return status
    except UsageError as error:
        print(f"tokmagic: {error}", file=sys.stderr)
        return 2
    except TokmagicError as error:
        print(f"tokmagic: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"tokmagic: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away (`tokmagic export | head`): nothing is wrong.
        sys.stderr.close()
        return status
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        print(f"tokmagic: standard output cannot be written: {error.strerror}", file=sys.stderr)
        # Python flushes once more as it ends, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
