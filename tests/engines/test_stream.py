"""Events of a local engine, handed from the thread that generates to whoever reads them."""

from __future__ import annotations

import threading

import pytest

from tokmagic.core.stream import Event, Finished, Started, Token, Usage
from tokmagic.engines.local import stream as module
from tokmagic.engines.local.stream import LocalStream
from tokmagic.errors import ModelError

BEGUN = Started(1, Usage.measured(3, 0))
TOKENS = [Token(at_ns, f"{at_ns} ", at_ns) for at_ns in range(2, 40)]
ENDED = Finished(50, ("stop",), Usage.measured(3, len(TOKENS)))


@pytest.mark.parametrize("relaxed", [True, False])
def test_a_reader_gets_all_of_it_in_order(relaxed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LUMP_S", 0.001)
    stream = LocalStream()
    if relaxed:
        stream.relax()

    def generate() -> None:
        for event in (BEGUN, *TOKENS, ENDED):
            stream.put(event)

    thread = threading.Thread(target=generate)
    thread.start()
    assert list(stream) == [BEGUN, *TOKENS, ENDED]
    assert list(stream) == []
    thread.join(60)


def test_the_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a lump may be: who waits for the answer goes on with it, and gives its place to the next."""
    monkeypatch.setattr(module, "_LUMP_S", 3600.0)
    for last in (ENDED, ModelError("the device is gone")):
        stream, seen = LocalStream(), []
        stream.relax()

        def read(stream: LocalStream = stream, seen: list[Event | str] = seen) -> None:
            try:
                seen.extend(stream)
            except ModelError as error:
                seen.append(str(error))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        for event in (BEGUN, *TOKENS):
            stream.put(event)
        if isinstance(last, Finished):
            stream.put(last)
        else:
            stream.fail(last)
        reader.join(60)
        assert not reader.is_alive()
        assert seen[-1] == (last if isinstance(last, Finished) else "the device is gone")
