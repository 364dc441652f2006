"""Drafts: a cell that is being written is counted as its magic would count it, and nothing is run for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from tokenizers import pre_tokenizers

from tests.ledgers.test_store import run
from tests.small_tokenizers import TEMPLATE, TRIMMING, byte_level, save
from tokmagic.core.money import plain
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import Reading
from tokmagic.engines.base import ModelSpec, Tokenized
from tokmagic.errors import UsageError
from tokmagic.explain import TokenView
from tokmagic.formatting.tables import Table
from tokmagic.magics.import_lock import ImportLock
from tokmagic.magics.magics import TokMagics
from tokmagic.runs.drafts.service import MOST_CELLS
from tokmagic.runs.drafts.wire import Text
from tokmagic.runs.session import Session

PATIENCE_S = 60.0


def told() -> tuple[Any, list[str]]:
    """An object of the notebook's, and a list of what was asked of it: whenever code of its own runs."""
    asked: list[str] = []

    class Told:
        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            return asked

        def __str__(self) -> str:
            asked.append("__str__")
            return "told"

        def __eq__(self, other: object) -> bool:
            asked.append("__eq__")
            return False

        def __bool__(self) -> bool:
            asked.append("__bool__")
            return True

        __repr__ = __str__
        __hash__ = None  # type: ignore[assignment]

    return Told(), asked


class Loud(str):
    """A str that is none of the plain ones."""

    def __str__(self) -> str:
        raise AssertionError("evaluated")


class Page:
    """A page of the sidebar that tells of each change, as labextension/src/drafts.ts does it."""

    def __init__(self, session: Session, name: str = "page") -> None:
        self._session, self._name, self._seq = session, name, 0
        self.answers: list[dict[str, Any]] = []
        self._arrived = threading.Condition()

    def _take(self, answer: dict[str, Any]) -> None:
        with self._arrived:
            self.answers.append(answer)
            self._arrived.notify_all()

    def whole(self, source: str, cell_id: str = "c") -> dict[str, Any]:
        return self.change(cell_id, None, 0, 0, source)

    def change(self, cell_id: str, base: int | None, offset: int, deleted: int, text: str) -> dict[str, Any]:
        """Send a change and return the final answer to it."""
        self._seq += 1
        request = {"v": 1, "type": "draft", "cell_id": cell_id, "seq": self._seq, "base": base}
        self._session.draft(self._name, {**request, "offset": offset, "deleted": deleted, "text": text}, self._take)
        with self._arrived:
            assert self._arrived.wait_for(self._is_answered, PATIENCE_S), "no final answer came"
            return self.answers[-1]

    def _is_answered(self) -> bool:
        return self.answers[-1]["seq"] == self._seq and self.answers[-1]["state"] != "counting"

    @property
    def seq(self) -> int:
        return self._seq


def _folder(folder: Path, tokenizer: tokenizers.Tokenizer, template: str = TEMPLATE) -> ModelSpec:
    """A model's folder as far as a draft looks: a tokenizer, and weights that nobody reads."""
    save(folder, tokenizer, template)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return ModelSpec(str(folder))


@pytest.fixture
def session(make_session: Callable[..., Session], tmp_path: Path) -> Session:
    """A session whose current model has a tokenizer on this machine, and no weights."""
    made = make_session()
    made.models.add("small", _folder(tmp_path / "small", byte_level(["the quick brown fox " * 20], 320)))
    made.use("small")
    return made


@pytest.fixture
def shell(session: Session) -> Iterator[InteractiveShell]:
    made = InteractiveShell.instance()
    made.register_magics(TokMagics(made, session))
    session.variables = lambda: made.user_ns
    yield made
    InteractiveShell.clear_instance()


VARIABLES: dict[str, Any] = {
    "name": "the quick brown fox",
    "number": 42,
    "share": 0.1,
    "yes": True,
    "nothing": None,
    "roles": "a\n--- system\nb {{ number }}",
    "emoji": "🚀 naïve",
}

EXACT = [
    "%%generate\nHello",
    "%%generate\nHello\n",
    "%%generate\nHello\n\n",
    "\n \n%%generate\nHello",
    "%%generate  --max-tokens 10 \n  indented\n",
    "%%generate\nSay {{ name }} {{number}} {{ share }} {{ yes }} {{ nothing }} {{ true }} {{ none }}.",
    "%%generate\n{{ roles }}",
    "%%generate\n{ name } }} %} {# no comment #} ${{ name }}",
    "%%generate\n--- system\nBe brief.\n--- user\nHi {{ name }}\n--- assistant\nHo\n--- user\n",
    "%%generate\nFirst.\n---\nno role\n---\tsystem  \nBe brief.",
    "%%generate --system 'You are brief'\nHello 🚀",
    "%%generate --literal\n{{ name }}\n--- system\n{% if %}\n",
    "%%generate --completion\nOnce upon a time {{ emoji }}",
    "%%generate --chat known\nAnd then?",
    "%%generate --chat new\nAnd then?",
    "%%generate --chat known --reset\nAnd then?",
    "%%generate --stop --- --temperature 0 -n 3 --max-tokens 1e3 --tag $x --into {y}\nHello",
    "%%generate -m small\nHello",
]


@pytest.mark.parametrize("source", EXACT)
def test_a_draft_is_what_a_dry_run_says(session: Session, shell: InteractiveShell, source: str) -> None:
    shell.user_ns.update(VARIABLES | {"x": "tag", "y": "into"})
    session.chats["known"] = [Message("user", "Tell me."), Message("assistant", "Once upon a time")]
    answer = Page(session).whole(source)
    ran = shell.run_cell(source.replace("%%generate", "%%generate --dry-run", 1), store_history=False)
    table = ran.result
    assert isinstance(table, Table), ran.error_in_exec
    (row,) = table.rows
    most = f"≤ {answer['max_output_tokens']:,}"
    assert (row[:3], answer["reason"]) == (("small", f"{answer['input_tokens']:,}", most), None)
    assert (answer["state"], answer["model"], answer["input_source"]) == ("counted", "small", "counted")


@pytest.mark.parametrize("options", ["", "--system 'Be brief'", "--literal", "--completion", "-m small,other"])
def test_a_cell_of_tokens_is_counted_as_it_counts(session: Session, shell: InteractiveShell, options: str) -> None:
    shell.user_ns.update(VARIABLES)
    session.models.add("other", session.models.spec("small"))
    source = f"%%tokens {options}\nSay {{{{ name }}}}\n"
    view = shell.run_cell(source, store_history=False).result
    assert isinstance(view, TokenView)
    answer = Page(session).whole(source)
    assert (answer["input_tokens"], answer["input_source"]) == (view.models[0].tokens, "counted")
    assert (answer["model"], answer["max_output_tokens"]) == ("small", None)


def test_a_tokenizer_that_cannot_be_counted_by_piece_asks_for_a_pause(
    make_session: Callable[..., Session], tmp_path: Path
) -> None:
    whole = byte_level()
    whole.pre_tokenizer = pre_tokenizers.Sequence([])
    session = make_session()
    session.models.add("whole", _folder(tmp_path / "whole", whole))
    session.models.use("whole")
    page = Page(session)
    assert not page.whole("%%generate\nHello")["costly"]
    text = "the quick brown fox " * 2_000
    answer = page.whole(f"%%generate\n{text}")
    expected = session.models.engine().count(Prompt((Message("user", text),)))
    assert (answer["costly"], answer["input_tokens"], answer["input_source"]) == (True, expected, "counted")


def test_a_model_elsewhere_without_a_tokenizer_here_is_estimated(session: Session) -> None:
    session.models.add("far", ModelSpec("no-such-model", api_base="http://127.0.0.1:9/v1"))
    answer = Page(session).whole("%%generate -m far\nHello there")
    expected, source = session.models.engine("far").estimate(Prompt((Message("user", "Hello there"),)))
    assert (answer["input_tokens"], answer["input_source"]) == (expected, source) == (7, "estimated")
    assert "its tokenizer is not on this machine" in answer["reason"]


DOUBTFUL = [
    ("{{ told }}", "the template holds"),
    ("{{ loud }}", "the template holds"),
    ("{{ told.asked }}", "the template holds"),
    ("{{ told() }}", "the template holds"),
    ("{{ name | upper }}", "the template holds"),
    ("{{- name -}}", "the template holds"),
    ("{{ nobody }}", "the template holds"),
    ("{{ huge }}", "the template holds"),
    ("{{ self }}", "the template holds"),
    ("{{ na", "the template holds"),
    ("{% for i in told %}{{ i }}{% endfor %}", "the template holds"),
    ("{{ name }}\n>>> 1 + 1\n2", "a line begins with a prompt"),
]


@pytest.mark.parametrize(("body", "reason"), DOUBTFUL, ids=[body for body, _ in DOUBTFUL])
def test_nothing_is_evaluated_for_a_draft(session: Session, body: str, reason: str) -> None:
    spy, asked = told()
    session.variables = lambda: {**VARIABLES, "told": spy, "loud": Loud("x"), "huge": 10**5000}
    answer = Page(session).whole(f"%%generate\nSay: {body}")
    assert asked == []
    assert answer["reason"].startswith(reason)
    assert (answer["input_source"], answer["input_tokens"] > 5) == ("estimated", True)


OPTION_LINES = [
    ("--system $name", "estimated", 256),
    ("--system={name}", "estimated", 256),
    ("--chat {name}", "estimated", 256),
    ("-m $name", "estimated", 256),
    ("$name", "estimated", None),
    ("--max-tokens {told}", "counted", None),
    ("-n$name --max-tokens 4", "counted", None),
    ("--json-schema {told} --seed $number", "counted", 256),
]


@pytest.mark.parametrize(("line", "source", "most"), OPTION_LINES)
def test_what_ipython_would_fill_in_on_the_option_line_is_unknown(
    session: Session, line: str, source: str, most: int | None
) -> None:
    spy, asked = told()
    session.variables = lambda: {**VARIABLES, "told": spy}
    session.models.add("priced", session.models.spec("small"))
    answer = Page(session).whole(f"%%generate {line}\nHello")
    assert asked == []
    assert (answer["input_source"], answer["max_output_tokens"]) == (source, most)
    assert answer["model"] == (None if line in ("-m $name", "$name") else "small")


NO_COUNT = [
    ("%%generate --max-tokns 3\nHi", "unknown option '--max-tokns' (did you mean --max-tokens?)"),
    ("%%generate --system 'Be\nHi", "close the quotation"),
    ("%%generate --max-tokens 0\nHi", "--max-tokens is 0"),
    ("%%generate -m smal\nHi", "did you mean small"),
    ("%%generate\n", "the prompt is empty"),
    ("%%generate", "the prompt is empty"),
    ("%%generate\n{{ told }}", "only a run fills in"),
    ("%%generate --completion --system x\nHi", "--completion takes plain text"),
    ("%%generate\nHalf: \ud83d", "an incomplete character"),
    ("%%generate --help\nHi", "--help shows"),
    ("%%generated\nHi", "no prompt"),
    ("x = 1", "no prompt"),
]


@pytest.mark.parametrize(("source", "reason"), NO_COUNT)
def test_what_cannot_be_counted_says_why(session: Session, source: str, reason: str) -> None:
    answer = Page(session).whole(source)
    assert answer["input_tokens"] is None
    assert reason in answer["reason"]


def test_typing_a_models_id_neither_registers_nor_fetches_anything(session: Session) -> None:
    before = dict(session.models)
    answer = Page(session).whole("%%generate -m some/model\nHello there")
    assert (answer["input_tokens"], answer["input_source"]) == (7, "estimated")
    assert (answer["low_usd"], answer["context_tokens"]) == (None, None)
    assert dict(session.models) == before


def test_a_model_whose_files_are_elsewhere_is_estimated(session: Session) -> None:
    answer = Page(session).whole("%%generate -m smollm2\nHello there")
    assert (answer["input_tokens"], answer["input_source"]) == (7, "estimated")
    assert "not on this machine" in answer["reason"]


def test_a_span_of_costs_at_the_rates_in_force(session: Session, shell: InteractiveShell) -> None:
    shell.run_line_magic("price", "small --input 1 --output 10")
    page = Page(session)
    answer = page.whole("%%generate --max-tokens 10 -n 2\nHello")
    tokens = answer["input_tokens"]
    assert float(answer["low_usd"]) == pytest.approx(tokens / 1e6)
    assert float(answer["high_usd"]) == pytest.approx((tokens + 200) / 1e6)
    assert page.whole("%%tokens\nHello")["high_usd"] is None
    assert page.whole("%%generate --max-tokens {x}\nHello")["high_usd"] is None
    shell.run_line_magic("price", "small off")
    assert page.whole("%%generate\nHello")["low_usd"] is None


def test_changes_keep_the_text_as_a_browser_counts_it(session: Session) -> None:
    page = Page(session)
    source = "%%generate\na🚀b"
    page.whole(source)
    # A browser counts the rocket as two, and may take one half away before it puts another there.
    answer = page.change("c", page.seq, 12, 2, "é")
    assert answer["input_tokens"] == page.whole("%%generate\naéb", "other")["input_tokens"]


def test_a_change_of_an_unknown_text_is_lost(session: Session) -> None:
    page, other = Page(session), Page(session, "other page")
    first = page.whole("%%generate\nHello")
    for lost in (
        page.change("elsewhere", 1, 0, 0, "x"),
        other.change("c", 1, 0, 0, "x"),
        page.change("c", 99, 0, 0, "x"),
        page.change("c", 1, 1000, 0, "x"),
    ):
        assert (lost["state"], lost["input_tokens"]) == ("lost", None)
    assert page.whole("%%generate\nHello")["input_tokens"] == first["input_tokens"]


def test_the_cells_edited_least_recently_are_forgotten(session: Session) -> None:
    page = Page(session)
    for number in range(MOST_CELLS + 1):
        page.whole("%%generate\nHello", f"cell-{number}")
    assert page.change("cell-1", 2, 0, 0, "")["state"] == "counted"
    assert page.change("cell-0", 1, 0, 0, "")["state"] == "lost"


def test_the_first_answer_does_not_wait_for_a_tokenizer(session: Session) -> None:
    page = Page(session)
    final = page.whole("%%generate\nHello")
    first = page.answers[0]
    assert (first["state"], first["input_source"], first["seq"]) == ("counting", "estimated", final["seq"])
    page.whole("%%generate\nHello again")
    assert [it["state"] for it in page.answers] == ["counting", "counted", "counted"]


@pytest.mark.parametrize("freed_by", ["the cell's end", "the cell, which read the tokenizer itself"])
def test_nothing_is_imported_in_the_background_while_a_cell_runs(session: Session, freed_by: str) -> None:
    """Two threads that import transformers at once may both fail, and one of them is the person's."""
    lock = ImportLock()
    session.import_lock = lock.lock
    lock.begin()
    answers: list[dict[str, Any]] = []
    answered = threading.Event()

    def take(answer: dict[str, Any]) -> None:
        answers.append(answer)
        if answer["state"] == "counted":
            answered.set()

    request = {"cell_id": "c", "seq": 1, "base": None, "offset": 0, "deleted": 0, "text": "%%generate\nHello"}
    session.draft("page", request, take)
    assert not answered.wait(0.5)
    assert [it["state"] for it in answers] == ["counting"]
    assert session.models.opened() == []
    if freed_by == "the cell's end":
        lock.end()
    else:
        engine = session.models.engine("small")
        assert isinstance(engine, Tokenized)
        engine.tokenizer()
    assert answered.wait(PATIENCE_S)


def test_a_cell_waits_for_what_the_background_imports() -> None:
    lock, order = ImportLock(), list[str]()
    inside = threading.Event()

    def background() -> None:
        with lock.lock:
            inside.set()
            threading.Event().wait(0.2)
            order.append("background")

    thread = threading.Thread(target=background)
    thread.start()
    assert inside.wait(PATIENCE_S)
    lock.begin()
    order.append("cell")
    lock.end()
    lock.end()
    thread.join()
    assert order == ["background", "cell"]
    with lock.lock:
        order.append("free again")
    assert order[-1] == "free again"


def test_a_template_that_trims_is_followed(make_session: Callable[..., Session], tmp_path: Path) -> None:
    session = make_session()
    session.models.add("trimming", _folder(tmp_path / "trimming", byte_level(), TRIMMING))
    session.models.use("trimming")
    page = Page(session)
    assert page.whole("%%generate\n  Hello  \n")["input_tokens"] == page.whole("%%generate\nHello")["input_tokens"]


@pytest.mark.parametrize("change", [{"seq": "1"}, {"cell_id": None}, {"text": 1}, {"offset": 0.5}, {"base": True}])
def test_a_message_that_is_none_is_refused(session: Session, change: dict[str, Any]) -> None:
    request = {"cell_id": "c", "seq": 1, "base": None, "offset": 0, "deleted": 0, "text": "x"}
    with pytest.raises(UsageError, match="reload the page"):
        session.draft("page", request | change, lambda _answer: None)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6), st.text(st.sampled_from("ab\n🚀é\ud83d\ude80")))))
def test_any_changes_give_the_text_that_utf_16_gives(changes: list[tuple[int, int, str]]) -> None:
    text, units = Text(), b""
    for offset, deleted, inserted in changes:
        fits = offset + deleted <= len(units) // 2
        assert text.change(offset, deleted, inserted) is fits
        if fits:
            units = (
                units[: 2 * offset] + inserted.encode("utf-16-le", "surrogatepass") + units[2 * (offset + deleted) :]
            )
        assert str(text) == units.decode("utf-16-le", "surrogatepass")


def test_a_model_priced_by_the_hour_has_a_draft_at_list_price(session: Session) -> None:
    """Before its first run what an hour costs; then what the longest answer costs at the speed of its runs."""
    page = Page(session)
    asked = "%%generate --max-tokens 100 -n 2\nHello"
    before = page.whole(asked)
    assert (before["low_usd"], before["high_usd"]) == (None, None)
    assert before["list_price"].startswith("list price: ")
    info = session.info("small")
    assert info.device == "cpu"
    rates = session.rates(info)
    assert before["device_hour_usd"] == plain(rates.device_hour)
    slow = replace(run("r", status="ok", user=session.user), info=info, reading=Reading(itl_p95_s=0.36))
    session.ledger().settle(slow)
    again = Session(session.settings)
    for name, spec in session.models:
        again.models.add(name, spec)
    after = Page(again).whole(asked.replace("%%generate", "%%generate -m small"))
    assert rates.device_hour is not None
    assert after["high_usd"] == plain(rates.device_hour / 50), "200 tokens of 0.36 s are a fiftieth of an hour"
    assert (after["low_usd"], after["cost_source"]) == (None, "estimated")
    assert page.whole("%%tokens\nHello")["device_hour_usd"] is None
    again.close()
