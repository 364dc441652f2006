"""The keys in a ledger. A secret is shown once, when its key is made: only a digest of it is kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tokmagic.core.budget import Budget
from tokmagic.core.fields import utc_text, utc_time
from tokmagic.core.keys import SCOPE_OF, Key, Part, Period
from tokmagic.core.record import RunRecord
from tokmagic.errors import UsageError, nearest
from tokmagic.ledgers.backend import Database
from tokmagic.ledgers.schema import keys, runs, to_record
from tokmagic.prices import budgets, from_picodollars, to_picodollars

_PREFIX = "tm-"
_LONGEST = 100
_COLUMNS: dict[Part, str] = {"usd": "cap_pico", "tokens": "cap_tokens", "user": "user", "team": "team"}


class Keys:
    """A ledger's keys. Every method raises LedgerError where the database cannot do its part."""

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger

    def add(
        self,
        name: str,
        user: str | None = None,
        team: str | None = None,
        usd: Decimal | None = None,
        tokens: int | None = None,
        period: Period = "total",
    ) -> tuple[Key, str]:
        """Make a key and return it with its secret, which is kept nowhere.

        ``usd`` and ``tokens`` cap what is run with it in each ``period``. Raises UsageError for a name that is taken or
        cannot be used, BudgetError for a cap that is none.
        """
        if name.startswith(_PREFIX):
            raise UsageError(f"a key's name cannot begin with {_PREFIX}, as secrets do; choose another name")
        _check({"name": name, "user": user, "team": team}, period)
        secret = f"{_PREFIX}{secrets.token_urlsafe(32)}"
        row = {
            "id": secrets.token_hex(6),
            "name": name,
            "secret_sha256": _digest(secret),
            "user": user,
            "team": team,
            **_caps(usd, tokens),
            "period": period,
            "created_at": utc_text(datetime.now(UTC)),
            "revoked_at": None,
        }
        with self._ledger.writing() as connection:
            try:
                connection.execute(keys.insert(), row)
            except IntegrityError as error:
                raise UsageError(f"there is, or was, a key {name!r}; choose another name") from error
        return _from_row(row), secret

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret; None where there is none, or it was revoked."""
        valid = (keys.c.secret_sha256 == _digest(secret), keys.c.revoked_at.is_(None))
        with self._ledger.reading() as connection:
            row = connection.execute(sa.select(keys).where(*valid)).mappings().one_or_none()
        return None if row is None else _from_row(row)

    def is_valid(self, key_id: str) -> bool:
        """Whether there is a key with this id that was not revoked."""
        with self._ledger.reading() as connection:
            valid = sa.select(keys.c.id).where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
            return connection.execute(valid).first() is not None

    def all(self) -> list[Key]:
        """Return all keys, revoked ones too, in the order in which they were made."""
        with self._ledger.reading() as connection:
            rows = connection.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.id)).mappings()
            return [_from_row(row) for row in rows]

    def change(
        self,
        name_or_id: str,
        usd: Decimal | None = None,
        tokens: int | None = None,
        period: Period | None = None,
        *,
        user: str | None = None,
        team: str | None = None,
        without: Collection[Part] = (),
    ) -> Key:
        """Change a key and return it; what is None stays, and what ``without`` names is taken from it.

        Its next request is held to its new budget and belongs to its new user and team; earlier runs keep theirs.
        Raises UsageError for no key, for one that was revoked and for a period without a cap, BudgetError for a cap
        that is none.
        """
        key = self._named(name_or_id)
        if key.revoked_at is not None:
            raise UsageError(f"key {key.name!r} is revoked; make another one with: tokmagic key add NAME")
        _check({"user": user, "team": team}, period)
        given: dict[str, Any] = {**_caps(usd, tokens), "period": period, "user": user, "team": team}
        changed = {name: value for name, value in given.items() if value is not None}
        changed |= {_COLUMNS[part]: None for part in without}
        this = keys.c.id == key.key_id
        with self._ledger.writing() as connection:
            if changed:
                connection.execute(keys.update().where(this).values(changed))
            found = _from_row(connection.execute(sa.select(keys).where(this)).mappings().one())
            if period is not None and found.budget is None:  # nothing is changed: it is rolled back
                raise UsageError(
                    f"key {key.name!r} has no cap that a period could be of; give one in USD, in tokens, or both"
                )
            return found

    def run(self, key_id: str, run_id: str) -> RunRecord | None:
        """Return the run of a key with this id, else the latest of which its client's row has it; None for none.

        One that was refused is returned where there is no other: an earlier attempt is what there is a bill of.
        """
        its_own, refused = runs.c.run_id == run_id, runs.c.status == "refused"
        query = (
            sa.select(runs)
            .where(runs.c.key == key_id, sa.or_(its_own, runs.c.client_run_id == run_id))
            .order_by(its_own.desc(), refused, runs.c.id.desc())
            .limit(1)
        )
        with self._ledger.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else to_record(dict(row))

    def revoke(self, name_or_id: str) -> Key:
        """Let nobody use a key any more and return it; what goes on ends as it would. Raises UsageError for no key.

        A key that was revoked before stays as it is.
        """
        this = keys.c.id == self._named(name_or_id).key_id
        with self._ledger.writing() as connection:
            revoked = {"revoked_at": utc_text(datetime.now(UTC))}
            connection.execute(keys.update().where(this, keys.c.revoked_at.is_(None)).values(revoked))
            return _from_row(connection.execute(sa.select(keys).where(this)).mappings().one())

    def _named(self, name_or_id: str) -> Key:
        """The key of this name or id. Raises UsageError for none."""
        if name_or_id.startswith(_PREFIX):  # not repeated in a message, which may be kept
            raise UsageError("that is a key's secret; give its name or id, as tokmagic key list shows them")
        known = self.all()
        named = {key.key_id: key for key in known} | {key.name: key for key in known}
        if name_or_id not in named:
            near = nearest(name_or_id, named)
            raise UsageError(f"there is no key {name_or_id!r}{near}; tokmagic key list shows all")
        return named[name_or_id]


def _check(called: Mapping[str, str | None], period: str | None) -> None:
    """Raise UsageError for what a key cannot have as its name, user or team, or as its budget's period."""
    for what, text in called.items():
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= _LONGEST):
            raise UsageError(f"{text!r} cannot be a key's {what}; give at most {_LONGEST} printable characters")
    if period is not None and period not in get_args(Period):
        raise UsageError(f"{period!r} is no period of a key's budget; use {', '.join(get_args(Period))}")


def _caps(usd: Decimal | None, tokens: int | None) -> dict[str, int | None]:
    """Caps as they are kept. Raises BudgetError."""
    return {
        "cap_pico": None if usd is None else to_picodollars(budgets.usd(usd, what="the key's budget")),
        "cap_tokens": None if tokens is None else budgets.tokens(tokens, what="the key's cap in tokens"),
    }


def budget_of(connection: sa.Connection, key_id: str) -> Budget | None:
    """A key's budget as it is now; None where it has none."""
    row = connection.execute(sa.select(keys).where(keys.c.id == key_id)).mappings().one_or_none()
    return None if row is None else _from_row(row).budget


def _digest(secret: str) -> str:
    # One round of SHA-256 is enough: of 256 random bits nobody guesses any, however quick a guess is.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _from_row(row: Any) -> Key:
    usd, tokens = from_picodollars(row["cap_pico"]), row["cap_tokens"]
    budget = None
    if usd is not None or tokens is not None:
        # Strict: what has no price cannot be counted, and would slip past the cap.
        origin = f"key {row['name']}"
        budget = Budget(SCOPE_OF[row["period"]], usd, tokens, strict=usd is not None, origin=origin, key=row["id"])
    revoked_at = None if row["revoked_at"] is None else utc_time(row["revoked_at"])
    return Key(row["id"], row["name"], row["user"], row["team"], budget, utc_time(row["created_at"]), revoked_at)
