"""A panel in an output: what it is asked and told, who looks at it, and what is left of it afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import tokmagic.runs.panel
from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import UsageError
from tokmagic.magics.magics import TokMagics
from tokmagic.runs.live import row_wire
from tokmagic.runs.panel import Panel
from tokmagic.runs.session import Session

Make = Callable[..., Session]
PATIENCE_S = 60.0
HI = Prompt((Message("user", "Hi"),))


class Front:
    """A front end: what it was sent, and what its views send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def take(self, message: dict[str, Any]) -> None:
        self.sent.append(json.loads(json.dumps(message)))

    def of(self, page: str) -> list[dict[str, Any]]:
        return [it for it in self.sent if it.get("page") == page]

    @property
    def pushed(self) -> list[dict[str, Any]]:
        return [it for it in self.sent if "page" not in it]


def hello(page: str) -> dict[str, Any]:
    return {"v": 1, "type": "hello", "path": None, "widgets": True, "page": page}


@pytest.fixture
def session(make_session: Make) -> Session:
    return make_session(model="scripted")


@pytest.fixture
def front() -> Front:
    return Front()


@pytest.fixture
def panel(session: Session, front: Front) -> Iterator[Panel]:
    made = Panel(session.channel, front.take)
    yield made
    made.close()


def test_it_is_told_of_runs_outside_a_kernel_too(session: Session, front: Front, panel: Panel) -> None:
    """As in marimo, where no extension is loaded; nobody has to say hello first."""
    session.generate(HI, cell_id="c")
    session.channel.flush(PATIENCE_S)
    (kept,) = session.ledger().runs()
    assert front.pushed[-1]["rows"] == [row_wire(kept)]
    assert front.pushed[-1]["totals"]["notebook"]["runs"] == 1


def test_an_answer_names_the_page_that_asked(session: Session, front: Front, panel: Panel) -> None:
    session.generate(HI, cell_id="c")
    session.channel.flush(PATIENCE_S)
    panel.receive(hello("one"))
    (answer,) = front.of("one")
    assert answer["complete"]
    assert [row["cell_id"] for row in answer["rows"]] == ["c"]
    panel.receive({"v": 1, "type": "detail", "cell_id": "c", "seq": 4, "run_id": None, "page": "two"})
    (detail,) = front.of("two")
    assert (detail["type"], detail["seq"], len(detail["runs"])) == ("detail", 4, 1)
    assert session.widgets, "a page with a panel renders widgets"


@pytest.mark.parametrize("message", [None, 7, {}, {"v": 2, "type": "hello"}, {"v": 1, "type": "x", "page": [1]}])
def test_what_is_no_question_gets_an_error(front: Front, panel: Panel, message: Any) -> None:
    panel.receive(message)
    assert [it["type"] for it in front.sent] == ["error"]


def test_it_stops_a_run(session: Session, front: Front, panel: Panel) -> None:
    class Watcher:
        def token(self, _text: str) -> None:
            run = session.changes().rows[-1]
            panel.receive({"v": 1, "type": "stop", "run_id": run.run_id, "page": "one"})

    ended = session.generate(HI, cell_id="c", watcher=Watcher())
    assert ended.status == "interrupted"


def test_after_the_last_goodbye_nothing_is_sent_until_the_next_hello(
    session: Session, front: Front, panel: Panel
) -> None:
    def pushes() -> int:
        before = len(front.pushed)
        session.channel.touch()
        session.channel.flush(PATIENCE_S)
        return len(front.pushed) - before

    panel.receive(hello("one"))
    panel.receive(hello("two"))
    panel.receive({"type": "goodbye", "page": "one"})
    assert (pushes(), panel.left) == (1, False)
    panel.receive({"type": "goodbye", "page": "two"})
    assert (pushes(), panel.left) == (0, True)
    panel.receive(hello("three"))
    assert (pushes(), panel.left) == (1, False)
    panel.close()
    assert pushes() == 0


# As widgets


class Comm:
    def __init__(self) -> None:
        self.closed = self._closed = False
        self._told: Any = None

    def on_close(self, told: Any) -> None:
        self._told = told

    def close_there(self) -> None:
        self._closed = True
        self._told({})

    def close_untold(self) -> None:
        """As marimo does with a cell that runs again."""
        self._closed = True


class StandIn:
    """What a panel uses of anywidget's class, without a kernel."""

    made: list[StandIn]

    def __init__(self, **state: Any) -> None:
        self.state, self.comm, self.front = state, Comm(), Front()
        self._asked: Any = None
        self.made.append(self)

    def send(self, message: dict[str, Any]) -> None:
        self.front.take(message)

    def on_msg(self, asked: Any) -> None:
        self._asked = asked

    def says(self, message: dict[str, Any]) -> None:
        self._asked(self, message, [])

    def close(self) -> None:
        self.comm.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[list[StandIn]]:
    """The widgets made in a test, by a stand-in for anywidget and for what node builds."""
    for name in ("panel.js", "panel.css"):
        (tmp_path / name).write_text("/* built */", encoding="utf-8")
    monkeypatch.setattr(tokmagic.runs.panel, "BUILT", tmp_path)
    monkeypatch.setattr(StandIn, "made", [], raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", SimpleNamespace(AnyWidget=StandIn))
    tokmagic.runs.panel._widget_class.cache_clear()
    yield StandIn.made
    tokmagic.runs.panel._widget_class.cache_clear()


def closed(made: list[StandIn]) -> list[bool]:
    return [it.comm.closed for it in made]


def test_a_new_widget_knows_what_the_ledger_does(session: Session, made: list[StandIn]) -> None:
    session.generate(HI, cell_id="c")
    shown = session.panels.open("p")
    assert shown is made[0]
    assert shown.state["first"]["complete"]
    assert [row["cell_id"] for row in shown.state["first"]["rows"]] == ["c"]
    assert "0x" not in repr(shown), "what is saved of it is the same each time"


def test_a_cell_that_runs_again_replaces_its_panel(session: Session, made: list[StandIn]) -> None:
    session.panels.open("p")
    session.panels.open("another")
    assert closed(made) == [False, False]
    session.panels.open("p")
    assert closed(made) == [True, False, False]
    session.panels.close()
    assert closed(made) == [True] * 3


def test_panels_that_nobody_looks_at_any_more_go_with_the_next_one(session: Session, made: list[StandIn]) -> None:
    session.panels.open(None).says(hello("one"))
    session.panels.open(None).says(hello("one"))
    made[0].says({"type": "goodbye", "page": "one"})
    assert closed(made) == [False, False], "a cell that is moved shows its panel again"
    session.panels.open(None)
    assert closed(made) == [True, False, False]


def test_a_widget_that_its_front_end_closes_is_let_go(session: Session, made: list[StandIn]) -> None:
    session.panels.open(None)
    made[0].comm.close_there()
    session.generate(HI, cell_id="c")
    session.channel.flush(PATIENCE_S)
    assert made[0].front.sent == []
    assert closed(made) == [True]


def test_a_widget_that_is_closed_without_a_word_is_let_go_at_the_next_message(
    session: Session, made: list[StandIn]
) -> None:
    session.panels.open(None)
    session.panels.open(None)
    made[0].comm.close_untold()
    session.generate(HI, cell_id="c")
    session.channel.flush(PATIENCE_S)
    assert closed(made) == [True, False]
    assert made[0].front.sent == []
    assert made[1].front.pushed[-1]["totals"]["notebook"]["runs"] == 1


def test_a_panel_knows_whether_there_are_magics(session: Session, made: list[StandIn]) -> None:
    session.panels.open(None)
    session.panels.open(None, magics=False)
    assert [it.state["magics"] for it in made] == [True, False]


def test_without_the_package_one_line_says_what_to_install(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(UsageError) as said:
        session.panels.open(None)
    assert str(said.value) == "a panel needs the package anywidget; run: pip install 'tokmagic[panel]'"


def test_without_its_script_one_line_says_how_to_get_it(
    session: Session, made: list[StandIn], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(tokmagic.runs.panel, "BUILT", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="built without node"):
        session.panels.open(None)
    assert made == []


def test_a_terminal_is_told_what_prints_the_same(session: Session) -> None:
    shell = InteractiveShell()
    with pytest.raises(UsageError, match=r"needs a notebook .* %cost prints the same"):
        TokMagics(shell, session).tokmagic("panel")
    shell.history_manager.end_session()
