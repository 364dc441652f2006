"""``%budget``: words that would remove more than was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tokmagic.errors import UsageError
from tokmagic.magics.magics import TokMagics
from tokmagic.runs.session import Session

Make = Callable[..., Session]


@pytest.fixture
def budget(make_session: Make) -> Iterator[Callable[[str], Any]]:
    """``%budget`` with its words."""
    shell = InteractiveShell()
    yield TokMagics(shell, make_session(model="scripted")).budget
    shell.history_manager.end_session()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("off day", "%budget off removes all your budgets; to remove one: %budget day off"),
        ("off month --everyone", "to remove one: %budget month off"),
        ("off 5", "to remove one: %budget day off"),
        ("off --tokens 5", "off removes a budget, --tokens sets one; give one of them"),
        ("day off --tokens 5", "off removes a budget, --tokens sets one; give one of them"),
    ],
)
def test_no_budget_is_removed_by_a_slip(budget: Callable[[str], Any], words: str, says: str) -> None:
    budget("day 5")
    before = budget("month 20").rows
    with pytest.raises(UsageError) as caught:
        budget(words)
    assert says in str(caught.value)
    assert budget("").rows == before


@pytest.mark.parametrize("words", ["--tokens 5", "--warn 0.5", "--strict", "--was old.ipynb", "list 5", "--everyone"])
def test_a_budget_of_nothing_is_no_list(budget: Callable[[str], Any], words: str) -> None:
    budget("day 5")
    before = budget("").rows
    with pytest.raises(UsageError) as caught:
        budget(words)
    assert str(caught.value) == "what to cap is missing: cell, notebook, day or month, such as %budget day 5"
    assert budget("list").rows == before


def test_off_removes_one_or_all(budget: Callable[[str], Any]) -> None:
    budget("day 5")
    budget("month 20")
    assert [row[0] for row in budget("day off").rows] == ["month"]
    assert budget("off").rows == ()
