"""A ledger's file by any of its names is one ledger, and stands where its name says."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests.ledgers.test_store import asked, ids, run
from tokmagic.core.budget import Budget, Hold
from tokmagic.core.config import TokMagic
from tokmagic.core.files import sqlite_url
from tokmagic.errors import LedgerError
from tokmagic.ledgers import Ledger, Outbox, file_of
from tokmagic.ledgers.move import move
from tokmagic.runs.session import Session

NOW = datetime(2026, 11, 24, 12)
DAY = Budget("day", usd=Decimal(1))


def linked(file: Path) -> str:
    (file.parent / "link.sqlite").symlink_to(file)
    return f"sqlite:///{file.parent}/link.sqlite"


def in_a_linked_folder(file: Path) -> str:
    (file.parent.parent / "link").symlink_to(file.parent)
    return f"sqlite:///{file.parent.parent}/link/{file.name}"


def through_links(file: Path) -> str:
    (file.parent / "first").symlink_to(file.name)
    (file.parent.parent / "second").symlink_to(Path(file.parent.name, "first"))
    return f"sqlite:///{file.parent.parent}/second"


NAMES: dict[str, Callable[[Path], str]] = {
    "a link": linked,
    "a linked folder": in_a_linked_folder,
    "links to links": through_links,
    "relative": lambda file: f"sqlite:///{os.path.relpath(file)}",
    "dots": lambda file: f"sqlite:///{file.parent}/../{file.parent.name}/./{file.name}",
    "home": lambda file: f"sqlite:///~/{file.parent.name}/{file.name}",
    "an escape": lambda file: f"sqlite:///{file.parent}/{file.name.replace('l', '%6C')}",
    "a URI": lambda file: f"sqlite:///file:{file}?mode=rw&uri=true",
    "a driver": lambda file: f"sqlite+pysqlite:///{file}",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_lives_under_every_name_of_its_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "folder" / "ledger.sqlite"
    other_folder = tmp_path / "elsewhere"
    other_folder.mkdir()
    with ExitStack() as stack:
        one = stack.enter_context(closing(Ledger(sqlite_url(file))))
        one.admit(run("live", status="running"), (), Hold(1, Decimal("0.75")), [DAY], NOW)
        url = NAMES[name](file)
        other = stack.enter_context(closing(Ledger(url)))
        monkeypatch.chdir(other_folder)  # a notebook may, between two runs
        assert other.reap() == 0
        assert ids(other.runs()) == ["live"]
        refused = other.admit(run("second", status="running"), (), Hold(1, Decimal("0.75")), [DAY], NOW)
        assert refused.refused is not None
        assert asked(sqlite_url(file), "SELECT status FROM runs") == ["running"]
        with pytest.raises(LedgerError, match="is the ledger in use already"):
            move(one, other)
    assert list(other_folder.iterdir()) == []
    assert len(list(tmp_path.rglob("*.live"))) == 1


def test_a_file_with_two_names_of_its_own_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    Ledger(sqlite_url(file)).close()
    (tmp_path / "hard.sqlite").hardlink_to(file)
    for path in (file, tmp_path / "hard.sqlite"):
        with pytest.raises(LedgerError, match=r"has 2 names \(hard links\).*; copy the file, or use a symbolic link"):
            Ledger(sqlite_url(path))
    (tmp_path / "hard.sqlite").unlink()
    Ledger(sqlite_url(file)).close()


ODD = ["a?b", "a%41b", "100%", "a#b", "a b", "a&mode=ro", "a;b", "a@b:c", "é", "a%3Fb", "file:a", "a+b"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_any_name_holds_what_belongs_there(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    session = Session(TokMagic(home=str(home), model="scripted"))
    assert file_of(session.settings.ledger) == home / "ledger.sqlite"
    session.ledger().settle(run("r"), (), "answer")
    session.close()
    with closing(Ledger(sqlite_url(home / "ledger.sqlite"))) as ledger:
        assert ids(ledger.runs()) == ["r"]
    outbox = Outbox(home / "undelivered.sqlite", store_text=True)
    outbox.keep(run("late"), (), "answer")
    assert outbox
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"ledger.sqlite", "undelivered.sqlite"} <= {path.name for path in home.iterdir()}
