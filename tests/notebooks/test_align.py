"""Which cell of an earlier notebook is which cell of the one of now: pure, no kernel."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.notebooks.runs import run
from tokmagic.notebooks.align import align
from tokmagic.notebooks.reproduce.compare import RanCell
from tokmagic.notebooks.snapshots import CellSnapshot


def paired(before: list[CellSnapshot], now: list[RanCell]) -> list[tuple[int | None, int | None]]:
    """The runs' own numbers of before beside the cells' numbers of now."""
    pairs = align(before, now, [cell.shown for cell in now])
    return [(int(was.runs[0].run_id) if was else None, it.number if it else None) for was, it in pairs]


def headless(*prompts: str) -> list[CellSnapshot]:
    return [CellSnapshot(None, None, (run(prompt=it, run_id=str(i)),)) for i, it in enumerate(prompts, 1)]


def ran(*prompts: str, **rows: str) -> list[RanCell]:
    """Cells of now; an empty prompt runs nothing. ``c2="7"``: the second one's output shows run 7."""
    found = []
    for number, it in enumerate(prompts, 1):
        shown = rows.get(f"c{number}")
        runs = (run(prompt=it),) if it else ()
        found.append(RanCell(f"c{number}", number, runs, frozenset({shown} if shown else ())))
    return found


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (headless("a", "b"), ran("", "a", "", "b"), [(1, 2), (2, 4)]),
        (headless("a", "b", "c"), ran("a", "x", "c"), [(1, 1), (2, 2), (3, 3)]),
        (headless("a", "b", "c"), ran("a", "c"), [(1, 1), (3, 2), (2, None)]),
        (headless("a", "c"), ran("a", "b", "c"), [(1, 1), (None, 2), (2, 3)]),
        (headless("a", "a", "a"), ran("a", "a"), [(1, 1), (2, 2), (3, None)]),
        (headless("a", "b"), ran("", ""), [(1, None), (2, None)]),
        # What an output shows goes before any guess.
        (headless("a", "b"), ran("a", "b", c2="1", c1="2"), [(2, 1), (1, 2)]),
        (headless("a", "b"), ran("", "b", c1="1"), [(1, 1), (2, 2)]),
    ],
)
def test_cells_without_ids_are_known_by_outputs_prompts_and_order(
    before: list[CellSnapshot], now: list[RanCell], expected: list[tuple[int | None, int | None]]
) -> None:
    assert paired(before, now) == expected


def test_a_cell_that_was_removed_is_no_other_cell() -> None:
    before = [CellSnapshot(f"c{i}", i, (run(run_id=str(i)),)) for i in (1, 2)]
    now = [RanCell("c1", 1, (run(),)), RanCell("new", 2, (run(),))]
    assert paired(before, now) == [(1, 1), (None, 2), (2, None)]
    # Where no id is the same the notebook was made anew: then the order counts.
    now = [RanCell(f"new{i}", i, (run(),)) for i in (1, 2)]
    assert paired(before, now) == [(1, 1), (2, 2)]


def test_of_cells_with_one_id_none_is_lost() -> None:
    before = [CellSnapshot("c1", 1, (run(run_id=str(i)),)) for i in (1, 2)]
    assert paired(before, [RanCell("c1", 1, (run(),))]) == [(1, 1), (2, None)]


def test_a_cell_whose_runs_started_in_another_order_is_the_same() -> None:
    several = CellSnapshot(None, None, (run(prompt="a"), run(prompt="z")))
    now = [
        RanCell("c1", 1, (run(prompt="x"),)),
        RanCell("c2", 2, (run(prompt="z"), run(prompt="a"))),
        RanCell("c3", 3, (run(prompt="b"),)),
    ]
    pairs = align([several, *headless("b")], now)
    assert [it for was, it in pairs if was is several] == [now[1]]


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc "), max_size=6))
def test_no_cell_is_lost_or_taken_twice(before: list[str], now: list[str]) -> None:
    kept, cells = headless(*before), ran(*(it.strip() for it in now))
    pairs = align(kept, cells)
    assert sorted(id(was) for was, _ in pairs if was) == sorted(map(id, kept))
    ran_something = [id(it) for _, it in pairs if it and it.runs]
    assert ran_something == [id(cell) for cell in cells if cell.runs]


@given(*[st.lists(st.sampled_from("abcd"), max_size=7)] * 2)
def test_what_says_the_same_is_the_same_cell_wherever_it_stands(before: list[str], now: list[str]) -> None:
    kept, cells = (
        [
            CellSnapshot(str(place), place + 1, (run(prompt_sha256=None),), source_sha256=it)
            for place, it in enumerate(its)
        ]
        for its in (before, now)
    )
    pairs = align(kept, cells)
    assert sorted(id(it) for pair in pairs for it in pair if it) == sorted(id(it) for it in (*kept, *cells))
    assert [it for _, it in pairs if it] == cells
    same = Counter(was.source_sha256 for was, it in pairs if was and it and was.source_sha256 == it.source_sha256)
    assert same == Counter(before) & Counter(now)
