"""``tokmagic key``: a secret is printed once and alone, budgets stand as they are, and wrong usage is one line."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests.commands import Command, command_in
from tests.ledgers.test_store import run
from tokmagic.core.budget import Hold
from tokmagic.core.record import Reading
from tokmagic.ledgers import Ledger


@pytest.fixture
def tokmagic(tmp_path: Path, capsys: pytest.CaptureFixture[str], sqlite_url: str) -> Command:
    return command_in(tmp_path, capsys)


def test_a_secret_is_printed_alone_and_is_the_keys(tokmagic: Command, sqlite_url: str) -> None:
    done = tokmagic("key", "add", "ci", "--user", "ada", "--team", "search", "--budget", "$20", "--per", "month")
    assert done.returncode == 0
    secret = done.stdout.removesuffix("\n")
    with closing(Ledger(sqlite_url)) as ledger:
        (key,) = ledger.keys.all()
        assert ledger.keys.find(secret) == key
    assert (key.name, key.user, key.team) == ("ci", "ada", "search")
    assert key.budget is not None
    assert (key.budget.scope, key.budget.usd, key.budget.tokens) == ("month", Decimal(20), None)
    assert done.stderr == (
        f"this is the secret of key ci ({key.key_id}); it is shown this once and kept nowhere. "
        "Programs send it as their API key\n"
    )
    for words in (["list"], ["list", "--json"], ["revoke", "ci"]):
        told = tokmagic("key", *words)
        assert secret not in told.stdout + told.stderr


def test_the_list_tells_what_is_spent_held_and_left(tokmagic: Command, sqlite_url: str) -> None:
    assert tokmagic("key", "list").stdout.splitlines()[-1] == "there is no key; tokmagic key add NAME makes one"
    now = datetime.now(UTC)
    with closing(Ledger(sqlite_url)) as ledger:
        capped, _ = ledger.keys.add("capped", "ada", "search", Decimal(1), 1_000, "day")
        free, _ = ledger.keys.add("free")
        for number, key in enumerate((capped, free, free)):
            ledger.settle(
                replace(run(f"r{number}", cost="0.25", started_at=now, key=key.key_id), duplicate=number == 1)
            )
        ledger.settle(run("unpriced", started_at=now, key=free.key_id))
        begun = run("b", status="running", started_at=now, key=capped.key_id, reading=Reading())
        ledger.begin(begun, (), Hold(100, Decimal("0.5")))
        ledger.keys.revoke("free")
        shown = tokmagic("key", "list")
        lines = [line.split() for line in shown.stdout.splitlines()]
        assert lines[0] == ["key", "id", "user", "team", "per", "cap", "spent", "held", "left", "state"]
        told = "ada search day $1.00, 1,000 tokens $0.2500, 14 $0.5000, 100 $0.2500, 886 valid"
        assert lines[1] == ["capped", capped.key_id, *told.split()]
        assert lines[2] == ["free", free.key_id, *["—", "—", "total", "—", "≥$0.5000", "$0", "—", "revoked"]]
        assert shown.stdout.splitlines()[3] == "1 run without a price, not in what is spent in USD"
        first, second = json.loads(tokmagic("key", "list", "--json").stdout)
    figures = ("per", "cap_usd", "cap_tokens", "spent_usd", "spent_tokens", "held_usd", "held_tokens", "left_usd")
    assert [first[name] for name in figures] == ["day", "1", 1_000, "0.25", 14, "0.5", 100, "0.25"]
    assert (first["left_tokens"], first["spent_bound"], first["revoked_at"]) == (886, "exact", None)
    assert [second[name] for name in figures] == ["total", None, None, "0.5", 42, "0", 0, None]
    assert (second["spent_bound"], second["unpriced_runs"], second["left_tokens"]) == ("at_least", 1, None)
    assert second["revoked_at"] is not None


def test_a_revoked_key_is_told_of(tokmagic: Command, sqlite_url: str) -> None:
    secret = tokmagic("key", "add", "ci").stdout.strip()
    done = tokmagic("key", "revoke", "ci")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("key ci (")
    with closing(Ledger(sqlite_url)) as ledger:
        assert ledger.keys.find(secret) is None


def test_a_changed_budget_is_told_and_what_was_not_given_stays(tokmagic: Command, sqlite_url: str) -> None:
    tokmagic("key", "add", "ci", "--budget", "20", "--per", "month")
    done = tokmagic("key", "change", "ci", "--budget", "30", "--tokens", "5000")
    assert (done.returncode, done.stderr) == (0, "")
    with closing(Ledger(sqlite_url)) as ledger:
        (key,) = ledger.keys.all()
        told = f"the budget of key ci ({key.key_id}) is $30.00 and 5,000 tokens a month, from its next request on\n"
        assert done.stdout == told
        assert "$30.00 and 5,000 tokens in all" in tokmagic("key", "change", "ci", "--per", "total").stdout
        ledger.keys.revoke("ci")
    again = tokmagic("key", "change", "ci", "--budget", "40")
    assert (again.returncode, again.stdout) == (2, "")
    assert "key 'ci' is revoked" in again.stderr


def test_caps_are_taken_away_and_what_is_left_holds(tokmagic: Command, sqlite_url: str) -> None:
    tokmagic("key", "add", "ci", "--budget", "20", "--tokens", "5000", "--per", "month")
    with closing(Ledger(sqlite_url)) as ledger:
        (key,) = ledger.keys.all()
        done = tokmagic("key", "change", "ci", "--budget", "none")
        assert done.stdout == f"the budget of key ci ({key.key_id}) is 5,000 tokens a month, from its next request on\n"
        done = tokmagic("key", "change", "ci", "--tokens", "none")
        assert done.stdout == f"key ci ({key.key_id}) has no budget, from its next request on\n"
        assert ledger.budgets(None, None, key.key_id) == []
        # Given one anew it is of the period that it had.
        assert "is $5.00 a month," in tokmagic("key", "change", "ci", "--budget", "5").stdout


def test_a_key_gets_another_user_and_team_and_its_rows_keep_theirs(tokmagic: Command, sqlite_url: str) -> None:
    tokmagic("key", "add", "ci", "--user", "ada", "--team", "search", "--budget", "20")
    with closing(Ledger(sqlite_url)) as ledger:
        (key,) = ledger.keys.all()
        before = replace(run("r", cost="0.25"), key=key.key_id, user=key.user, team=key.team)
        ledger.settle(before)
        done = tokmagic("key", "change", "ci", "--user", "bob")
        told = f"key ci ({key.key_id}) belongs to user bob and team search, from its next request on"
        assert (done.returncode, done.stdout) == (0, f"{told}; earlier runs keep theirs\n")
        assert ledger.keys.all() == [replace(key, user="bob")]
        assert "belongs to nobody, from" in tokmagic("key", "change", "ci", "--user", "none", "--team", "none").stdout
        (now,) = ledger.keys.all()
        assert (now.user, now.team, now.budget) == (None, None, key.budget)
        (row,) = ledger.runs()
        assert (row.user, row.team) == ("ada", "search")
        assert json.loads(tokmagic("key", "list", "--json").stdout)[0]["spent_usd"] == "0.25"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "ACTION"),
        ("frob", "frob"),
        ("add", "key add needs the key's name"),
        ("revoke", "key revoke needs the key's name"),
        ("list ci", "key list takes no name"),
        ("list --user ada", "--user cannot be used with key list"),
        ("change", "key change needs the key's name"),
        ("change there", "key change needs what is to change: --budget USD, --tokens N, --per PERIOD, --user NAME or"),
        ("change there --budget none --per day", "key 'there' has no cap that a period could be of"),
        ("change there --tokens some", "--tokens is 'some'; give a whole number"),
        ("change there --user ''", "cannot be a key's user"),
        ("change there --budget 0", "--budget is 0"),
        ("change there --per day", "key 'there' has no cap that a period could be of"),
        ("change nobody --budget 5", "there is no key 'nobody'"),
        ("revoke ci --budget 5", "--budget cannot be used with key revoke"),
        ("add ci --json", "--json cannot be used with key add"),
        ("add ci --per month", "--per needs a cap: --budget USD, --tokens N, or both"),
        ("add ci --budget 5 --per week", "week"),
        ("add ci --budget 0", "--budget is 0"),
        ("add ci --budget five", "--budget is 'five'"),
        ("add ci --budget 1e-13", "finer than a picodollar"),
        ("add ci --tokens 0", "--tokens is 0"),
        ("add ci --tokens many", "many"),
        ("add tm-abc", "cannot begin with tm-"),
        ("add there", "there is, or was, a key 'there'"),
        ("revoke nobody", "there is no key 'nobody'"),
    ],
)
def test_wrong_usage_is_one_line_and_makes_no_key(tokmagic: Command, sqlite_url: str, words: str, told: str) -> None:
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.keys.add("there")
        done = tokmagic("key", *shlex.split(words))
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert told in done.stderr
        assert [key.name for key in ledger.keys.all()] == ["there"]
