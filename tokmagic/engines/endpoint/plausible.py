"""Whether a server's counts go with what was asked and answered: they are billed, and what is odd is said."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokmagic.core.stream import Usage
from tokmagic.engines.endpoint.usage import Reported
from tokmagic.formatting.numbers import counted

_TEMPLATE = 16  # tokens by which templates may differ
_RUN = re.compile(r"(.)\1{3,}", re.DOTALL)


def implausible(usage: Usage, prompt_bytes: int, answer_bytes: int, most_output: int) -> str | None:
    """Say what is odd about a server's counts that may still be billed: more tokens than bytes; None if nothing is.

    ``most_output`` is how many output tokens were allowed. No tokenizer makes more tokens than bytes, beside what a
    template adds.
    """
    if "reported" not in (usage.input_source, usage.output_source):
        return None
    if (usage.input_tokens or 0) > 2 * prompt_bytes + 10_000:
        return f"the server reports {usage.input_tokens:,} input tokens for a prompt of {counted(prompt_bytes, 'byte')}"
    if (usage.output_tokens or 0) > max(most_output, answer_bytes) + 1_000:
        return (
            f"the server reports {usage.output_tokens:,} output tokens for an answer of "
            f"{counted(answer_bytes, 'byte')}, {most_output:,} were allowed"
        )
    return None


def made_up(usage: Usage, own_input: int | None, prompt: Iterable[str], answers: Iterable[str]) -> Reported:
    """Say where a server's counts are far off those made here: a proxy may have made them up.

    ``own_input`` is the exact count of this process, None where it has none; then the texts themselves must do.
    """
    tokens, output = usage.input_tokens, usage.output_tokens
    if usage.input_source == "reported" and tokens is not None:
        own = sum(map(least_tokens, prompt)) if own_input is None else own_input
        few = tokens == 0 or 2 * tokens < own - _TEMPLATE
        if few or (own_input is not None and tokens > 2 * own + 4 * _TEMPLATE):
            counts = f"counts {own:,}" if own_input is not None else f"estimates more than {own:,}"
            return Reported(
                None, f"the server reports {counted(tokens, 'input token')} where this machine {counts}", few
            )
    if usage.output_source == "reported" and output is not None:
        own = sum(map(least_tokens, answers))
        if own > 0 and (output == 0 or 2 * output < own - _TEMPLATE):
            shown = f"{counted(output, 'output token')} for an answer of at least {own:,}"
            return Reported(None, f"the server reports {shown}", True)
    return Reported()


def least_tokens(text: str) -> int:
    """Fewer tokens than tokenizers make of a text: none goes across words, and few hold more than 6 letters on average.

    A run of one character counts as one, since a token may hold many of it.
    """
    text = _RUN.sub(r"\1", text)
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return max(len(text.split()), (len(text) - beyond) // 6 + beyond // 4)
