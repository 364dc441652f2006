"""``tokmagic key``: the keys by which programs ask a shared engine."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from decimal import Decimal
from typing import get_args

from tokmagic.cli.common import add_json, print_table
from tokmagic.core.keys import Key, Part, Period
from tokmagic.errors import BudgetError, UsageError
from tokmagic.formatting import numbers
from tokmagic.prices import budgets
from tokmagic.prompts.parser import integer
from tokmagic.reports.keys import keys_table
from tokmagic.runs import api

_NONE = "none"
_OPTIONS: dict[Part, str] = {"usd": "budget", "tokens": "tokens", "user": "user", "team": "team"}


def add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    told = "add: make a key and print its secret, once; list: how the budgets of all keys stand; change: give a key "
    told += "another budget, user or team; revoke: end a key"
    add("action", metavar="ACTION", choices=["add", "list", "change", "revoke"], help=told)
    add("name", metavar="NAME", nargs="?", help="the key's name; for change and revoke also its id")
    add("--user", metavar="NAME", help="add, change: whose runs these are (nobody's)")
    add("--team", metavar="NAME", help="add, change: which team's")
    add("--budget", metavar="USD", help="add, change: the most that may be spent with it (no limit)")
    told = "add, change: the most tokens, input and output together (no limit); change takes none for each of these"
    add("--tokens", metavar="N", help=told)
    add("--per", choices=get_args(Period), help="add, change: over what these count: total (default), month or day")
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Add, list, change or revoke."""
    of_budget = {"--budget": given.budget, "--tokens": given.tokens, "--per": given.per}
    stated = of_budget | {"--user": given.user, "--team": given.team}
    takes = list(stated) if given.action in ("add", "change") else []
    odd = [option for option, value in stated.items() if value is not None and option not in takes]
    if given.json and given.action != "list":
        odd.append("--json")
    if odd:
        raise UsageError(f"{odd[0]} cannot be used with key {given.action}")
    if (given.name is None) != (given.action == "list"):
        raise UsageError("key list takes no name" if given.name else f"key {given.action} needs the key's name")
    if given.action == "list":
        return print_table(keys_table(api.ledger(), datetime.now()), given)
    if given.action == "revoke":
        return _revoke(given.name)
    return _add(given) if given.action == "add" else _change(given)


def _add(given: argparse.Namespace) -> int:
    if given.per is not None and given.budget is None and given.tokens is None:
        raise UsageError("--per needs a cap: --budget USD, --tokens N, or both")
    usd, tokens = _caps(given)
    key, secret = api.ledger().keys.add(given.name, given.user, given.team, usd, tokens, given.per or "total")
    # Alone there, so that it can be put where it belongs without being read.
    print(secret)
    print(
        f"this is the secret of key {key.name} ({key.key_id}); it is shown this once and kept nowhere. "
        "Programs send it as their API key",
        file=sys.stderr,
    )
    return 0


def _change(given: argparse.Namespace) -> int:
    asked = {"usd": given.budget, "tokens": given.tokens, "user": given.user, "team": given.team}
    if given.per is None and all(text is None for text in asked.values()):
        options = "--budget USD, --tokens N, --per PERIOD, --user NAME or --team NAME"
        raise UsageError(f"key change needs what is to change: {options}; none takes a cap, the user or the team away")
    without = [part for part in _OPTIONS if asked[part] == _NONE]
    for part in without:
        setattr(given, _OPTIONS[part], None)
    usd, tokens = _caps(given)
    key = api.ledger().keys.change(
        given.name, usd, tokens, given.per, user=given.user, team=given.team, without=without
    )
    told = f"key {key.name} ({key.key_id})"
    if {asked["usd"], asked["tokens"], given.per} != {None}:
        budget = f"the budget of {told} is {_budget(key)}" if key.budget is not None else f"{told} has no budget"
        print(f"{budget}, from its next request on")
    if {asked["user"], asked["team"]} != {None}:
        whose = f"user {key.user}" if key.user is not None else "nobody"
        whose += f" and team {key.team}" if key.team is not None else ""
        print(f"{told} belongs to {whose}, from its next request on; earlier runs keep theirs")
    return 0


def _caps(given: argparse.Namespace) -> tuple[Decimal | None, int | None]:
    try:
        usd = None if given.budget is None else budgets.usd(given.budget, what="--budget")
        tokens = None if given.tokens is None else budgets.tokens(_integer(given.tokens), what="--tokens")
    except BudgetError as error:
        raise UsageError(str(error)) from None
    return usd, tokens


def _integer(text: str) -> int:
    try:
        return integer(text)
    except ValueError:
        raise UsageError(f"--tokens is {text!r}; give a whole number") from None


def _budget(key: Key) -> str:
    assert key.budget is not None  # it was given one
    caps = [numbers.usd(key.budget.usd)] if key.budget.usd is not None else []
    caps += [f"{key.budget.tokens:,} tokens"] if key.budget.tokens is not None else []
    period = "in all" if key.budget.scope == "key" else f"a {key.budget.scope}"
    return f"{' and '.join(caps)} {period}"


def _revoke(name: str) -> int:
    key = api.ledger().keys.revoke(name)
    print(f"key {key.name} ({key.key_id}) is revoked: requests with it are refused; what it spent stays recorded")
    return 0
