"""What happens before a model can answer, told stage by stage: a first run takes many seconds until its first token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokmagic.engines.base import Engine, Progress
from tokmagic.engines.registry import Models
from tokmagic.errors import GenerationInterrupted
from tokmagic.runs.channel import Channel


class Readying:
    """The stage that a session's model is in on its way to being ready, for the sidebar and for who waits."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.stage: tuple[str, float | None] | None = None
        """What is being done, and the share done; None where nothing is."""

    @contextmanager
    def telling(self, progress: Progress | None = None) -> Iterator[Progress]:
        """Gives what tells the sidebar, and ``progress``, of each stage.

        Raises GenerationInterrupted where Ctrl-C ends it.
        """

        def report(doing: str, share: float | None) -> None:
            self.stage = (doing, share)
            self._channel.touch()
            if share is None:
                self._channel.flush()  # an import leaves the thread that sends little time
            if progress is not None:
                progress(doing, share)

        try:
            yield report
        except KeyboardInterrupt:
            raise GenerationInterrupted("loading the model was interrupted; nothing was generated") from None
        finally:
            if self.stage is not None:
                self.stage = None
                self._channel.touch()

    def open(self, models: Models, name: str, report: Progress) -> Engine:
        """Return a model's engine; report what takes long before it can load. Raises UsageError, ModelError."""
        has_weights = models.spec(name).traits.has_weights
        engine = models.engine(name)
        if has_weights and engine.info.tokenizer_sha256 is None:
            report("reading the tokenizer", None)
        return engine
