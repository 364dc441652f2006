"""Which cell of an earlier notebook is which cell of the one of now, and which run which run. Pure."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import SequenceMatcher
from typing import TypeVar

from tokmagic.core.record import is_place
from tokmagic.notebooks.snapshots import CellSnapshot, RunSnapshot

_Before = TypeVar("_Before", bound=CellSnapshot)
_Now = TypeVar("_Now", bound=CellSnapshot)
_Places = Sequence[tuple[int, CellSnapshot]]
_Told = tuple[str, ...]
_Key = Callable[[CellSnapshot], _Told]


def align(
    before: Sequence[_Before], now: Sequence[_Now], shown: Sequence[Collection[str]] = ()
) -> list[tuple[_Before | None, _Now | None]]:
    """Pair the cells: by id, else by a run that an output showed, else by their texts, their prompts and their order.

    ``shown`` are the runs that the outputs of each cell of now told of before it was run again, where it was. In the
    order of the notebook; cells that it no longer has come last. Cells without prompts, then and now, are left out.
    """
    found: dict[int, int] = {}
    _by_key(found, *([_ids(cell) for cell in cells] for cells in (before, now)))
    # An id that stood in the file then and is gone now belongs to a cell that was removed.
    ids_tell = bool(found) and all(cell.id for cell in now)
    removed = {i for i, cell in enumerate(before) if ids_tell and _ids(cell) and cell.number}
    # A kernel that was told no cell ids leaves the runs' ids in the outputs.
    _by_key(found, [[run.run_id for run in cell.runs] for cell in before], shown)
    taken = set(found.values())
    left_before = [(i, cell) for i, cell in enumerate(before) if i not in found and i not in removed]
    left_now = [(j, cell) for j, cell in enumerate(now) if j not in taken and cell.runs_prompts]
    by_text = [_text] if all(cell.source_sha256 for _, cell in (*left_before, *left_now)) else []
    found |= _by_order(left_before, left_now, (*by_text, _asked, _prompt))
    owners = {j: before[i] for i, j in found.items()}
    pairs = [(owners.get(j), cell) for j, cell in enumerate(now) if j in owners or cell.runs_prompts]
    return [*pairs, *((cell, None) for i, cell in enumerate(before) if i not in found)]


def _ids(cell: CellSnapshot) -> list[str]:
    """A cell's id, where it is more than a place."""
    return [] if cell.id is None or is_place(cell.id) else [cell.id]


def _by_key(found: dict[int, int], before: Sequence[Collection[str]], now: Sequence[Collection[str]]) -> None:
    """Pair what is left by a key that a cell of before shares with one of now, the first that has it."""
    places: dict[str, int] = {}
    for j, keys in enumerate(now):
        for key in keys:
            places.setdefault(key, j)
    for i, keys in enumerate(before):
        place = next((places[key] for key in keys if key in places), None)
        # Each is taken once: of two cells that a hand gave the same id none may vanish behind the other.
        if place is not None and i not in found and place not in found.values():
            found[i] = place


def _by_order(before: _Places, now: _Places, keys: Sequence[_Key]) -> dict[int, int]:
    """Cells of which the first key tells the same are the same, in order; what lies between them is told by the others.

    A cell that moved is the same, too. Where nothing tells them apart, and where as many cells lie between, which are
    the same ones, edited, the order decides.
    """
    if not keys:
        return {i: j for (i, _), (j, _) in zip(before, now, strict=False)}
    was, told = ([keys[0](cell) for _, cell in cells] for cells in (before, now))
    blocks = SequenceMatcher(None, was, told, autojunk=False).get_matching_blocks()
    in_order = [(i + k, j + k) for i, j, size in blocks for k in range(size)]
    moved = _moved(was, told, in_order)
    found = {before[i][0]: now[j][0] for i, j in moved.items()}
    one = other = 0
    for i, j, size in blocks:
        between = (
            [before[place] for place in range(one, i) if place not in moved],
            [now[place] for place in range(other, j) if place not in moved.values()],
        )
        edited = len(between[0]) == len(between[1])
        found |= _by_order(*between, () if edited else keys[1:])
        one, other = i + size, j + size
        found |= _by_order(before[i:one], now[j:other], ())
    return found


def _moved(was: Sequence[_Told], told: Sequence[_Told], in_order: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The places of what is told of in both, and in another order."""
    waiting = defaultdict[_Told, deque[int]](deque)
    taken_before, taken = ({pair[side] for pair in in_order} for side in (0, 1))
    for i, key in enumerate(was):
        if key and i not in taken_before:
            waiting[key].append(i)
    return {waiting[key].popleft(): j for j, key in enumerate(told) if j not in taken and waiting[key]}


def _text(cell: CellSnapshot) -> _Told:
    return (cell.source_sha256 or "",)


def _asked(cell: CellSnapshot) -> _Told:
    return _each(cell, _asked_of)


def _prompt(cell: CellSnapshot) -> _Told:
    return _each(cell, _prompt_of)


def _each(cell: CellSnapshot, by: Callable[[RunSnapshot], str]) -> _Told:
    # Sorted, since several runs at once start in another order each time. What is not known tells nothing apart.
    return tuple(sorted(by(run) for run in cell.runs if run.prompt_sha256 is not None))


def _prompt_of(run: RunSnapshot) -> str:
    return run.prompt_sha256 or ""


def _asked_of(run: RunSnapshot) -> str:
    return f"{run.prompt_sha256} {json.dumps(run.params, sort_keys=True)}"


def align_runs(
    before: Sequence[RunSnapshot], now: Sequence[RunSnapshot]
) -> Iterator[tuple[RunSnapshot | None, RunSnapshot | None]]:
    """The runs of a cell then and now side by side: those of now in their order, then those that are missing now.

    The same prompts with the same options belong together, then the same prompts, and the others by their order; a
    cell that runs several at once starts them in another order each time.
    """
    found: dict[int, int] = {}
    for of in (_asked_of, _prompt_of, lambda _run: ""):
        taken, waiting = {*found.values()}, defaultdict[str, deque[int]](deque)
        for i, run in enumerate(before):
            if i not in taken:
                waiting[of(run)].append(i)
        for j, run in enumerate(now):
            if j not in found and waiting[of(run)]:
                found[j] = waiting[of(run)].popleft()
    yield from ((before[found[j]] if j in found else None, run) for j, run in enumerate(now))
    yield from ((run, None) for i, run in enumerate(before) if i not in {*found.values()})
