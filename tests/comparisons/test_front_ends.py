"""``%%compare`` in a shell and ``tokmagic compare`` on a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.commands import Command, command_in
from tests.comparisons.desk import Desk, items, right, write_csv
from tests.conftest import ROOT
from tests.serve.gateways import scripted, serving
from tests.servers import Asked, Wire, chunk, serve
from tokmagic.comparisons.cells import split_variants
from tokmagic.comparisons.results import Comparison
from tokmagic.errors import BudgetError, EndpointError, GenerationInterrupted, PromptError, UsageError
from tokmagic.magics import compare as magic
from tokmagic.magics.magics import TokMagics
from tokmagic.prompts.parser import HelpWanted
from tokmagic.runs.comparing import comparison_wire, from_ledger

CELL = """\
--- variant terse
terse {{ q }}
--- variant reasoned and long
--- system
Think.
--- user
reasoned {{ q }}
"""
LINE = "--over questions --score exact(a) --max-tokens 20"
Compare = Callable[..., Any]


def test_a_cell_is_split_at_its_variants() -> None:
    assert split_variants(CELL) == [
        ("terse", "terse {{ q }}\n"),
        ("reasoned and long", "--- system\nThink.\n--- user\nreasoned {{ q }}\n"),
    ]
    assert split_variants("\n---  variant  a \r\nx\r\n--- variant b") == [("a", "x\r\n"), ("b", "")]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("", "needs a line '--- variant NAME' above each prompt"),
        ("Hi\n--- variant a\nx", "needs a line '--- variant NAME' above each prompt"),
        ("--- variant\nx", "has no name"),
    ],
)
def test_a_cell_without_names_is_refused(cell: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        split_variants(cell)


@pytest.fixture
def shell(desk: Desk) -> Iterator[InteractiveShell]:
    made = InteractiveShell()
    made.user_ns |= {"questions": items(3), "longer": lambda answer, item: len(answer) + len(item["q"])}
    yield made
    made.history_manager.end_session()


@pytest.fixture
def compare(desk: Desk, shell: InteractiveShell) -> Compare:
    return TokMagics(shell, desk.session).compare


def test_a_cell_is_compared(compare: Compare, desk: Desk, shell: InteractiveShell) -> None:
    found = compare(f"{LINE} --into which --repeat 2 --tag mine --temperature 0", CELL)
    assert isinstance(found, Comparison)
    assert shell.user_ns["which"] is found
    assert found.complete
    assert (found.values("score") == 1).all()
    assert [arm.variant.name for arm in found.plan.arms] == ["terse", "reasoned and long"]
    assert {row.params["temperature"] for row in desk.rows} == {0.0}
    assert all("mine" in row.tags for row in desk.rows)
    assert compare(f"{LINE} --quiet --into again --repeat 2 --temperature 0", CELL) is None
    assert desk.asked == 12


def test_its_row_has_the_number_that_the_notebook_shows(compare: Compare, desk: Desk) -> None:
    """In an output a row is found by it alone: while it goes on, after its end, and from the ledger after a restart."""
    session = desk.session
    session.cell_id, session.execution_count = lambda: "c-compare", lambda: 4
    compare(LINE, CELL)
    ledger, here = session.ledger(), session.selection
    (after,), (later,) = session.changes().comparisons, from_ledger(ledger, here, ledger.latest_by_cell(here))
    assert [comparison_wire(it).get("execution_count") for it in (after, later)] == [4, 4]


def test_a_cell_also_says_where_the_money_goes(compare: Compare, desk: Desk, shell: InteractiveShell) -> None:
    cell = "--- variant long\nBe kind. Be brief. {{ q }}\n--- variant short\n{{ q }}"
    assert compare(f"{LINE} --savings 0 --into found", cell).money is not None
    assert desk.asked == 6
    # With so few items no difference is seen, so the baseline is the one to keep.
    found = compare(f"{LINE} --savings $0.01 --baseline short --into found", cell)
    assert shell.user_ns["found"] is found
    told = repr(found)
    assert (
        told.index("variant − short")
        < told.index("Where the money of short goes")
        < told.index("it has no part that could go")
    )
    assert "Where the money of short goes" in found.to_html()
    assert "Where the money of short goes" in found.to_markdown()
    assert found.to_json()["savings"]["variant"] == "short"
    asked = desk.asked
    with pytest.raises(BudgetError, match="--savings is 'much'"):
        compare(f"{LINE} --savings much --seed 2", cell)
    assert desk.asked == asked, "what is wrong is told before anything runs"


def test_a_budget_for_savings_that_covers_nothing_keeps_the_result(compare: Compare, desk: Desk) -> None:
    cell = "--- variant long\nBe kind. Be brief. {{ q }}\n--- variant other\nBe kind. Be short. {{ q }}"
    found = compare(f"{LINE} --savings 0.000001", cell)
    assert found.complete
    assert any("no part was left out: a budget of" in it for it in found.money.lines)
    found = compare(f"{LINE} --savings 0.01", cell)
    assert [it.part.label for it in found.money.ablations] == ["“Be brief.”", "“Be kind.”"]
    assert desk.asked == 6 + 9
    assert found.to_json()["savings"]["left_out"][0] == {"left_out": "“Be brief.”", "so": "no loss seen"}


def test_a_score_may_be_the_notebooks_own(compare: Compare, shell: InteractiveShell) -> None:
    assert (compare("--over questions --score longer --max-tokens 20", CELL).values("score") == 4).all()
    shell.user_ns["making"] = lambda size: lambda answer: len(answer) > size
    assert compare("--over questions --score making(1) --max-tokens 20", CELL).passes


def test_files_are_read_by_their_ending(compare: Compare, tmp_path: Path) -> None:
    found = compare(f"--over {write_csv(tmp_path / 'q.csv', 2)} --max-tokens 20 --baseline {{'terse'}}", CELL)
    assert found.plan.runs == 4


def test_a_folder_is_read_where_it_is_a_data_set(compare: Compare, shell: InteractiveShell) -> None:
    folder = ROOT / "tests" / "fixtures" / "datasets" / "sharded"
    assert len(compare(f"--over {folder} --max-tokens 20", CELL).plan.items.rows) == 10
    rows = "[{'q': 'q1'}, {'q': 'q2'}]"
    assert len(compare(f'--over "{rows}" --max-tokens 20', CELL).plan.items.rows) == 2


WRONG = [
    ("--over nothing", r"--over cannot evaluate 'nothing': NameError"),
    (f"{LINE} --score exct(a)", r"score 'exct' is unknown \(did you mean exact\?\)"),
    (f"{LINE} --score nowhere", "--score cannot evaluate"),
    (f"{LINE} --into 1x", "--into '1x' is not a variable name"),
    (f"{LINE} --repeat 0", "repeat is 0"),
    (f"{LINE} --concurrency 0", "concurrency is 0"),
    (f"{LINE} --seed x", "--seed"),
    (f"{LINE} -n 2", "unknown option '-n'"),
    ("--max-tokens 20", "the variant terse needs the column 'q', and there are no items; name them with over"),
]
WRONG_CELLS = [
    ("--- variant a\n--- variant b\n{{ q }}", UsageError, "the variant 'a' is empty; write its prompt below"),
    ("--- variant a\n{{ q }}\n--- variant a\nx", UsageError, "two variants are called 'a'"),
    ("--- variant a\n{{ q }}", UsageError, "one variant and one model, so nothing to compare"),
    (
        "--- variant a\n{{ q \n--- variant b\nx",
        PromptError,
        r"variant a: line 1 of the prompt: .*; write \{\{ '\{\{' \}\} for two braces that mean themselves$",
    ),
]


def test_cells_that_cannot_be_compared_are_one_line_and_cost_nothing(compare: Compare, desk: Desk) -> None:
    for cell, kind, says in WRONG_CELLS:
        with pytest.raises(kind, match=says) as raised:
            compare(LINE, cell)
        assert len(str(raised.value).splitlines()) == 1
    assert desk.asked == 0


def test_an_item_that_makes_no_prompt_is_told_in_words_of_the_cell(compare: Compare) -> None:
    cell = "--- variant a\n{% if q != 'q1' %}{{ q }}{% endif %}\n--- variant b\n{{ q }}"
    (told,) = (it for it in compare(LINE, cell).notes() if "failed" in it)
    assert told == "1 run of a failed, the first: PromptError: variant a, item 2: the prompt is empty for this item"


def test_a_variant_that_never_ran_is_told_once(make_desk: Callable[..., Desk]) -> None:
    def answers(text: str, number: int) -> str:
        if text.startswith("reasoned"):
            raise EndpointError("the server answered 500")
        return right(text, number)

    found = make_desk(small=answers).compare(score="exact(a)", over=items(4))
    assert found.verdict == "Compared with terse. reasoned: nothing to compare, no item has a run of both."


def test_what_is_wrong_is_one_line(compare: Compare, desk: Desk) -> None:
    for line, says in WRONG:
        with pytest.raises(UsageError, match=says):
            compare(line, CELL)
    assert desk.asked == 0


def test_without_a_cell_it_says_how(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="begin the cell with %%compare"):
        compare("")
    assert compare("--help") is None
    assert "--pilot N" in capsys.readouterr().out
    assert issubclass(HelpWanted, UsageError)


def test_an_interrupt_says_how_to_go_on(make_desk: Callable[..., Desk], shell: InteractiveShell) -> None:
    def answers(text: str, number: int) -> str:
        if number == 3:
            raise KeyboardInterrupt
        return right(text, number)

    desk = make_desk(small=answers)
    with pytest.raises(GenerationInterrupted, match="call it again to go on") as caught:
        TokMagics(shell, desk.session).compare(LINE, CELL)
    assert f"after {sum(row.status == 'ok' for row in desk.rows)} of 6 runs" in str(caught.value)
    assert TokMagics(shell, desk.session).compare(LINE, CELL).complete


def test_where_looking_for_savings_is_interrupted_the_result_is_shown(
    make_desk: Callable[..., Desk], shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compared is whole and paid for; a second call goes on with the parts."""
    shown: list[Comparison] = []
    monkeypatch.setattr(magic, "publish", shown.append)

    def answers(text: str, number: int) -> str:
        if number == 9:
            raise KeyboardInterrupt
        return right(text, number)

    desk = make_desk(small=answers)
    cell = "--- variant long\nBe kind. Say it. {{ q }}\n--- variant short\n{{ q }}"
    line = f"{LINE} --savings 1 --into result"
    with pytest.raises(GenerationInterrupted, match=r"^leaving out parts was interrupted after \d+ of 9 runs; call it"):
        TokMagics(shell, desk.session).compare(line, cell)
    (found,) = shown
    assert found.complete
    assert found.money is None
    assert shell.user_ns["result"] is found
    quiet = TokMagics(shell, make_desk(small=answers).session)
    with pytest.raises(GenerationInterrupted):
        quiet.compare(f"{line} --quiet --seed 2", cell)
    assert len(shown) == 1
    again = TokMagics(shell, desk.session).compare(line, cell)
    assert again.money is not None
    assert len(again.money.ablations) == 2


# The command

TOML = """\
over = "q.csv"
score = "contains(a)"
model = "scripted"

[variants]
a = "{{ q }}?"
b = "Well, {{ q }}?"

[sampling]
max_tokens = 5
"""


@pytest.fixture
def tokmagic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    write_csv(tmp_path / "q.csv", 3)
    (tmp_path / "c.toml").write_text(TOML, encoding="utf-8")
    return command_in(tmp_path, capsys)


def test_the_command_prints_the_result(tokmagic: Command) -> None:
    done = tokmagic("compare", "c.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Compared with a. No difference in the pass rate was seen")
    assert "variant − a, 95 % intervals over items" in done.stdout
    told = json.loads(tokmagic("compare", "c.toml", "--json").stdout)
    assert (told["complete"], Decimal(told["spent_usd"] or 0)) == (True, 0)
    assert [row["variant"] for row in told["figures"][:1]] == ["a"]
    assert "| variant | pass rate |" in tokmagic("compare", "c.toml", "--markdown").stdout


def test_a_pilot_prints_its_forecast(tokmagic: Command) -> None:
    done = tokmagic("compare", "c.toml", "--pilot", "1", "--concurrency", "1")
    assert "2 items left" in done.stdout.splitlines()[-1]
    assert "at once" not in done.stdout


def test_the_command_also_says_where_the_money_goes(tokmagic: Command, tmp_path: Path) -> None:
    assert "Where the money of a goes" in tokmagic("compare", "c.toml", "--savings", "0").stdout
    (tmp_path / "s.toml").write_text(f"savings = 0.01\n{TOML}", encoding="utf-8")
    assert json.loads(tokmagic("compare", "s.toml", "--json").stdout)["savings"]["variant"] == "a"


def test_the_command_names_models_at_several_endpoints(tokmagic: Command, tmp_path: Path) -> None:
    def says(words: str) -> Callable[[Asked, Wire], None]:
        def script(_asked: Asked, wire: Wire) -> None:
            wire.open_stream()
            wire.event(chunk(words))
            wire.event(chunk(reason="stop"))
            wire.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}})
            wire.end()

        return script

    with serve(says("yes")) as small, serve(says("no")) as big:
        (tmp_path / "m.toml").write_text(
            f"""\
over = "q.csv"
score = "regex('yes')"
model = ["small", "org/big"]

[models.small]
spec = "org/tiny"
api_base = "{small.url}"
per_1k = 0.001

[models."org/big"]
api_base = "{big.url}"
input = 1
output = "2.50"

[variants]
a = "{{{{ q }}}}?"
""",
            encoding="utf-8",
        )
        done = tokmagic("compare", "m.toml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert Decimal(told["spent_usd"]) == 3 * Decimal("0.000009") + 3 * (Decimal("0.000007") + Decimal("0.000005"))
    means = {row["variant"]: row["mean"] for row in told["figures"] if row["metric"] == "score"}
    assert means == {"a · small": 1, "a · org/big": 0}
    assert {it.body["model"] for it in small.asked} == {"org/tiny"}
    assert {it.body["model"] for it in big.asked} == {"org/big"}


@pytest.mark.parametrize(
    ("models", "failing", "words", "status"),
    [
        (["m"], (), (), 0),
        (["m"], (), ("--pilot", "2"), 0),
        (["m"], ("T q0", "L q0"), (), 0),
        (["m"], ("T", "L"), (), 1),
        (["m"], ("T", "L"), ("--json",), 1),
        (["m"], ("T", "L"), ("--pilot", "1"), 1),
        (["m", "n"], ("n",), (), 1),
    ],
    ids=["all well", "a pilot", "an item fails", "nothing runs", "as JSON", "in a pilot", "one of two models"],
)
def test_the_command_fails_where_nothing_ran_or_a_model_was_given_up(
    tokmagic: Command, tmp_path: Path, models: list[str], failing: tuple[str, ...], words: tuple[str, ...], status: int
) -> None:
    """Whoever goes on only if it succeeds must not go on without a comparison."""

    def script(asked: Asked, wire: Wire) -> None:
        if asked.body["messages"][0]["content"].startswith(failing) or asked.body["model"] in failing:
            wire.answer(400, {"error": {"message": "no"}})
            return
        wire.open_stream()
        wire.event(chunk("yes", reason="stop"))
        wire.end()

    (tmp_path / "ten.csv").write_text("q\n" + "".join(f"q{number}\n" for number in range(10)), encoding="utf-8")
    with serve(script) as server:
        tables = "".join(f'[models.{it}]\napi_base = "{server.url}"\n' for it in models)
        variants = '[variants]\na = "T {{ q }}"\nb = "L {{ q }}"\n'
        text = f'over = "ten.csv"\nscore = "regex(\'yes\')"\nmodel = {json.dumps(models)}\n{tables}{variants}'
        (tmp_path / "m.toml").write_text(text, encoding="utf-8")
        done = tokmagic("compare", "m.toml", *words)
    assert done.returncode == status
    assert done.stdout, "what there is is printed"


def test_a_model_that_its_shared_engine_does_not_serve_is_told_before_anything_runs(
    tokmagic: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "served", scripted()) as served:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", served.secret)
        (tmp_path / "m.toml").write_text(
            f"model = 'far'\n[models.far]\nspec = 'tinny'\nengine = '{served.url}'\n[variants]\na = 'b'\nb = 'c'\n",
            encoding="utf-8",
        )
        done = tokmagic("compare", "m.toml")
    why = f"model 'tinny' is not served at {served.url} (did you mean tiny?); served: tiny"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tokmagic: m.toml: [models.far]: {why}\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_command_keeps_its_result_where_looking_for_savings_is_interrupted(
    tokmagic: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    def interrupted(*_args: object, **_options: object) -> None:
        raise GenerationInterrupted("leaving out parts was interrupted")

    whole = tokmagic("compare", "c.toml", *options).stdout
    monkeypatch.setattr(Comparison, "savings", interrupted)
    done = tokmagic("compare", "c.toml", "--savings", "0.01", *options)
    assert (done.returncode, done.stderr) == (130, "tokmagic: leaving out parts was interrupted\n")
    assert done.stdout == whole


BAD = [
    ("variants", "is not TOML"),
    ("modl = 'x'\n[variants]\na = 'b'", "unknown key 'modl' (did you mean model?)"),
    ("variants = ['a']", "has no variants; give a table [variants]"),
    ("over = 'q.csv'", "has no variants; give a table [variants]"),
    ("[variants]\na = 'b'\n[sampling]\nseed = 3", "seed stands outside it"),
    ("[variants]\na = 'b'\n[sampling]\nmax_token = 3", "unknown option 'max_token'"),
    ("model = 3\n[variants]\na = 'b'", "model is 3; give a name"),
    ("concurrency = {big = 2}\n[variants]\na = 'b'\nb = 'c'", "concurrency names the model 'big'"),
    ("budget = true\n[variants]\na = 'b'\nb = 'c'", "budget is 'True'"),
    ("savings = 'much'\n[variants]\na = 'b'\nb = 'c'", "savings is 'much'"),
    ("tags = 'x'\n[variants]\na = 'b'\nb = 'c'", "tags is 'x'"),
    ("[variants]\na = 3\nb = 'c'", "the variant 'a' is 3"),
    ("models = ['small']\n[variants]\na = 'b'", "models are tables such as [models.small]"),
    ("[variants]\na = 'b'\n[models]\nsmall = 'x'", "[models.small]: it is no table; give one with spec, "),
    (
        "[variants]\na = 'b'\n[models.small]\napi_bse = 'x'",
        "[models.small]: unknown key 'api_bse' (did you mean api_base?)",
    ),
    ("[variants]\na = 'b'\n[models.small]\napi_base = true", "[models.small]: api_base is True; give text or a number"),
    ("[variants]\na = 'b'\n[models.small]\ninput = 1", "[models.small]: a bill needs both token rates"),
    ("[variants]\na = 'b'\n[models.small]\ninput = 'x'\noutput = 1", "[models.small]: --input is 'x'"),
    ("[variants]\na = 'b'\n[models.small]\napi_base = 'nowhere'", "[models.small]: "),
]


def test_files_that_cannot_be_used_are_one_line(tokmagic: Command, tmp_path: Path) -> None:
    for text, says in BAD:
        (tmp_path / "bad.toml").write_text(text, encoding="utf-8")
        done = tokmagic("compare", "bad.toml")
        assert done.returncode in (1, 2)
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    assert tokmagic("compare", "c.toml", "--json", "--markdown").returncode == 2
    assert tokmagic("compare", "none.toml").returncode == 2
