"""A database brought to the tables of this version, whoever made it."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from tokmagic.core.forks import whole
from tokmagic.errors import LedgerError, NewerLedgerError
from tokmagic.ledgers.backend import Backend, mapped
from tokmagic.ledgers.schema import metadata

_MIGRATIONS = Path(__file__).parent / "migrations"
_REVISIONS = sorted(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
# alembic knows of one migration at a time in a process: two ledgers that two threads open would be taken for one.
_MIGRATING = threading.Lock()
# As alembic has it.
_VERSION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def migrate(backend: Backend) -> None:
    """Create or update the tables. Raises LedgerError, for another program's database and for a newer ledger, too."""
    with mapped(backend), backend.reading() as connection:
        if _revision(backend, connection) == _REVISIONS[-1]:
            return
    with mapped(backend):
        backend.prepare()
    with mapped(backend), backend.writing() as connection:
        backend.serialise(connection, "migrations")
        revision = _revision(backend, connection)
        if revision == _REVISIONS[-1]:  # another process was quicker
            return
        if revision is None:
            _create(connection)
        else:
            _upgrade(connection)


def _create(connection: sa.Connection) -> None:
    """Make the tables of this version at once, as the migrations make them one after the other."""
    metadata.create_all(connection, checkfirst=False)
    _VERSION.create(connection)
    connection.execute(_VERSION.insert().values(version_num=_REVISIONS[-1]))


def _upgrade(connection: sa.Connection) -> None:
    with whole():  # a child would wait for an import that a thread of its parent had begun
        from alembic import command
        from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _MIGRATING:
        command.upgrade(config, "head")


def _revision(backend: Backend, connection: sa.Connection) -> str | None:
    """Which version's tables there are; None for none at all, and an empty text for those of no version yet."""
    tables = set(sa.inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        if tables:
            raise LedgerError(f"{backend.name} is another program's database; set TOKMAGIC_LEDGER to another file")
        return None
    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if revision is not None and revision not in _REVISIONS:
        raise NewerLedgerError(
            f"{backend.name} was written by a newer tokmagic (revision {revision}); "
            "upgrade tokmagic, or set TOKMAGIC_LEDGER to another file"
        )
    return "" if revision is None else str(revision)
