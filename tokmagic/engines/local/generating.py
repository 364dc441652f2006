"""One prompt at a time by transformers' own ``generate``: for models that the decoder does not know."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from tokmagic.core.stream import Finished, Started, Usage
from tokmagic.engines.local.answer import Answer
from tokmagic.engines.local.device import forget_peak, peak_bytes
from tokmagic.engines.local.passes import waited_ns
from tokmagic.engines.local.schema import SchemaConstraint
from tokmagic.engines.local.stream import Cancelled, LocalStream
from tokmagic.engines.local.taps import LogprobTap, TokenTap

# Prompts longer than this are prefilled in chunks of it, so that an interrupt never waits for more.
_PREFILL_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A prompt's ``ids`` and what is to become of them."""

    ids: list[int]
    config: GenerationConfig
    answers: list[Answer]
    seed: int | None
    constraint: SchemaConstraint | None
    logprobs: bool


def generate(model: Any, call: Call, stream: LocalStream, submitted_ns: int) -> None:
    """Run a prompt and put its events into ``stream``. Raises what torch and transformers raise."""
    device = model.device
    processors = LogitsProcessorList()
    logprobs = LogprobTap() if call.logprobs else None
    if logprobs is not None:
        processors.append(logprobs)  # before what a schema rules out
    if call.constraint is not None:
        processors.append(call.constraint)
    usage = Usage.measured(len(call.ids), 0)
    prefill_ns, waited_before = time.perf_counter_ns(), waited_ns()
    stream.put(Started(submitted_ns, usage, prefill_ns))
    if len(call.ids) > _PREFILL_CHUNK:
        call.config.prefill_chunk_size = _PREFILL_CHUNK
    tap = TokenTap(stream, call.answers, logprobs)
    forget_peak(device)
    guard = model.register_forward_pre_hook(lambda *_: stream.raise_if_closed())
    try:
        _run(model, call, processors, tap)
    except Cancelled:
        pass
    finally:
        guard.remove()
    end_ns = time.perf_counter_ns()
    peak = peak_bytes(device)
    ends = [answer.end(interrupted=stream.closed) for answer in call.answers]
    usage = replace(usage, output_tokens=sum(answer.tokens for answer in call.answers))
    stream.put(
        Finished(
            end_ns,
            tuple(reason for _, reason in ends),
            usage,
            tuple(tail for tail, _ in ends),
            device_s=(end_ns - prefill_ns - (waited_ns() - waited_before)) / 1e9,
            peak_bytes=peak,
        )
    )


def _run(model: Any, call: Call, processors: LogitsProcessorList, tap: TokenTap) -> None:
    inputs = torch.tensor([call.ids], device=model.device)
    # The notebook's own random state is put back afterwards.
    devices = [inputs.device.index or 0] if inputs.is_cuda else []
    with torch.random.fork_rng(devices=devices, enabled=call.seed is not None), torch.inference_mode():
        if call.seed is not None:
            torch.manual_seed(call.seed)
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=call.config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([tap]),
        )
