"""What a ledger knows of notebooks: whose runs a file's cells hold, and a notebook's rows under another path.

A row names its notebook by path, so a notebook's runs and budgets are put under the new one when its path changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tokmagic.ledgers import budgets as budget_rows
from tokmagic.ledgers.backend import Database
from tokmagic.ledgers.budgets import SESSION
from tokmagic.ledgers.schema import budgets, runs, storable

_AT_ONCE = 500
# What is added to the name of a notebook whose file another one replaced: no file is called so.
_REPLACED = " (replaced "


class Notebooks:
    """The notebooks in a ledger, a user's rows of them. Every method raises LedgerError."""

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger

    def of_runs(self, run_ids: Collection[str], user: str | None) -> list[str]:
        """The notebooks in which the runs with these ids are kept, the one with the most of them first."""
        return self._most(runs.c.run_id, run_ids, _whose(runs, user))

    def of_cells(self, cell_ids: Collection[str], user: str | None, notebook: str | None = None) -> list[str]:
        """The notebooks with runs in these cells, likewise; or ``notebook`` alone, if it is one of them.

        Without ``notebook`` all runs are looked through: for what is asked once a session.
        """
        here = [] if notebook is None else [runs.c.notebook == storable(notebook)]
        return self._most(runs.c.cell_id, cell_ids, _whose(runs, user), *here)

    def capped(self, user: str | None) -> list[str]:
        """The notebooks that have a budget of their own, the one that was set last first; not those replaced."""
        ours = (budgets.c.notebook.is_not(None), _held_to(user))
        query = sa.select(budgets.c.notebook).where(*ours).order_by(budgets.c.id.desc())
        with self._ledger.reading() as connection:
            found = dict.fromkeys(connection.execute(query).scalars())
        return [notebook for notebook in found if _REPLACED not in notebook]

    def is_known(self, notebook: str, user: str | None) -> bool:
        """Whether there are runs in a notebook, or a budget for it."""
        with self._ledger.reading() as connection:
            return _is_known(connection, notebook, user)

    def called(self, name: str) -> list[str]:
        """The paths of all notebooks that have runs and whose file has this name, whoever ran them."""
        ends = runs.c.notebook.endswith(f"/{storable(name)}", autoescape=True)
        with self._ledger.reading() as connection:
            return list(connection.execute(sa.select(runs.c.notebook).where(ends).distinct()).scalars())

    def of_run(self, run_id: str) -> str | None:
        """The notebook in which a run is kept now; None where there is no such run, or no path."""
        with self._ledger.reading() as connection:
            found: str | None = connection.execute(sa.select(runs.c.notebook).where(runs.c.run_id == run_id)).scalar()
            return found

    def rename(self, old: str, new: str, user: str | None, now: datetime, *, joins: bool = False) -> None:
        """Put a notebook's runs and budgets under another path, as one step; does nothing where there are none.

        What is kept there of another notebook, whose file this one replaced, gets a name of its own, unless the
        renamed notebook ``joins`` it: the two are one. A budget for everyone stays for the others, too.
        """
        with self._ledger.writing() as connection:
            if not _is_known(connection, old, user):
                return
            if not joins and _is_known(connection, new, user):
                _move(connection, new, f"{new}{_REPLACED}{now:%Y-%m-%d %H:%M:%S.%f})", user)
            _move(connection, old, new, user)

    def _most(self, column: Any, values: Collection[str], *where: Any) -> list[str]:
        counts: dict[str, int] = {}
        wanted = sorted(map(storable, values))
        with self._ledger.reading() as connection:
            for start in range(0, len(wanted), _AT_ONCE):
                these = column.in_(wanted[start : start + _AT_ONCE])
                query = sa.select(runs.c.notebook, sa.func.count()).where(these, runs.c.notebook.is_not(None), *where)
                for notebook, count in connection.execute(query.group_by(runs.c.notebook)):
                    counts[notebook] = counts.get(notebook, 0) + count
        return sorted(counts, key=lambda notebook: -counts[notebook])


def _move(connection: sa.Connection, old: str, new: str, user: str | None) -> None:
    connection.execute(runs.update().where(*_kept_as(old), _whose(runs, user)).values(notebook=storable(new)))
    query = sa.select(budgets).where(budgets.c.notebook == storable(old), _held_to(user)).order_by(budgets.c.id)
    for row in connection.execute(query).mappings().all():
        budget = budget_rows.from_row(row)
        if budget.user is not None or user is None:
            budget_rows.drop(connection, budget)
        budget_rows.write(connection, replace(budget, notebook=new))


def _is_known(connection: sa.Connection, notebook: str, user: str | None) -> bool:
    run = sa.select(runs.c.id).where(*_kept_as(notebook), _whose(runs, user)).limit(1)
    cap = sa.select(budgets.c.id).where(budgets.c.notebook == storable(notebook), _held_to(user)).limit(1)
    return any(connection.execute(query).first() is not None for query in (run, cap))


def _kept_as(notebook: str) -> list[Any]:
    session = notebook.removeprefix(SESSION)
    if session != notebook:
        return [runs.c.session == session, runs.c.notebook.is_(None)]
    return [runs.c.notebook == storable(notebook)]


def _whose(table: sa.Table, user: str | None) -> Any:
    return table.c.user.is_(None) if user is None else table.c.user == user


def _held_to(user: str | None) -> Any:
    """Budgets that a user has to keep to: his own, and those for everyone."""
    return sa.or_(budgets.c.user.is_(None), _whose(budgets, user))
