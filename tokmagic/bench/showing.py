"""A bench as tables: speed by concurrency, each time beside its roof, what the device can do, what tokens cost."""

from __future__ import annotations

from collections.abc import Iterator

from tokmagic.bench import roofs
from tokmagic.bench.costs import UTILISATIONS, prices
from tokmagic.bench.figures import Level, Spread
from tokmagic.bench.running import Bench, Forecast
from tokmagic.core.money import Uncertainty
from tokmagic.core.record import EngineInfo
from tokmagic.engines.roof import Roof
from tokmagic.formatting import numbers
from tokmagic.formatting.numbers import UNKNOWN
from tokmagic.formatting.tables import Table

_AT = "at once"


def tables(bench: Bench) -> list[Table]:
    """All tables of a bench that has a level."""
    found = [speeds(bench)]
    if bench.roof is not None:
        found += [*_roofs(bench, bench.roof), limits(bench.roof)]
    return [*found, costs(bench)]


def forecast(it: Forecast, name: str) -> str:
    """What a bench may cost, in a line."""
    what = f"{numbers.counted(it.requests, 'request')} to {name}"
    if it.usd is not None:
        about = "about " if it.estimated else ""
        return f"{what} will cost {about}{numbers.usd(it.usd)} at most"
    if it.device_hour is not None:
        return f"{what}; the device costs {numbers.usd(it.device_hour)} an hour"
    return f"{what}, whose price is unknown"


def speeds(bench: Bench) -> Table:
    """Latency and throughput by concurrency."""
    columns = (_AT, "requests", "in", "out", "TTFT", "p95", "ITL", "p95", "TPOT", "p95", "token/s", "throughput")
    rows = tuple(_speed_row(level) for level in bench.levels)
    note = "times in ms, median and 95th percentile; token/s: of a request after its first token; throughput: of all"
    return Table(columns, rows, "\n".join([note, *_notes(bench)]))


def _speed_row(level: Level) -> tuple[str, ...]:
    done = len(level.done)
    count = f"{done:,}" if level.complete and not level.failed else f"{done:,} of {level.wanted:,}"
    usage = level.usage
    ends = [_ms(spread, share) for spread in (level.ttft_s, level.itl_s, level.tpot_s) for share in (0.5, 0.95)]
    speed = UNKNOWN if level.speed is None else f"{level.speed.mean:,.1f}"
    through = UNKNOWN if level.output_per_s is None else f"{level.output_per_s:,.1f}"
    counts = (_mean(usage.input_tokens, done), _mean(usage.output_tokens, done))
    return (f"{level.concurrency:,}", count, *counts, *ends, speed, through)


def _notes(bench: Bench) -> Iterator[str]:
    """What a reader has to know about the figures."""
    done = [request for level in bench.levels for request in level.done]
    chunked = [level for level in bench.levels if not level.by_token]
    if chunked:
        arrivals, tokens = sum(level.arrivals for level in chunked), [level.usage.output_tokens for level in chunked]
        of = UNKNOWN if None in tokens else f"{sum(filter(None, tokens)):,}"
        yield f"ITL is between network chunks: {arrivals:,} chunks brought {of} tokens; TPOT is by the server's count"
    short = sum((it.reading.usage.output_tokens or 0) < bench.plan.output_tokens for it in done)
    if short:
        ignore = "" if bench.plan.ignore_eos else "; --ignore-eos asks for all of them"
        yield f"{short:,} of {len(done):,} answers ended before {bench.plan.output_tokens:,} tokens{ignore}"
    cached = sum(it.reading.usage.cached_input_tokens or 0 for it in done)
    if cached:
        yield f"{cached:,} input tokens came from a prefix cache"
    if not bench.exact_prompts:
        yield "prompts are of about the wanted length: the model's tokenizer is not known here (--tokenizer names it)"
    failed = [request for level in bench.levels for request in level.failed]
    if failed:
        yield f"{numbers.counted(len(failed), 'request')} failed, the last one: {failed[-1].error}"


def _roofs(bench: Bench, roof: Roof) -> list[Table]:
    """Each level's decode and prefill beside the roof."""
    work, rows = bench.work, []
    if work is None:
        return []
    for level in bench.levels:
        for what, unit, beside in (
            ("decode", "ms a token", roofs.decode(level, roof, work)),
            ("prefill", "ms a prompt", roofs.prefill(level, roof, work)),
        ):
            if beside is not None:
                both = f"{numbers.milliseconds(beside.measured_s)} {unit}", numbers.milliseconds(beside.least_s)
                rows.append((what, f"{level.concurrency:,}", *both, f"{beside.share:.0%}"))
    if not rows:
        return []
    tokens = bench.plan.prompt_tokens
    fastest = roof.fastest(tokens)
    note = (
        f"least: decode reads {work.weight_bytes / 1e6:,.0f} MB of weights and {work.kv_bytes / 1e3:,.1f} kB of cache "
        f"for each token of context at {roof.read_bytes_per_s / 1e9:,.1f} GB/s;\n"
        f"a prompt takes {work.prefill_flops(tokens) / 1e9:,.1f} GFLOP at {fastest.flops_per_s / 1e9:,.0f} GFLOP/s "
        f"({fastest.dtype}, {numbers.counted(fastest.rows, 'row')}), and no less than the weights are read once"
    )
    return [Table(("time", _AT, "measured", "least", "of the roof"), tuple(rows), note)]


def limits(roof: Roof) -> Table:
    """What the device can do at most."""
    rows_of = sorted({speed.rows for speed in roof.matrix})
    by = {(speed.dtype, speed.rows): f"{speed.flops_per_s / 1e9:,.1f}" for speed in roof.matrix}
    rows = tuple(
        (dtype, *(by.get((dtype, rows), UNKNOWN) for rows in rows_of))
        for dtype in dict.fromkeys(speed.dtype for speed in roof.matrix)
    )
    threads = "" if roof.threads is None else f", {numbers.counted(roof.threads, 'thread')}"
    note = (
        f"{roof.device}{threads}: reads {roof.read_bytes_per_s / 1e9:,.1f} GB/s of memory; matrix products in GFLOP/s"
    )
    return Table(("GFLOP/s", *(numbers.counted(rows, "row") for rows in rows_of)), rows, note)


def costs(bench: Bench) -> Table:
    """What a million tokens cost by concurrency, and the energy where it is known."""
    found = [(level, prices(level, bench.rates)) for level in bench.levels]
    shares = UTILISATIONS if any(it.at for _, it in found) else ()
    billed = bench.rates.input is not None or not shares
    columns = [_AT, *(["cost", "1M out", "1M in+out"] if billed else ["cost"])]
    columns += [f"{what}, {share:.0%}" for what in ("1M out", "1M in+out") for share in shares]
    joules = any(level.energy_j is not None for level, _ in found)
    columns += ["energy", "J/token"] if joules else []
    rows = []
    for level, it in found:
        row, sure = [f"{level.concurrency:,}", numbers.cost(level.cost)], Uncertainty.of(level.cost).precision(0)
        row += [numbers.usd_marked(usd, sure) for usd in (it.billed.output, it.billed.total)] if billed else []
        row += [numbers.usd(it.at[share].output if it.at else None) for share in shares]
        row += [numbers.usd(it.at[share].total if it.at else None) for share in shares]
        rows.append((*row, *(_energy(level) if joules else ())))
    return Table(tuple(columns), tuple(rows), _price_note(bench, bool(shares)))


def _price_note(bench: Bench, by_hour: bool) -> str:
    rates = bench.rates
    if rates.input is None and rates.device_hour is None:
        return "no price is known; give --input and --output, or --gpu-hour"
    notes = []
    if rates.input is not None:
        notes.append(f"cost: of the requests that were measured, at token rates ({rates.source})")
    if by_hour:
        hour, source = numbers.usd(rates.device_hour), rates.source
        notes.append(f"the device costs {hour} an hour ({source}); the share is how much of it has something to do")
    return "\n".join(notes)


def _energy(level: Level) -> tuple[str, str]:
    if level.energy_j is None:
        return UNKNOWN, UNKNOWN
    tokens = level.usage.output_tokens
    return f"{level.energy_j:,.0f} J", f"{level.energy_j / tokens:,.2f}" if tokens else UNKNOWN


def heading(info: EngineInfo) -> str:
    """Which model was measured, and where."""
    where = info.server or " ".join(filter(None, (info.device_name or info.device, info.dtype, info.quant)))
    return f"{info.name} ({where})" if where else info.name


def text(bench: Bench) -> str:
    """All of it for a terminal."""
    return "\n\n".join([heading(bench.info), *map(repr, tables(bench))])


def _ms(spread: Spread | None, share: float) -> str:
    return numbers.milliseconds(None if spread is None else spread.at(share))


def _mean(count: int | None, of: int) -> str:
    return UNKNOWN if count is None or not of else f"{count / of:,.1f}".removesuffix(".0")
