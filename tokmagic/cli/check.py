"""``tokmagic check``: a notebook's saved numbers against limits."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tokmagic.cli.common import add_json, print_json
from tokmagic.core.files import read_file
from tokmagic.errors import NotebookError, UsageError
from tokmagic.notebooks import check
from tokmagic.prompts.parser import integer


def add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("notebook", nargs="+", metavar="NOTEBOOK", help="an .ipynb file; nothing in it is run")
    add("--max-cost", metavar="USD", help="maximum cost of all its cells together")
    told = "maximum tokens of all its cells together, input plus output"
    add("--max-tokens", type=integer, metavar="N", help=told)
    add("--max-increase", metavar="PCT", help="maximum growth of each cell and of the whole notebook, such as 10%%")
    add("--against", metavar="OLD", help="the earlier version: a file, or git:REV for the same path there")
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Check each notebook: exit 1 beyond a limit, and where there is nothing to check."""
    wanted = check.limits(given.max_cost, given.max_tokens, given.max_increase)
    if not wanted.any and given.against is None:
        raise UsageError("check needs a limit: --max-cost, --max-tokens, or --max-increase with --against")
    if wanted.increase is not None and given.against is None:
        raise UsageError("--max-increase needs the earlier version: --against OLD.ipynb or --against git:HEAD")
    if given.against is not None and not given.against.startswith("git:") and len(given.notebook) > 1:
        raise UsageError("--against a file goes with one notebook; for several use --against git:REV")
    found: list[dict[str, Any]] = []
    for path in given.notebook:
        try:
            notebook = check.read(read_file(path), path)
            against = check.earlier(given.against, path) if given.against is not None else None
        except NotebookError as error:
            found.append({"notebook": path, "ok": False, "error": str(error)})
            if not given.json:
                print(f"tokmagic: {error}", file=sys.stderr, flush=True)
            continue
        verdict = check.check(notebook, wanted, against, new=given.against is not None and against is None)
        found.append(check.as_dict(verdict))
        if not given.json:
            heading = [f"{path}:"] if len(given.notebook) > 1 else []
            print(*heading, check.table(verdict), *(f"{path}: {it}" for it in verdict.problems), sep="\n", flush=True)
    if given.json:
        print_json(found, indent=1)
    return 0 if all(it["ok"] for it in found) else 1
