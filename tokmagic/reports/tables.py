"""Sums by cell, model, day and so on, and what was paid for and gave nothing new (docs/metrics.md, "Sums").

How runs are grouped, what their groups are called, the runs of one cell, and what runs would cost at today's prices.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from tokmagic.core.compared import compared
from tokmagic.core.keys import OF_KEYS
from tokmagic.core.money import Cost, Precision, Uncertainty, plain
from tokmagic.core.prompt import spelled
from tokmagic.core.record import EnergySum, RunRecord, Selection, Sum, is_place
from tokmagic.errors import UsageError, nearest
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.prices import PriceBook, at_rates

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


_KEYS: dict[str, Callable[[RunRecord], tuple[Any, ...]]] = {
    "cell": lambda run: (run.notebook, run.session, run.cell_id),
    "run": lambda run: (run.run_id,),
    "model": lambda run: (run.info.name,),
    "notebook": lambda run: (run.notebook,),
    "day": lambda run: (f"{run.started_at.astimezone():%Y-%m-%d}",),
    "tag": lambda run: (json.dumps(list(run.tags)),),
    "user": lambda run: (run.user,),
    "status": lambda run: (run.status,),
    "key": lambda run: (run.key,),
    "team": lambda run: (run.team,),
}
GROUPS = tuple(_KEYS)
"""What a table can be grouped by."""
_RUN_SHOWN = 12


def key_of(by: str) -> Callable[[RunRecord], tuple[Any, ...]]:
    """What gives a run at hand the key by which a ledger would group it. Raises UsageError for an unknown group."""
    if by not in GROUPS:
        raise UsageError(f"cannot group by {by!r}{nearest(by, GROUPS)}; use one of {', '.join(GROUPS)}")
    return _KEYS[by]


def naming(by: str, ledger: Ledger | None = None) -> Callable[[tuple[Any, ...]], list[str]]:
    """What gives a ledger's key the names of its groups: a run with two tags stands in two.

    Cells have ids, not names: they are numbered in the order in which they first ran. A key is called as ``ledger``
    knows it, or else by its id.
    """
    places: dict[tuple[Any, Any], str] = {}
    called = {it.key_id: it.name for it in ledger.keys.all()} if ledger is not None and by == "key" else {}

    def names(key: tuple[Any, ...]) -> list[str]:
        if by == "cell":
            return [places.setdefault((_home(*key), key[2]), f"cell {len(places) + 1}")]
        if by == "tag":
            return [spelled(tag) for tag in json.loads(key[0])] or [numbers.UNKNOWN]
        return [str(called.get(key[0], key[0]) or numbers.UNKNOWN)]

    return names


def _home(notebook: str | None, session: str | None, cell_id: str | None) -> str | None:
    """Where a cell's id means one cell: in its notebook; an id that is only a place means another one later."""
    return session if notebook is None or is_place(cell_id or "") else notebook


def shown(name: str, by: str) -> str:
    """A name as a table shows it: a run's id is long, and its beginning tells it apart."""
    return name[:_RUN_SHOWN] if by == "run" else name


def cell_runs(ledger: Ledger, where: Selection, cell: str | None = None) -> list[RunRecord]:
    """The selected complete runs of one cell, oldest first; running, failed and replayed ones are not complete.

    The row of a bench is none of them: it is no call that anybody made, and mostly many.

    ``cell`` is its number in :func:`table`, or its id; None: the cell whose complete run is the latest. Raises
    UsageError where there is none, and where the cell compares prompts of which ``where`` selects several.
    """
    if cell is None:
        notebook, session, cell_id = _KEYS["cell"](_latest_call(ledger, where))
    else:
        notebook, session, cell_id = _found(ledger, where, cell)
    # As in the table's numbers.
    home = _home(notebook, session, cell_id)
    place = {"session": session} if home == session else {"notebook": notebook}
    its = ledger.stream(replace(where, status="ok", cell_id=cell_id, once=True, **place))
    found = [run for run in its if run.cell_id == cell_id and run.notebook == notebook and _is_call(run)]
    prompts = list(dict.fromkeys(run.tags[-1] for run in found if compared(run.tags) is not None))
    if len(prompts) > 1:
        told = ", ".join(shlex.quote(it) for it in prompts)
        raise UsageError(f"this cell compares prompts, and no call costs their mean; choose one with --tag: {told}")
    return found


def _latest_call(ledger: Ledger, where: Selection) -> RunRecord:
    """The latest complete run of a cell. Raises UsageError for none."""
    for most in (1, 100, None):  # nearly always it is the very latest
        found = ledger.runs(replace(where, status="ok", once=True), limit=most)
        for run in reversed(found):
            if _is_call(run):
                return run
    raise UsageError("there is no complete run to project from; run a cell first")


def _is_call(run: RunRecord) -> bool:
    """Whether somebody made it as a call: the row of a bench is none, be it of one request, such as its warm-up."""
    return "requests" not in run.params


def _found(ledger: Ledger, where: Selection, cell: str) -> tuple[Any, ...]:
    names, keys = naming("cell"), [key for key, _ in ledger.summarise(where, "cell")]
    numbered = {names(key)[0].removeprefix("cell "): key for key in keys}
    by_id = {key[2]: key for key in keys}
    told = None if is_place(cell) else by_id.get(cell)  # a number is the one that the table shows
    key = told or numbered.get(cell.removeprefix("cell ")) or by_id.get(cell)
    if key is None:
        raise UsageError(f"--cell {cell!r} is not a cell that ran here; %cost and tokmagic report list the cells")
    return key


def table(ledger: Ledger, where: Selection, by: str = "cell") -> Table:
    """A line for each group of the selected runs, with a total. Raises UsageError for an unknown group."""
    key_of(by)
    total, groups, names, overlap = Sum(), dict[str, Sum](), naming(by, ledger), _Overlap()
    for key, part in ledger.summarise(where, by):
        total += part
        overlap.add(names(key), part.runs)
        for name in names(key):
            groups[name] = groups.get(name, Sum()) + part
    energies, energy = _energies(ledger, where, by, names)
    # Threefold: a tag or a model may be called "total" too.
    lines = [
        *((name, part, energies.get(name, EnergySum())) for name, part in groups.items()),
        ("total", total, energy),
    ]
    notes = []
    if total.unpriced_runs:
        notes.append(
            f"{total.unpriced_runs:,} of {numbers.counted(total.runs, 'run')} without a price, not in the cost; "
            "set one with %price"
        )
    if 0 < energy.runs < total.runs:
        notes.append(f"the energy is that of {energy.runs:,} of {numbers.counted(total.runs, 'run')}")
    notes += overlap.notes(total.runs)
    # Where nothing was refused, or has a meter, there is nothing to see.
    refused = ("refused",) if total.refused_runs else ()
    columns = (by, "runs", *refused, *_COLUMNS, *(_ENERGY_COLUMNS if energy.runs else ()))
    rows = tuple(
        (
            shown(name, by),
            str(part.runs),
            *(str(part.refused_runs) for _ in refused),
            *_line(part),
            *(_energy_cells(its) if energy.runs else ()),
        )
        for name, part, its in lines
    )
    exact = [{by: name, **_exact(part), **_exact_energy(its), **_known(part)} for name, part, its in lines]
    if by == "tag":
        overlap.tell(exact)
    return Table(columns, rows, "\n".join(notes), exact=tuple(exact))


@dataclass(slots=True)
class _Overlap:
    """Runs that are in several lines: a column of sums adds up to more than there is."""

    runs: int = 0
    lines: dict[str, int] = field(default_factory=dict)

    def add(self, names: list[str], runs: int) -> None:
        """So many runs stand in these lines."""
        if len(names) > 1:
            self.runs += runs
            for name in names:
                self.lines[name] = self.lines.get(name, 0) + runs

    def notes(self, of: int) -> list[str]:
        """What is said below the table; nothing where the lines add up."""
        if not self.runs:
            return []
        which = f"{self.runs:,} of {numbers.counted(of, 'run')}"
        return [f"in a line of each of their tags, and once in the total: {which}; the lines add up to more"]

    def tell(self, exact: list[dict[str, Any]]) -> None:
        """Say in each line, the total's last, how many of its runs are in another one, too."""
        *lines, total = exact
        total["runs_in_several_lines"] = self.runs
        for line in lines:
            line["runs_in_several_lines"] = self.lines.get(line["tag"], 0)


_COLUMNS = ("in", "out", "cost", "saved", "TTFT", "ms/token")
_ENERGY_COLUMNS = ("energy", "energy/token")


def _energies(
    ledger: Ledger, where: Selection, by: str, names: Callable[[tuple[Any, ...]], list[str]]
) -> tuple[dict[str, EnergySum], EnergySum]:
    """The energy of each group, and of all."""
    found, total = dict[str, EnergySum](), EnergySum()
    for key, part in ledger.energies(where, by):
        total += part
        for name in names(key):
            found[name] = found.get(name, EnergySum()) + part
    return found, total


def _energy_cells(part: EnergySum) -> tuple[str, str]:
    told = [part.joules if part.runs else None, part.per_output_token_j]
    first, second = (
        numbers.UNKNOWN if it is None else numbers.marked(numbers.joules(it), part.precision) for it in told
    )
    return first, second


def _exact_energy(part: EnergySum) -> dict[str, Any]:
    return {
        "energy_j": part.joules if part.runs else None,
        "energy_runs": part.runs,
        "energy_per_output_token_j": part.per_output_token_j,
        **marks("energy", part.precision),
    }


def _line(part: Sum) -> tuple[str, ...]:
    return (
        numbers.tokens(part.input_tokens),
        numbers.tokens(part.output_tokens),
        _cost(part),
        numbers.usd_marked(part.saved_usd, part.saved_precision),
        numbers.seconds(part.ttft_s),
        numbers.milliseconds(part.itl_mean_s),
    )


def _exact(part: Sum) -> dict[str, Any]:
    return {
        "runs": part.runs,
        "refused_runs": part.refused_runs,
        "input_tokens": part.input_tokens or 0,
        "output_tokens": part.output_tokens or 0,
        **_exact_cost(part),
        "saved_usd": plain(part.saved_usd),
        **marks("saved", part.saved_precision),
        "ttft_s": part.ttft_s,
        "itl_mean_s": part.itl_mean_s,
    }


def _known(part: Sum) -> dict[str, bool]:
    # Programs that read earlier versions' sums know only numbers there, so what is unknown is said beside them.
    return {"input_known": part.input_tokens is not None, "output_known": part.output_tokens is not None}


def _exact_cost(part: Sum) -> dict[str, Any]:
    return {
        "cost_usd": plain(part.cost_usd),
        "unpriced_runs": part.unpriced_runs,
        **asdict(part.uncertainty),
        **marks("cost", part.precision),
    }


def marks(name: str, precision: Precision) -> dict[str, Any]:
    """How sure a sum is, for ``--json``."""
    return {f"{name}_estimated": precision.estimated, f"{name}_bound": precision.bound}


def _cost(part: Sum) -> str:
    return numbers.usd_marked(part.cost_usd, part.precision)


def waste(ledger: Ledger, where: Selection) -> Table:
    """A line for each kind of waste among the selected runs, with a total: interrupted, failed, run again unchanged."""
    found = ledger.wasted(where)
    if not found:
        return Table(("wasted", "runs", "tokens", "cost"), (), "nothing was wasted")
    total = sum(found.values(), Sum())
    lines = [(kind, it, _tokens(it)) for kind, it in (found | {"total": total}).items()]
    return Table(
        ("wasted", "runs", "tokens", "cost"),
        tuple((kind, str(it.runs), numbers.tokens(tokens), _cost(it)) for kind, it, tokens in lines),
        f"{total.unpriced_runs:,} of these runs without a price, not in the cost" if total.unpriced_runs else "",
        exact=tuple(
            {
                "wasted": kind,
                "runs": it.runs,
                "tokens": tokens or 0,
                **_exact_cost(it),
                "tokens_known": tokens is not None,
            }
            for kind, it, tokens in lines
        ),
    )


def _tokens(part: Sum) -> int | None:
    known = [it for it in (part.input_tokens, part.output_tokens) if it is not None]
    return sum(known) if known else None


def waste_line(ledger: Ledger, where: Selection) -> str:
    """The same in one line; empty where nothing was wasted."""
    found = ledger.wasted(where)
    if not found:
        return ""
    kinds = ", ".join(f"{it.runs} {kind} ({_cost(it)})" for kind, it in found.items())
    return f"wasted {_cost(sum(found.values(), Sum()))}: {kinds}"


def repriced(ledger: Ledger, where: Selection, book: PriceBook, by: str = "model") -> Table:
    """What the selected runs would cost today, beside what is frozen in their rows; nothing is changed.

    Raises UsageError for an unknown group, PriceError for an unreadable price file.
    """
    key, names, today = key_of(by), naming(by, ledger), datetime.now(UTC)
    # Asked once for each model: there can be a million runs, and a price table takes half a millisecond to ask.
    rates = cache(lambda info: book.rates(info, today))
    groups, total, overlap = dict[str, _Repriced](), _Repriced(), _Overlap()
    # As in the table's sums.
    of_keys = by in OF_KEYS
    for record in ledger.stream(replace(where, once=not of_keys)):
        if record.status in ("running", "refused") or (of_keys and record.key is None):
            continue
        then, now = record.reading.cost, at_rates(record, rates(record.info))
        total.add(then, now)
        if None not in (then.usd, now.usd):
            overlap.add(names(key(record)), 1)
        for name in names(key(record)):
            groups.setdefault(name, _Repriced()).add(then, now)
    lines = [*groups.items(), ("total", total)]
    note = f"over the runs with a price then and now; {numbers.counted(total.left_out, 'run')} left out. "
    return Table(
        (by, "runs", "cost", "at today's prices", "difference"),
        tuple((shown(name, by), *it.cells()) for name, it in lines),
        "\n".join([f"{note}Recorded costs do not change", *overlap.notes(total.then.runs)]),
        exact=tuple({by: name, **it.exact()} for name, it in lines),
    )


@dataclass(slots=True)
class _Repriced:
    """Runs that have a price then and now, so that both sums are over the same ones; exact."""

    left_out: int = 0
    then: Sum = field(default_factory=Sum)
    now: Sum = field(default_factory=Sum)

    def add(self, then: Cost, now: Cost) -> None:
        if then.usd is None or now.usd is None:
            self.left_out += 1
            return
        self.then += Sum(1, cost_usd=then.usd, uncertainty=Uncertainty.of(then))
        self.now += Sum(1, cost_usd=now.usd, uncertainty=Uncertainty.of(now))

    def change(self) -> Decimal | None:
        then = self.then.cost_usd
        return None if then is None else (self.now + Sum(cost_usd=then.copy_negate())).cost_usd

    def cells(self) -> tuple[str, ...]:
        change = self.change()
        if change is None:
            return ("0", *[numbers.UNKNOWN] * 3)
        sign = "+" if change > 0 else "−" if change < 0 else ""
        # Between two bounds there is no bound, and the mark stands before the sign as before any number.
        about = "~" if {self.then.precision, self.now.precision} != {Precision()} else ""
        sums = (numbers.usd_marked(it.cost_usd, it.precision) for it in (self.then, self.now))
        return (str(self.then.runs), *sums, f"{about}{sign}{numbers.usd(abs(change))}")

    def exact(self) -> dict[str, Any]:
        return {
            "runs": self.then.runs,
            "left_out_runs": self.left_out,
            "cost_usd": plain(self.then.cost_usd),
            **marks("cost", self.then.precision),
            "today_usd": plain(self.now.cost_usd),
            **marks("today", self.now.precision),
            "difference_usd": plain(self.change()),
        }
