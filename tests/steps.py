"""Interrupts at every step: Python looks for them after each call, at each function's begin and in each loop."""

from __future__ import annotations

import dis
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import CodeType, FrameType
from typing import Any

_LOOKS = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"})


@cache
def _names(code: CodeType) -> dict[int, str]:
    return {it.offset: it.opname for it in dis.get_instructions(code)}


class _Steps:
    """Calls the handler of interrupts at one step of the functions of some files."""

    def __init__(self, at: int, files: Sequence[str], within: CodeType) -> None:
        self.left = at
        self._files = tuple(files)
        self._within = within
        self._depth = 0
        self._last: dict[FrameType, str] = {}

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if event == "call":
            self._depth += code is self._within
            if not self._depth or not code.co_filename.endswith(self._files):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "return":
            self._depth -= code is self._within
            self._last.pop(frame, None)
        elif event == "opcode" and self._depth:
            last, self._last[frame] = self._last.get(frame), _names(code)[frame.f_lasti]
            if last in _LOOKS:
                self.left -= 1
                handler = signal.getsignal(signal.SIGINT)
                if self.left == 0 and callable(handler):
                    handler(signal.SIGINT, frame)
        return self.trace


def interrupted_at_each_step(
    work: Callable[[], object], *, within: Callable[..., object], files: Sequence[str]
) -> Iterator[bool]:
    """Do ``work`` again and again, interrupted a step later each time; yield after each whether the interrupt came.

    A step is one of a function that ``within`` calls, itself included, in ``files``.
    """
    at = 1
    while True:
        steps = _Steps(at, files, within.__code__)  # type: ignore[attr-defined]
        before = sys.gettrace()
        sys.settrace(steps.trace)
        try:
            work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        yield steps.left <= 0
        if steps.left > 0:
            return
        at += 1
