"""The ledger's tables, and how a row becomes a record and back.

Money is an integer of picodollars, times are UTC ISO 8601 text of fixed width (which sorts as time
does), and what nobody filters by is JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, get_args

import sqlalchemy as sa

from tokmagic.core.fields import FIELDS, Field, Kind, Layout, utc_text, utc_time
from tokmagic.core.money import Cost, Rates, rates_dict, rates_of
from tokmagic.core.prompt import Message, spelled
from tokmagic.core.record import INFO_IN_ENV, USAGE_IN_ENV, EngineInfo, Reading, RunRecord
from tokmagic.core.stream import Usage
from tokmagic.prices import bill, from_picodollars, to_picodollars

metadata = sa.MetaData()

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {
    **dict.fromkeys(get_args(Kind), sa.Text()),
    "int": sa.BigInteger(),
    "float": sa.Float(53),
    "money": sa.BigInteger(),
    "time": sa.String(27),
    "flag": sa.Boolean(),
}


def _column(field: Field) -> sa.Column[Any]:
    kind = _TYPES[field.kind]
    if field.size is not None:
        kind = sa.String(field.size) if field.kind == "text" else sa.Integer()
    return sa.Column(field.column, kind, nullable=not field.required, unique=field.path == "run_id")


def _only(condition: str) -> dict[str, Any]:
    """For an index of some runs alone."""
    return dict.fromkeys(("sqlite_where", "postgresql_where"), sa.text(condition))


_OF_BUDGETS = ("started_at", "status", "cost_pico", "input_tokens", "output_tokens")
"""What the sums of a budget are made of."""

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", _KEY, primary_key=True),
    *(_column(field) for field in FIELDS if field.stored),
    # The process to which a run belongs while it goes on, and what it holds.
    sa.Column("owner", sa.String(32)),
    sa.Column("hold_pico", sa.BigInteger),
    sa.Column("hold_tokens", sa.BigInteger),
    sa.Index("runs_by_notebook", "notebook", "started_at"),
    sa.Index(
        "runs_by_time",
        *("started_at", "model", "status", "cost_pico", "saved_pico"),
        *("input_tokens", "output_tokens", "ttft_s", "itl_mean_s", "cost_source", "cost_bound", "duplicate"),
    ),
    sa.Index("runs_by_user", "user", *_OF_BUDGETS, "duplicate"),
    sa.Index("runs_by_key", "key", *_OF_BUDGETS, **_only("key IS NOT NULL")),
    sa.Index("runs_by_client", "client_run_id", **_only("client_run_id IS NOT NULL")),
    sa.Index("runs_open", "owner", **_only("status = 'running'")),
    sa.Index("runs_cached", "status", "saved_pico", "duplicate", **_only("status = 'cached'")),
    sa.Index(
        "runs_metered",
        *("started_at", "model", "status", "energy_j", "output_tokens", "energy_source", "energy_bound", "duplicate"),
        **_only("energy_j IS NOT NULL"),
    ),
)

LIVE = sa.text("runs.status = 'running'")
"""Runs that go on. Written out, not as a parameter: only so SQLite sees that the index of these runs alone answers."""
ENDED = runs.c.status != "running"
ONCE = runs.c.duplicate.is_(None)
"""All but the server's rows of runs whose client's row is here too. What is no duplicate is NULL there."""
RELEASED = dict.fromkeys(("owner", "hold_pico", "hold_tokens"))
"""What an ended run holds and belongs to."""

texts = sa.Table(
    "texts",
    metadata,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("prompt", sa.Text),
    sa.Column("answer", sa.Text),
)

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("scope", sa.String(8), nullable=False),
    sa.Column("notebook", sa.Text),
    sa.Column("user", sa.Text),
    sa.Column("cap_pico", sa.BigInteger),
    sa.Column("cap_tokens", sa.BigInteger),
    sa.Column("warn_at", sa.Float(53), nullable=False),
    sa.Column("strict", sa.Boolean, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("user", sa.Text),
    sa.Column("team", sa.Text),
    sa.Column("cap_pico", sa.BigInteger),
    sa.Column("cap_tokens", sa.BigInteger),
    sa.Column("period", sa.String(5), nullable=False),
    sa.Column("created_at", sa.String(27), nullable=False),
    sa.Column("revoked_at", sa.String(27)),
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("budget", sa.Text, primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("taken_at", sa.String(27), nullable=False),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.String(27), nullable=False),
    # With the size in it, so that their sum is asked without reading the answers.
    sa.Index("answers_by_use", "used_at", "size_bytes"),
)


# Dollars are summed in two parts, since a sum of picodollars alone leaves 64 bits at nine million dollars.
_CHUNK = 1_000_000


def money_parts(pico: Any) -> tuple[Any, Any]:
    """An expression in picodollars as two columns that can be added up without leaving 64 bits."""
    return pico.op("/")(_CHUNK), pico.op("%")(_CHUNK)


def money_sum(pico: Any) -> tuple[Any, Any]:
    """The sum of an expression in picodollars as two columns, for :func:`money`."""
    high, low = money_parts(pico)
    return sa.func.sum(high), sa.func.sum(low)


def money(high: Any, low: Any) -> Decimal | None:
    """A sum in USD from what :func:`money_sum` selected; None for a sum of nothing."""
    return None if high is None else from_picodollars(int(high) * _CHUNK + int(low))


def storable(text: str) -> str:
    """``text`` with what not every database takes written out: lone surrogates as ``\\udce9``, NUL as ``\\x00``."""
    if text.isascii() and "\0" not in text:  # nearly always, and every run asks it thirty times
        return text
    return spelled(text).replace("\0", "\\x00")


# Made once: making an encoder takes longer than encoding what a row holds.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: Any) -> str:
    """A value as JSON that any database takes and any file: lone surrogates in it are spelled out, as in a text."""
    text = _ENCODER.encode(value)
    # Within JSON's strings a backslash is two: one alone would come back as the surrogate.
    return text if text.isascii() else _SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):04x}", text)


def json_value(text: str) -> Any:
    """The inverse of :func:`json_text`; what was written before is read as it would be written now."""
    value = json.loads(text)
    return json.loads(json_text(value)) if r"\ud" in text else value


# A session's runs have few different rates.
@lru_cache(maxsize=64)
def _frozen(rates: Rates) -> str:
    return json_text(rates_dict(rates))


@lru_cache(maxsize=64)
def _thawed(text: str) -> Rates:
    return rates_of(json_value(text))


_COLUMNS = Layout(
    {field.column: field for field in FIELDS if field.stored},
    {
        "text": storable,
        "time": utc_text,
        "money": to_picodollars,
        "json": json_text,
        "list": json_text,
        "rates": _frozen,
        "flag": lambda it: it or None,
    },
)
to_row = _COLUMNS.row
"""The columns of a record: without ``id``, and without what it holds and belongs to while it goes on."""

_READERS: dict[Kind, Callable[[Any], Any]] = {
    "time": utc_time,
    "money": from_picodollars,
    "json": json_value,
    "list": lambda text: tuple(json_value(text)),
    "rates": _thawed,
}
# What NULL stands for, where that is not the unknown.
_NULL: dict[Kind, Any] = {"flag": False}
# Attributes, their columns and how these are read, by what has them: "reading.usage", "" for the record itself.
_ATTRIBUTES: dict[str, list[tuple[str, str, Callable[[Any], Any] | None, Any]]] = {}
for _column_name, _field in _COLUMNS.fields.items():
    _owner, _, _attribute = _field.path.rpartition(".")
    _read = (_attribute, _column_name, _READERS.get(_field.kind), _NULL.get(_field.kind))
    _ATTRIBUTES.setdefault(_owner, []).append(_read)


def to_record(row: Mapping[str, Any]) -> RunRecord:
    """Return the record of a row."""

    def of(owner: str) -> dict[str, Any]:
        return {
            attribute: null if (value := row[name]) is None else value if read is None else read(value)
            for attribute, name, read, null in _ATTRIBUTES[owner]
        }

    own = of("")
    rates, env = own["rates"], own["env"]
    usage = Usage(**of("reading.usage"), **{name: env.get(name) for name in USAGE_IN_ENV})
    # Follows from what is frozen in the row, so it has no column of its own.
    shadow_usd = None if rates.shadow is None else bill(usage, None, rates.shadow).usd
    return RunRecord(
        **own,
        info=EngineInfo(**of("info"), **{name: env.get(name) for name in INFO_IN_ENV}),
        reading=Reading(usage=usage, cost=Cost(**of("reading.cost"), shadow_usd=shadow_usd), **of("reading")),
    )


class Insert:
    """An insert as the driver takes it, compiled once. ``columns`` are those that a row gives."""

    def __init__(self, statement: sa.Insert, columns: list[str], dialect: sa.Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self._sql = str(compiled)
        self._order: list[str] | None = compiled.positiontup

    def __call__(self, execute: Callable[[str, Any], object], row: dict[str, Any]) -> None:
        execute(self._sql, row if self._order is None else tuple([row[name] for name in self._order]))


def row_update(record: RunRecord) -> dict[str, Any]:
    """What an update of a run's row writes, which the parameter ``its_run_id`` names.

    Not its notebook, which may have been renamed since, nor whether it is a duplicate, which is only known here.
    """
    row = to_row(record)
    del row["notebook"], row["duplicate"]
    return {"its_run_id": record.run_id, **row}


def chat_text(prompt: Sequence[Message]) -> str:
    """A prompt as the ledger keeps it."""
    return json_text([[message.role, message.content] for message in prompt])


def chat_of(text: str | None) -> list[Message]:
    """The inverse of :func:`chat_text`."""
    return [Message(role, content) for role, content in json_value(text)] if text else []
