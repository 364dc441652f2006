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
from tokmagic.comparisons.cells import split_variants
from tokmagic.comparisons.results import Comparison
from tokmagic.errors import GenerationInterrupted, UsageError
from tokmagic.magics.magics import TokMagics
from tokmagic.prompts.parser import HelpWanted

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


def test_a_score_may_be_the_notebooks_own(compare: Compare, shell: InteractiveShell) -> None:
    assert (compare("--over questions --score longer --max-tokens 20", CELL).values("score") == 4).all()
    shell.user_ns["making"] = lambda size: lambda answer: len(answer) > size
    assert compare("--over questions --score making(1) --max-tokens 20", CELL).passes


def test_files_are_read_by_their_ending(compare: Compare, tmp_path: Path) -> None:
    found = compare(f"--over {write_csv(tmp_path / 'q.csv', 2)} --max-tokens 20 --baseline {{'terse'}}", CELL)
    assert found.plan.runs == 4


WRONG = [
    ("--over nothing", r"--over cannot evaluate 'nothing': NameError"),
    (f"{LINE} --score exct(a)", r"score 'exct' is unknown \(did you mean exact\?\)"),
    (f"{LINE} --score nowhere", "--score cannot evaluate"),
    (f"{LINE} --into 1x", "--into '1x' is not a variable name"),
    (f"{LINE} --repeat 0", "repeat is 0"),
    (f"{LINE} --seed x", "--seed"),
    (f"{LINE} -n 2", "unknown option '-n'"),
    ("--max-tokens 20", "needs the column 'q'"),
]


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
    with pytest.raises(GenerationInterrupted, match="after 3 of 6 runs; call it again to go on"):
        TokMagics(shell, desk.session).compare(LINE, CELL)
    assert TokMagics(shell, desk.session).compare(LINE, CELL).complete


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
    assert "2 items left" in tokmagic("compare", "c.toml", "--pilot", "1").stdout.splitlines()[-1]


BAD = [
    ("variants", "is not TOML"),
    ("modl = 'x'\n[variants]\na = 'b'", "unknown key 'modl' (did you mean model?)"),
    ("variants = ['a']", "has no variants; give a table [variants]"),
    ("over = 'q.csv'", "has no variants; give a table [variants]"),
    ("[variants]\na = 'b'\n[sampling]\nseed = 3", "seed stands outside it"),
    ("[variants]\na = 'b'\n[sampling]\nmax_token = 3", "unknown option 'max_token'"),
    ("model = 3\n[variants]\na = 'b'", "model is 3; give a name"),
    ("budget = true\n[variants]\na = 'b'\nb = 'c'", "budget is 'True'"),
    ("tags = 'x'\n[variants]\na = 'b'\nb = 'c'", "tags is 'x'"),
    ("[variants]\na = 3\nb = 'c'", "the variant 'a' is 3"),
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
