"""``tokmagic check``: a notebook's saved numbers against limits, and its comparisons against their baselines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tokmagic.cli.common import add_json, print_json, tell
from tokmagic.comparisons import gate as gates
from tokmagic.comparisons import saved as comparison
from tokmagic.comparisons.gate import Gate
from tokmagic.core.files import read_file
from tokmagic.errors import NotebookError, UsageError
from tokmagic.notebooks import check, saved
from tokmagic.prompts.parser import integer


def add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("notebook", nargs="+", metavar="NOTEBOOK", help="an .ipynb file; nothing in it is run")
    told = "fail where a variant of a saved comparison is worse than its baseline; also takes .json files"
    add("--compare", action="store_true", help=told)
    add("--level", metavar="P", help="how small p must be for that, after Holm's correction (0.05)")
    told = "in which figure: score, cost, tokens or latency (repeatable; score)"
    add("--metric", action="append", metavar="NAME", help=told)
    told = "fail where it is not shown to be worse by less than this at 95 %%: 0.02, cost=0.0001 (repeatable)"
    add("--margin", action="append", metavar="[NAME=]M", help=told)
    add("--max-cost", metavar="USD", help="maximum cost of all its cells together")
    told = "maximum tokens of all its cells together, input plus output"
    add("--max-tokens", type=integer, metavar="N", help=told)
    add("--max-increase", metavar="PCT", help="maximum growth of each cell and of the whole notebook, such as 10%%")
    add("--against", metavar="OLD", help="the earlier version: a file, or git:REV for the same path there")
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Check each notebook: exit 1 beyond a limit, and where there is nothing to check."""
    wanted = check.limits(given.max_cost, given.max_tokens, given.max_increase)
    gate = gates.gate(given.metric, given.level, given.margin) if given.compare else None
    if gate is None and (given.level is not None or given.metric or given.margin):
        raise UsageError("--level, --metric and --margin are of --compare; give that, too")
    if not wanted.any and given.against is None and gate is None:
        raise UsageError("check needs a limit: --max-cost, --max-tokens, --compare, or --max-increase with --against")
    if wanted.increase is not None and given.against is None:
        raise UsageError("--max-increase needs the earlier version: --against OLD.ipynb or --against git:HEAD")
    if given.against is not None and not given.against.startswith("git:") and len(given.notebook) > 1:
        raise UsageError("--against a file goes with one notebook; for several use --against git:REV")
    found: list[dict[str, Any]] = []
    for path in given.notebook:
        if gate is not None:
            found.append(_compared(path, gate, quiet=given.json))
        if not wanted.any and given.against is None:
            continue
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
            tell(*heading, check.table(verdict), *(f"{path}: {it}" for it in verdict.problems))
    if given.json:
        with suppress(BrokenPipeError):
            print_json(found, indent=1)
    return 0 if all(it["ok"] for it in found) else 1


def _compared(path: str, gate: Gate, *, quiet: bool) -> dict[str, Any]:
    """Check the comparisons of a file, and print what is wrong."""
    data = read_file(path)
    try:
        problems = list(_of_json(data, gate) if path.endswith(".json") else _of_notebook(data, path, gate))
    except NotebookError as error:
        problems = [str(error)]
    if not quiet:
        lines = [f"{path}: {it}" for it in problems] or [f"{path}: {_passed(gate)}"]
        tell(*lines)
    return {"notebook": path, "ok": not problems, "compare": list(gate.metrics), "problems": problems}


def _passed(gate: Gate) -> str:
    told = [f"{name} (margin {gate.margins[name]:g})" if name in gate.margins else name for name in gate.metrics]
    return f"no variant is worse in {', '.join(told)}"


def _of_json(data: bytes, gate: Gate) -> Iterator[str]:
    try:
        yield from gates.problems(comparison.read(data), gate)
    except ValueError as error:
        yield str(error)


def _of_notebook(data: bytes, path: str, gate: Gate) -> Iterator[str]:
    """Each comparison once, in the cell that made it. Raises NotebookError."""
    notebook = saved.read(data, path)
    notebook.refuse_conflict()
    if not any(cell.compares or cell.comparisons for cell in notebook.cells):
        yield "there is nothing to check: no cell holds a comparison"
    seen: set[tuple[object, ...]] = set()
    for cell in notebook.cells:
        if cell.compares and not cell.comparisons:
            yield f"{cell.name} has no comparison in its output; run it without --quiet, with metadata on"
        for given in cell.comparisons:
            try:
                it = comparison.read(given)
            except ValueError as error:
                yield f"{cell.name}: {error}"
                continue
            own = cell.compares or it.cell_id == cell.id
            if own and it.source_sha256 is not None and it.source_sha256 != cell.source_sha256:
                yield f"{cell.name} was changed after it ran; run it again"
            elif it.told not in seen:
                yield from (f"{cell.name}: {problem}" for problem in gates.problems(it, gate))
            seen.add(it.told)
