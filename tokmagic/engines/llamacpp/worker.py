"""``python -m tokmagic.engines.llamacpp.worker``: a GGUF file, run by llama.cpp for the process that started this.

A process of its own, since llama.cpp ends the process it is in where it meets what it did not expect, since how its
threads wait for each other is set once for a process (torch brings the same library of threads), and since the memory
of one that has ended is free. Commands come in on stdin, messages go out on stdout; it ends with stdin.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

from tokmagic.engines.llamacpp.batching import Batching
from tokmagic.engines.llamacpp.messages import (
    Command,
    Failed,
    Load,
    Message,
    Ready,
    Request,
    Score,
    Scored,
    Stop,
    command_of,
    message_line,
)
from tokmagic.engines.llamacpp.weights import Weights
from tokmagic.errors import ModelError, TokmagicError
from tokmagic.tokens.tokenizer import Tokenizer


class Worker:
    """Reads commands on a thread, works on the main one."""

    def __init__(self, commands: BinaryIO, messages: BinaryIO) -> None:
        self._commands = commands
        self._messages = messages
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._scores: deque[Score] = deque()

    def run(self) -> None:
        """Load, then work until the other side is gone."""
        threading.Thread(target=self._read, daemon=True).start()
        load = self._inbox.get()
        assert isinstance(load, Load)
        try:
            batching = self._load(load)
        except TokmagicError as error:
            self._send(Failed.of("", error))
            return
        self._send(Ready())
        while True:
            while batching.is_idle and self._scores:
                self._score(batching, self._scores.popleft())
            while batching.is_idle or not self._inbox.empty():
                self._obey(batching, self._inbox.get())
                if self._scores:
                    break
            self._send(*batching.step())

    def _load(self, load: Load) -> Batching:
        weights = Weights(Path(load.file), gpu=load.gpu)
        tokenizer = Tokenizer(Path(load.tokenizer), trust_remote_code=load.trust_remote_code)
        return Batching(weights, tokenizer, load)

    def _obey(self, batching: Batching, command: Command) -> None:
        if isinstance(command, Request):
            batching.submit(command)
        elif isinstance(command, Stop):
            self._send(*batching.stop(command.run))
        elif isinstance(command, Score):
            self._scores.append(command)

    def _score(self, batching: Batching, asked: Score) -> None:
        try:
            self._send(Scored(asked.run, batching.score(asked.ids)))
        except TokmagicError as error:
            self._send(Failed.of(asked.run, error))

    def _send(self, *messages: Message) -> None:
        if messages:
            self._messages.write(b"".join(map(message_line, messages)))
            self._messages.flush()

    def _read(self) -> None:
        for line in self._commands:
            self._inbox.put(command_of(line))
        # Whoever asked is gone, and with it whoever could read an answer; a step may be in the middle.
        os._exit(0)


def main() -> None:
    """Work for the parent. What libraries print goes to stderr: stdout is for messages alone."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(sys.stdin.buffer, messages)
    try:
        worker.run()
    except Exception as error:
        worker._send(Failed.of("", ModelError(f"{type(error).__name__}: {error}")))
        raise


if __name__ == "__main__":
    main()
