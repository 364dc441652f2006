"""Forked children: what becomes of a parent's locks, threads and connections in one.

A child has only the thread that forked. A lock that another thread held stays locked there, a thread that works for
the parent is not there, and a connection is the parent's. So whoever has one of these begins anew in each child. What
cannot begin anew is left whole: transactions, since SQLite keeps in memory what is locked, and imports, as Python does.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from types import MethodType

from tokmagic.core.interrupts import uninterrupted

_LONGEST_S = 15.0
"""How long a fork waits at most."""
_LATER_S = 0.05
"""When an interrupt comes that came meanwhile: Python drops what a function raises that it calls before a fork."""

Hook = Callable[[], None]
_Hooks = dict[int, Hook]
_before: _Hooks = {}
_in_child: _Hooks = {}
_numbers = count()


def before_fork(hook: Hook) -> None:
    """Call a function before this process forks, with no :func:`whole` block open; a method while its object lives."""
    _add(_before, hook)


def in_child(hook: Hook) -> None:
    """Call a function in each forked child; a method while its object lives. It must not wait for anything."""
    _add(_in_child, hook)


def leave(sockets: Iterable[int]) -> None:
    """Let go, in a forked child, of sockets that are its parent's, by their file descriptors.

    As long as the child has one open too, whoever is at its other end does not see the parent die: a database keeps
    what was locked, a server goes on answering. The numbers stay taken, since what here still closes one of them must
    not meet a file of the child's own.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in sockets:
        os.dup2(nowhere, number, inheritable=False)
    os.close(nowhere)


def _add(hooks: _Hooks, hook: Hook) -> None:
    number = next(_numbers)
    if isinstance(hook, MethodType):
        function = hook.__func__
        # Not a WeakMethod: its callback may be called when it is gone itself, at the end of a process.
        owner = weakref.ref(hook.__self__, lambda _: hooks.pop(number, None))
        hooks[number] = lambda: None if (it := owner()) is None else function(it)
    else:
        hooks[number] = hook


def _call(hooks: _Hooks) -> None:
    for hook in list(hooks.values()):
        hook()


class _Blocks:
    """The blocks that go on, each with its thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.threads: dict[object, int] = {}
        self.forking: set[int] = set()


_blocks = _Blocks()


@contextmanager
def whole() -> Iterator[None]:
    """A block that no fork cuts in two: one waits until it has ended on every other thread."""
    block, blocks, me = object(), _blocks, threading.get_ident()
    try:
        with blocks.lock:
            # What is within a block that a fork waits for goes on. All else has to wait, or there would be no moment
            # for the fork where threads go from one block to the next.
            if blocks.forking and me not in blocks.forking and me not in blocks.threads.values():
                blocks.changed.wait_for(lambda: not blocks.forking, _LONGEST_S)
            blocks.threads[block] = me
        yield
    finally:
        with blocks.lock:
            blocks.threads.pop(block, None)
            blocks.changed.notify_all()


def _wait() -> None:
    blocks, me = _blocks, threading.get_ident()
    with uninterrupted(later_s=_LATER_S):
        blocks.lock.acquire()
        blocks.forking.add(me)  # so that no other block begins
        blocks.changed.wait_for(lambda: all(thread == me for thread in blocks.threads.values()), _LONGEST_S)
        _call(_before)


def _go_on() -> None:
    _blocks.forking.discard(threading.get_ident())
    _blocks.changed.notify_all()
    _blocks.lock.release()


def _begin_anew() -> None:
    global _blocks
    _blocks = _Blocks()
    _call(_in_child)


def let_forks_wait() -> None:
    """From now on forks wait for :func:`whole` blocks.

    To be called once, when filelock was imported: what was registered last is called first, and a lock that is taken
    within a block would wait for the fork that waits for the block.
    """
    if hasattr(os, "register_at_fork"):  # where processes can fork at all
        os.register_at_fork(before=_wait, after_in_parent=_go_on)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
