"""Which cell of a frozen notebook is which cell of the one that was run again. Pure."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from tokmagic.notebooks.kept import CellSnapshot, RunSnapshot, cell_name
from tokmagic.notebooks.cells import SavedCell


@dataclass(frozen=True, slots=True)
class RanCell:
    """A cell of the notebook as it was run again. ``ended``: whether it came to its end, or the notebook failed in or
    before it."""

    saved: SavedCell
    runs: tuple[RunSnapshot, ...] = ()
    ended: bool = True

    @property
    def name(self) -> str:
        """``cell 3 (a1b2)``."""
        return cell_name(self.saved.number, self.saved.id)


@dataclass(frozen=True, slots=True)
class Pair:
    """A cell before and now; None where it is missing there.

    ``cut_short``: the notebook failed, so that what is missing now may have been still to come.
    """

    before: CellSnapshot | None
    now: RanCell | None
    cut_short: bool = False

    @property
    def name(self) -> str:
        """What the notebook of now calls it, else the one of before."""
        shown = self.now or self.before
        assert shown is not None
        return shown.name


def align(before: Sequence[CellSnapshot], now: Sequence[RanCell]) -> list[Pair]:
    """Pair the cells: by id, else by a run that the file's outputs show, else by their prompts and their order.

    In the order of the notebook; cells that it no longer has come last. Cells that ran nothing, then and now, are left
    out.
    """
    found = _by_id(before, now)
    for i, j in _by_output(before, now).items():
        if i not in found and j not in found.values():
            found[i] = j
    # An id that stood in the file then and is gone now belongs to a cell that was removed.
    open_before = [i for i, cell in enumerate(before) if i not in found and (cell.number is None or not found)]
    taken = set(found.values())
    open_now = [j for j, cell in enumerate(now) if j not in taken and cell.runs]
    for i, j in _by_order([before[i] for i in open_before], [now[j] for j in open_now]):
        found[open_before[i]] = open_now[j]
    owners = {j: i for i, j in found.items()}
    pairs = [Pair(before[owners[j]] if j in owners else None, cell, not cell.ended) for j, cell in enumerate(now)]
    # A cell whose place is not known may be one that the notebook did not come to.
    failed = any(not cell.ended for cell in now)
    gone = [Pair(cell, None, failed and cell.number is None) for i, cell in enumerate(before) if i not in found]
    return [*(pair for pair in pairs if pair.before or (pair.now and pair.now.runs)), *gone]


def _by_id(before: Sequence[CellSnapshot], now: Sequence[RanCell]) -> dict[int, int]:
    places: dict[str | None, int] = {}
    for j, cell in enumerate(now):
        if cell.saved.id is not None:
            places.setdefault(cell.saved.id, j)
    # Each is taken once: of two cells that a hand gave the same id none may vanish behind the other.
    return {i: places.pop(cell.id) for i, cell in enumerate(before) if cell.id in places}


def _by_output(before: Sequence[CellSnapshot], now: Sequence[RanCell]) -> dict[int, int]:
    """A kernel that was told no cell ids leaves the runs' ids in the outputs."""
    owners: dict[str, int] = {}
    for j, cell in enumerate(now):
        for run_id in cell.saved.run_ids:
            owners.setdefault(run_id, j)
    places = {i: [owners[run.run_id] for run in kept.runs if run.run_id in owners] for i, kept in enumerate(before)}
    return {i: its[0] for i, its in places.items() if its}


def _by_order(before: Sequence[CellSnapshot], now: Sequence[RanCell]) -> Iterator[tuple[int, int]]:
    """The same prompts with the same options first. Between these as many cells are the same ones, edited.

    Where their numbers differ the same prompts decide, and what then lies between them is taken by order.
    """
    for found in _same(before, now, _asked):
        if isinstance(found, tuple):
            yield found
            continue
        some, others = [before[i] for i in found.before], [now[j] for j in found.now]
        if len(some) == len(others):
            yield from zip(found.before, found.now, strict=True)
            continue
        for inner in _same(some, others, _prompts):
            within = [inner] if isinstance(inner, tuple) else zip(inner.before, inner.now, strict=False)
            yield from ((found.before[i], found.now[j]) for i, j in within)


@dataclass(frozen=True, slots=True)
class _Between:
    """The places that lie between two that are the same."""

    before: range
    now: range


_Cell = CellSnapshot | RanCell


def _same(
    before: Sequence[_Cell], now: Sequence[_Cell], of: Callable[[_Cell], tuple[str | None, ...]]
) -> Iterator[tuple[int, int] | _Between]:
    """Places of cells of which ``of`` tells the same, in order, and what lies between them.

    In which order a cell's own runs started is no matter: several at once start in another one each time.
    """
    one = other = 0
    blocks = SequenceMatcher(None, [of(cell) for cell in before], [of(cell) for cell in now], autojunk=False)
    for i, j, size in blocks.get_matching_blocks():
        yield _Between(range(one, i), range(other, j))
        yield from zip(range(i, i + size), range(j, j + size), strict=True)
        one, other = i + size, j + size


def _prompts(cell: _Cell) -> tuple[str | None, ...]:
    return tuple(sorted((run.prompt_sha256 for run in cell.runs), key=str))


def _asked(cell: _Cell) -> tuple[str | None, ...]:
    return tuple(sorted(_run_asked(run) for run in cell.runs))


def _run_asked(run: RunSnapshot) -> str:
    return f"{run.prompt_sha256} {json.dumps(run.params, sort_keys=True)}"


def runs(pair: Pair) -> Iterator[tuple[RunSnapshot | None, RunSnapshot | None]]:
    """The runs of a pair of cells side by side: those of now in their order, then those that are missing now.

    The same prompts with the same options belong together, then the same prompts, and the others by their order; a
    cell that runs several at once starts them in another order each time.
    """
    before = pair.before.runs if pair.before else ()
    now = pair.now.runs if pair.now else ()
    found: dict[int, int] = {}
    for of in (_run_asked, lambda run: run.prompt_sha256, lambda _run: None):
        taken, waiting = {*found.values()}, defaultdict[str | None, deque[int]](deque)
        for i, run in enumerate(before):
            if i not in taken:
                waiting[of(run)].append(i)
        for j, run in enumerate(now):
            if j not in found and waiting[of(run)]:
                found[j] = waiting[of(run)].popleft()
    yield from ((before[found[j]] if j in found else None, run) for j, run in enumerate(now))
    yield from ((run, None) for i, run in enumerate(before) if i not in {*found.values()})
