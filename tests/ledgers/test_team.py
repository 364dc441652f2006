"""A ledger on a server: it may go away and come back, be moved to, and shows nobody its password."""

from __future__ import annotations

import socket
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.ledgers.test_store import CHAT, FULL, ids, run
from tokmagic.cli import main
from tokmagic.core.budget import Budget
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import Selection, Status, Sum
from tokmagic.errors import LedgerError
from tokmagic.ledgers import Ledger, way
from tokmagic.ledgers.move import Moved, move
from tokmagic.ledgers.outbox import kept_in
from tokmagic.runs.recorder import LedgerWarning
from tokmagic.runs.session import Session

pytestmark = pytest.mark.postgres

ASK = Prompt((Message("user", "Hi"),))
Make = Callable[..., Session]


class Server:
    """The database of a test, which can be made to refuse everybody and end every connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        address, _, self.name = url.replace("+psycopg", "").rpartition("/")
        self.admin = psycopg.connect(f"{address}/postgres", autocommit=True)

    def go_away(self) -> None:
        self._allow("false")
        self.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self.name])

    def come_back(self) -> None:
        self._allow("true")

    def _allow(self, whether: str) -> None:
        name = sql.Identifier(self.name)
        self.admin.execute(sql.SQL(f"ALTER DATABASE {{}} ALLOW_CONNECTIONS {whether}").format(name))


@pytest.fixture
def server(postgres_url: str) -> Iterator[Server]:
    made = Server(postgres_url)
    yield made
    made.come_back()
    made.admin.close()


class AtPiece:
    def __init__(self, number: int, do: Callable[[], object]) -> None:
        self.left, self.do = number, do

    def token(self, _text: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.do()


def test_a_server_that_goes_away_in_mid_run_gets_the_run_later_and_once(
    make_session: Make, server: Server, tmp_path: Path
) -> None:
    session = make_session(ledger=server.url, model="scripted", store_text=True)
    session.prices.set("scripted", Rates(Decimal(1), Decimal(2)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cut = session.generate(ASK, watcher=AtPiece(3, server.go_away))
        missed = session.generate(ASK)
    assert [it.category for it in seen] == [LedgerWarning] * len(seen)
    assert any(
        "kept on this machine and delivered when its ledger can be reached again" in str(it.message) for it in seen
    )
    assert (cut.status, missed.status) == ("ok", "ok")
    assert kept_in(tmp_path, server.url).exists()
    server.come_back()
    later = session.generate(ASK)
    kept = session.ledger().runs()
    assert sorted(ids(kept)) == sorted(it.run_id for it in (cut, missed, later))
    assert {record.run_id: record for record in kept}[cut.run_id] == cut.record
    assert session.ledger().texts(cut.run_id) == (list(ASK.messages), cut.text)
    totals = session.ledger().totals(Selection())
    assert (totals.runs, totals.cost_usd) == (3, 3 * (cut.cost.usd or 0))
    assert not kept_in(tmp_path, server.url).exists()


def test_another_process_delivers_what_an_ended_one_kept(make_session: Make, server: Server) -> None:
    server.go_away()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = make_session(ledger=server.url, model="scripted")
        lost = first.generate(ASK)
        first.close()
    server.come_back()
    second = make_session(ledger=server.url, model="scripted")
    assert second.generate(ASK).status == "ok"
    assert lost.run_id in ids(second.ledger().runs())


def test_a_run_taken_for_dead_while_the_server_was_away_ends_as_it_did(make_session: Make, server: Server) -> None:
    session = make_session(ledger=server.url, model="scripted")

    def away_and_back() -> None:
        server.go_away()
        server.come_back()
        with closing(Ledger(server.url)) as other:
            assert [record.status for record in other.runs()] == ["interrupted"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generation = session.generate(ASK, watcher=AtPiece(3, away_and_back))
    assert session.ledger().runs() == [generation.record]
    assert generation.status == "ok"


@pytest.mark.parametrize("away", [False, True])
def test_nobody_sees_the_password(server: Server, away: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2-s3cret"
    url = server.url.replace("postgres@", f"nobody-here:{secret}@")
    if away:
        url = url.replace(server.name, "no_such_database")
    with pytest.raises(LedgerError) as raised:
        Ledger(url)
    shown = [str(raised.value)]
    with pytest.raises(LedgerError) as raised:
        Ledger(f"postgresql://ada:{secret}@host:port/db")
    shown.append(str(raised.value))
    for text in shown:
        assert secret not in text
        assert "\n" not in text


def test_texts_stay_out_of_a_server_unless_they_are_wanted(make_session: Make, server: Server) -> None:
    session = make_session(ledger=server.url, model="scripted")
    generation = session.generate(ASK)
    assert session.ledger().texts(generation.run_id) is None


@pytest.mark.parametrize("back", [False, True], ids=["to the server", "from the server"])
def test_one_ledger_is_copied_into_the_other(sqlite_url: str, postgres_url: str, back: bool) -> None:
    urls = (postgres_url, sqlite_url) if back else (sqlite_url, postgres_url)
    with closing(Ledger(urls[0])) as source, closing(Ledger(urls[1])) as target:
        source.settle(FULL, CHAT, "Because.")
        statuses: list[Status] = ["ok", "failed", "interrupted"]
        for number in range(1_200):
            source.settle(run(f"r{number}", status=statuses[number % 3], cost="0.000000000001"))
        source.begin(run("live", status="running"))
        source.set_budget(Budget("day", Decimal(5), user="ada"))
        done: list[int] = []
        assert move(source, target, done.append) == Moved(1_201, 1_201, 0, 1)
        assert done[-1] == 1_201
        assert target.runs() == source.runs()[:-1]
        assert target.totals(Selection()) == source.totals(Selection())
        assert target.texts(FULL.run_id) == source.texts(FULL.run_id)
        assert target.budgets("ada", None) == source.budgets("ada", None)
        source.settle(run("live"))
        assert move(source, target) == Moved(1, 1, 1_201, 0), "again copies only what is new"
        with pytest.raises(LedgerError, match="is the ledger in use already"):
            move(source, source)


def test_the_command_copies_it(
    sqlite_url: str,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tokmagic.runs import api

    monkeypatch.setattr(api, "_session", None)
    monkeypatch.setenv("TOKMAGIC_HOME", str(tmp_path))
    monkeypatch.setenv("TOKMAGIC_LEDGER", sqlite_url)
    with closing(Ledger(sqlite_url)) as ledger:
        ledger.settle(FULL, CHAT, "Because.")
    assert main(["ledger", "move", postgres_url]) == 0
    assert "1 run, 0 texts and 0 cached answers copied into postgresql://127.0.0.1:" in capsys.readouterr().out
    with closing(Ledger(postgres_url)) as moved:
        assert moved.runs() == [FULL]
        assert moved.texts(FULL.run_id) is None
    assert main(["ledger", "move", "nonsense"]) == 1


def test_what_a_url_says_of_its_connections_holds(postgres_url: str, tmp_path: Path) -> None:
    """Ledgers in two schemas of a database that has other programs' tables, and times of one's own."""
    urls = [f"{postgres_url}?options=-csearch_path%3D{name}&keepalives_idle=77" for name in ("ours", "theirs")]
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        for statement in ("CREATE TABLE other (id int)", "CREATE SCHEMA ours", "CREATE SCHEMA theirs"):
            admin.execute(statement)
        with closing(Ledger(urls[0])) as ours, closing(Ledger(urls[1])) as theirs:
            ours.settle(run("a"))
            assert (ids(ours.runs()), ids(theirs.runs())) == (["a"], [])
            assert [row[0] for row in admin.execute("SELECT run_id FROM ours.runs")] == ["a"]
            assert move(ours, theirs).runs == 1
            with ours.reading() as connection:
                dsn = connection.connection.dbapi_connection.info.dsn  # type: ignore[union-attr]
                kept = connection.exec_driver_sql("SHOW tcp_keepalives_idle").scalar_one()
    assert "keepalives_idle=77" in dsn.split()
    assert kept == "60"
    assert kept_in(tmp_path, urls[0]) != kept_in(tmp_path, urls[1])
    with pytest.raises(LedgerError, match="is another program's database"):
        Ledger(postgres_url)


def test_a_server_that_leaves_a_connection_unanswered_is_not_tried_by_each_write(
    make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "AWAY_S", 600.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        session = make_session(ledger=f"postgresql://me@127.0.0.1:{port}/db?connect_timeout=2", model="scripted")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(3):
                assert session.generate(ASK).status == "ok"
        silent.settimeout(0)
        assert len(list(iter(lambda: _came(silent), False))) == 1
    assert any("connection timeout expired" in str(it.message) for it in seen)


def test_others_do_not_wait_for_a_process_that_stopped_in_the_middle_of_a_transaction(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(postgres_url)) as other:
        monkeypatch.setattr(way, "STUCK_S", 0.2)
        with closing(Ledger(postgres_url)) as stopped:

            def stop_in_the_middle() -> None:
                with stopped.writing() as connection:
                    connection.exec_driver_sql("LOCK TABLE runs IN EXCLUSIVE MODE")
                    other.settle(run("other"))

            with pytest.raises(LedgerError):
                stop_in_the_middle()
            stopped.settle(run("later"))
        assert ids(other.runs()) == ["other", "later"]


class Pooler:
    """Between a client and a server: it leaves a connection's options out, or refuses them, as PgBouncer does."""

    def __init__(self, port: int, *, refuses: bool) -> None:
        self._server_port, self._refuses = port, refuses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):  # at its end
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        length, protocol = struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))
        words = client.recv(length - 8, socket.MSG_WAITALL).rstrip(b"\0").split(b"\0")
        given = dict(zip(words[::2], words[1::2], strict=True))
        if given.pop(b"options", None) is not None and self._refuses:
            said = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            client.sendall(b"E" + struct.pack("!I", len(said) + 4) + said)
            client.close()
            return
        passed = b"".join(b"%b\0%b\0" % it for it in given.items()) + b"\0"
        server = socket.create_connection(("127.0.0.1", self._server_port))
        server.sendall(struct.pack("!II", len(passed) + 8, protocol) + passed)
        threading.Thread(target=self._pass_on, args=(server, client), daemon=True).start()
        self._pass_on(client, server)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.mark.parametrize("refuses", [False, True], ids=["leaves them out", "refuses them"])
def test_a_pooler_that_passes_no_options_on_is_named(postgres_url: str, refuses: bool) -> None:
    address, _, database = postgres_url.rpartition("/")
    with closing(Pooler(int(address.rpartition(":")[2]), refuses=refuses)) as pooler:
        url = f"postgresql://postgres@127.0.0.1:{pooler.port}/{database}?sslmode=disable&gssencmode=disable"
        with pytest.raises(LedgerError, match="is reached by way of a pooler, such as PgBouncer"):
            Ledger(url)
        if not refuses:  # who names connections otherwise is not asked
            Ledger(f"{url}&application_name=mine").close()


def _came(listener: socket.socket) -> bool:
    with suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False


def test_each_users_day_is_capped_by_itself(postgres_url: str) -> None:
    from tests.runs.test_budgets import ASK as messages
    from tests.runs.test_budgets import DIME, NOW, mine

    with closing(Ledger(postgres_url)) as ledger:
        ledger.set_budget(Budget("day", Decimal("0.20"), user=None))
        held = ledger.budgets("ada", None)
        for user in ("ada", "bob"):
            refused = [
                ledger.admit(mine(f"{user}{number}", user=user), messages, DIME, held, NOW).refused
                for number in range(3)
            ]
            assert [reason is None for reason in refused] == [True, True, False]
        assert ledger.totals(Selection()) == Sum()
        ledger.settle(replace(run("ada0", cost="0.05"), user="ada", started_at=NOW))
        assert ledger.admit(mine("ada3", user="ada"), messages, DIME, held, NOW).refused is not None
