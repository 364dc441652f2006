"""Which part of a prompt takes how many tokens. The parts add up to the whole, whatever they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tokmagic.core.prompt import Message, Prompt
from tokmagic.explain.origins import Origins
from tokmagic.explain.pieces import Trace

TEMPLATE = "template overhead"
"""What neither the messages nor their variables hold: roles, special tokens, what the template says by itself."""


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens of one part of a prompt: a variable, or what is written in the cell itself."""

    section: str
    variable: str | None
    tokens: int


def parts(trace: Trace, prompt: Prompt, origins: Origins | None) -> tuple[Part, ...] | None:
    """Give each token to the part that holds its first character, in the order of the prompt, the overhead last.

    None where the trace does not tell where tokens or messages are.
    """
    if trace.pieces is None or trace.contents is None:
        return None
    overhead: tuple[str, str | None] = (TEMPLATE, None)
    names = ["text"] if prompt.completion else sections(prompt.messages)
    starts, owners = [0], [overhead]

    def begin(at: int, owner: tuple[str, str | None]) -> None:
        if starts[-1] == at:
            owners[-1] = owner
        else:
            starts.append(at)
            owners.append(owner)

    for stretch in trace.contents:
        section = names[stretch.message]
        begin(stretch.start, (section, None))
        shift = stretch.start - stretch.offset
        for origin in origins[stretch.message] if origins else ():
            first, last = max(origin.start + shift, stretch.start), min(origin.end + shift, stretch.end)
            if first < last:
                begin(first, (section, origin.name))
                begin(last, (section, None))
        begin(stretch.end, overhead)

    tokens: dict[tuple[str, str | None], int] = dict.fromkeys(owners, 0)
    for at in trace.pieces.starts():
        owner = overhead if at is None else owners[bisect_right(starts, at) - 1]
        tokens[owner] += 1
    tokens[overhead] = tokens.pop(overhead)
    return tuple(Part(section, variable, count) for (section, variable), count in tokens.items() if count)


def sections(messages: Sequence[Message]) -> list[str]:
    """Name what each message of a chat is for: system, few-shot examples, and the question that ends it."""
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    names: list[str] = []
    example = 1
    for at, message in enumerate(messages):
        if message.role == "system" or at >= last:
            names.append(message.role)
            continue
        names.append(f"example {example} {message.role}")
        example += message.role == "assistant"
    return names
