"""What ``%model info`` says of memory: what a model takes, whether that fits, and who holds the GPU's now."""

from __future__ import annotations

from collections.abc import Iterator

from tokmagic.engines.base import Weighed
from tokmagic.engines.fit import Held, Need
from tokmagic.engines.gpu import look
from tokmagic.engines.gpu.memory import split
from tokmagic.engines.gpu.visible import gpu_of
from tokmagic.engines.local.memory import FIRST_TOKENS, free_bytes, what_fits
from tokmagic.formatting import numbers
from tokmagic.formatting.numbers import counted, size
from tokmagic.runs.environment import expected_device
from tokmagic.runs.gpu_readings import held_beside
from tokmagic.runs.session import Session

Rows = Iterator[tuple[str, str]]


def memory_rows(session: Session, name: str, engine: Weighed, context_tokens: int | None, batch: int) -> Rows:
    """Rows about a model's memory, for ``batch`` answers of so many tokens at once; None: its whole context.

    Raises ModelError.
    """
    need, held = engine.need(), engine.held()
    device = expected_device(session.info(name), session.models.spec(name).device).device or "cpu"
    if need is not None:
        context = context_tokens or need.context_tokens or FIRST_TOKENS
        yield from _need(need, context, batch)
        free = free_bytes(device)
        if free is not None:
            # What it holds already it need not take again.
            room = free if held is None else free + held.weights_bytes
            yield "fits", _verdict(need, room, device, context, batch)
            yield from _most(need, room, context, batch)
    if held is not None:
        yield from _holders(device, held, sum(it.weights_bytes for it in held_beside(session.models, name, device)))


def _need(need: Need, context: int, batch: int) -> Rows:
    yield "weights", f"{size(need.weights_bytes)} in {need.form}"
    cache = need.cache
    if cache is None:
        yield "KV cache", "its configuration does not tell; only the weights are known"
        return
    bound = "≤" if cache.at_most else ""
    taken = f"{bound}{size(batch * cache.size(context))} for {_asked(context, batch)}"
    windows = "".join(f", {size(each)} of the last {window:,}" for window, each in cache.windows.items())
    yield "KV cache", f"{taken}; {bound}{size(cache.token_bytes)} a token{windows}"
    yield "overhead", f"~{size(need.overhead_bytes(context, batch))}"


def _asked(context: int, batch: int) -> str:
    return f"{counted(context, 'token')}{f' × {batch:,}' if batch > 1 else ''}"


def _verdict(need: Need, room: int, device: str, context: int, batch: int) -> str:
    """Whether it fits, and if not even the weights do, what would."""
    total = need.total_bytes(context, batch)
    told = f"{size(total)} needed, {size(room)} there on {device}"
    if total <= room:
        return f"{'yes' if need.cache is not None else 'the weights do'}: {told}"
    if need.cache is None or need.largest_context(room) == 0:
        return f"no: {told}; {what_fits(need, room)}"
    return f"not all: {told}"


def _most(need: Need, room: int, context: int, batch: int) -> Rows:
    """The largest context for so many answers, and how many answers of so many tokens, where at least one is known."""
    longest, most = need.largest_context(room, batch), need.largest_batch(room, context)
    told = [f"{counted(longest, 'token')} for {counted(batch, 'answer')}"] if longest else []
    if most:
        told.append(f"{counted(most, 'answer')} of {counted(context, 'token')}")
    if told:
        yield "at most", ", or ".join(told)


def _holders(device: str, held: Held, other_weights_bytes: int) -> Rows:
    gpu = gpu_of(device, look().devices)
    shares = split(gpu, held, other_weights_bytes) if gpu is not None else None
    if shares is None or gpu is None:
        yield "holds", f"{size(held.weights_bytes)} of weights"
        return
    told = [
        f"{size(shares.weights_bytes)} weights",
        *([f"{size(other_weights_bytes)} other models' weights"] if other_weights_bytes else []),
        f"{size(shares.cache_bytes)} KV cache and activations",
        f"{size(shares.reserve_bytes)} torch's reserve",
        f"{size(shares.context_bytes)} CUDA's own",
        f"{numbers.UNKNOWN if shares.others_bytes is None else size(shares.others_bytes)} other processes",
        f"{size(shares.free_bytes)} free of {size(gpu.total_bytes)}",
    ]
    yield f"gpu {gpu.label}", ", ".join(told)
