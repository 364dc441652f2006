"""``%budget``: what may be spent, and what was."""

from __future__ import annotations

import argparse

from IPython.core.error import StdinNotImplementedError

from tokmagic.core.budget import Budget, Scope, Standing
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.magics.shell import Shell
from tokmagic.prices import budgets
from tokmagic.prompts.parser import Parser, integer
from tokmagic.runs.session import Session

SCOPES: tuple[Scope, ...] = ("cell", "notebook", "day", "month")


def parser() -> Parser:
    """The words and options of ``%budget``."""
    made = Parser("%budget")
    add = made.add_argument
    told = "what to cap, cell being each single run; off removes your budgets; none: list them"
    add("scope", nargs="?", choices=("list", *SCOPES, "off"), default="list", help=told)
    add("usd", nargs="?", metavar="USD", help="the cap in USD, or off")
    add("--tokens", type=integer, metavar="N", help="cap in tokens; for cell: the prompt length above which it asks")
    add("--warn", type=float, metavar="SHARE", default=0.8, help="share of the cap at which it warns (0.8)")
    add("--strict", action="store_true", help="refuse runs without a known price instead of warning")
    add("--was", metavar="PATH", help="notebook: its path before it was renamed; its runs and budget come along")
    add("--everyone", action="store_true", help="cap each user of a shared ledger, not only you")
    return made


def run(at: Shell, line: str) -> Table:
    """List the budgets and how they stand, or set one. Raises UsageError, BudgetError, LedgerError."""
    options = at.parse(parser(), line)
    if options.scope == "list":
        if options != parser().parse_args([]):
            raise UsageError("what to cap is missing: cell, notebook, day or month, such as %budget day 5")
    else:
        _change(at.session, options)
        at.session.refresh_totals()
        at.session.channel.touch()
    return table(at.session)


def _change(session: Session, options: argparse.Namespace) -> None:
    ledger = session.ledger()
    if options.was is not None:
        if options.scope != "notebook" or options.usd is not None or options.tokens is not None:
            raise UsageError(
                "--was brings a renamed notebook's budget along: %budget notebook --was PATH, nothing else"
            )
        session.notebook_was(options.was)
        return
    if "off" in (options.scope, options.usd) and options.tokens is not None:
        raise UsageError("off removes a budget, --tokens sets one; give one of them")
    if options.scope == "off":
        if options.usd is not None:  # meant is the one, gone would be all
            one = options.usd if options.usd in SCOPES else "day"
            raise UsageError(f"%budget off removes all your budgets; to remove one: %budget {one} off")
        for scope in SCOPES:
            ledger.drop_budget(_named(session, scope, everyone=options.everyone))
        return
    named = _named(session, options.scope, everyone=options.everyone)
    if options.usd != "off":
        ledger.set_budget(_asked(named, options))
    elif not ledger.drop_budget(named):
        raise UsageError(f"there is no budget for the {options.scope} to switch off; %budget lists them")


def table(session: Session) -> Table:
    """The budgets that hold here, and how they stand."""
    standings = session.standings(with_uncertainty=True)
    rows = tuple(_row(it) for it in standings)
    unpriced = max((it.unpriced_runs for it in standings if it.budget.usd is not None), default=0)
    note = session.whereabouts.notice or ("" if rows else "no budget is set: %budget day 5 caps a day at $5.00")
    if unpriced:
        runs = numbers.counted(unpriced, "run")
        note = f"{runs} without a price, not counted in any budget in USD; set one with %price"
    return Table(("budget", "cap", "spent", "held", "left", "used", "warns at", "of"), rows, note)


def ask(question: str) -> bool | None:
    """Put a question to the person; None where there is nobody to answer."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (StdinNotImplementedError, EOFError):
        return None


def _named(session: Session, scope: Scope, *, everyone: bool) -> Budget:
    here = session.budget_notebook if scope in ("cell", "notebook") else None
    return Budget(scope, notebook=here, user=None if everyone else session.user)


def _asked(named: Budget, options: argparse.Namespace) -> Budget:
    if options.usd is None and options.tokens is None:
        raise UsageError(f"%budget {named.scope} needs a cap: an amount in USD, --tokens N, or off")
    if not 0 < options.warn <= 1:
        raise UsageError(f"--warn is {options.warn:g}; give a share of the cap above 0 and up to 1, such as 0.8")
    return Budget(
        named.scope,
        None if options.usd is None else budgets.usd(options.usd, what=f"%budget {named.scope}"),
        None if options.tokens is None else budgets.tokens(options.tokens, what="--tokens"),
        options.warn,
        options.strict,
        named.notebook,
        named.user,
    )


def _row(it: Standing) -> tuple[str, ...]:
    budget, cell = it.budget, it.budget.scope == "cell"
    columns = list(budgets.figures(it))
    if cell:  # it bounds each run by itself, so nothing adds up
        columns[1:] = [numbers.UNKNOWN] * 3
    used = numbers.UNKNOWN if cell else numbers.percent(it.share)
    if not cell and budget.usd is not None:
        used = numbers.marked(used, it.precision)
    whose = "each user" if budget.user is None else budget.user
    source = "" if budget.origin == "%budget" else f" ({budget.origin})"
    strict = " strict" if budget.strict else ""
    return (f"{budget.scope}{strict}{source}", *columns, used, f"{budget.warn_at:.0%}", whose)
