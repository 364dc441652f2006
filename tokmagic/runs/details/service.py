"""A cell's runs, and one of them in full, for a row that a person opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import RunRecord, Selection, is_place
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import TokmagicError
from tokmagic.runs.details import changes
from tokmagic.runs.details.snippets import as_curl, as_python
from tokmagic.runs.details.wire import Changes, Detail, Missing, detail_wire, parse
from tokmagic.runs.token_times import KeptTimes, Piece

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

MOST_RUNS = 100
"""How many of a cell's runs are told of, the latest."""


class DetailService:
    """Answers what a sidebar asks about a cell. For any thread; it reads, and loads nothing."""

    def __init__(self, session: Session, times: KeptTimes) -> None:
        self._session = session
        self._times = times

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request. Raises UsageError, LedgerError."""
        asked = parse(request)
        found = self._session.ledger().runs(self._runs_of(asked.cell_id), limit=MOST_RUNS + 1)
        runs = found[-MOST_RUNS:]
        at = len(runs) - 1
        if asked.run_id is not None:
            at = next((index for index, it in enumerate(runs) if it.run_id == asked.run_id), at)
        detail = self._detail(runs[at], runs[at - 1] if at else None) if runs else None
        return detail_wire(asked, runs, detail, more=len(found) > len(runs))

    def _runs_of(self, cell_id: str) -> Selection:
        # An id that is only a place meant another cell to another kernel.
        where = Selection(session=self._session.session_id) if is_place(cell_id) else self._session.selection
        return replace(where, cell_id=cell_id)

    def _detail(self, record: RunRecord, before: RunRecord | None) -> Detail:
        missing: dict[str, Missing] = {}
        kept = self._session.ledger().texts(record.run_id)
        detail = Detail(record)
        earlier = None if before is None else self._session.ledger().texts(before.run_id)
        if before is not None:
            detail = replace(detail, changes=_changes(before, record, earlier, kept))
        detail = self._with_answer(detail, kept, missing)
        if kept is None or not kept[0]:
            missing |= {"messages": "texts", "parts": "texts", "python": "texts", "curl": "texts"}
        else:
            detail = self._with_prompt(detail, kept[0], missing)
        return replace(detail, missing=missing)

    def _with_answer(self, detail: Detail, kept: Kept | None, missing: dict[str, Missing]) -> Detail:
        record, answer = detail.record, None if kept is None else kept[1]
        times = self._times.of(record.run_id)
        if times is not None and (pieces := times.pieces()):
            return replace(detail, pieces=pieces, by_token=times.by_token, logprobs=tuple(times.logprobs))
        if not answer:
            none_came = kept is not None or record.reading.usage.output_tokens == 0
            missing["answer"] = "refused" if record.status == "refused" else "nothing" if none_came else "texts"
            return detail
        missing["times"] = "times"
        return replace(detail, pieces=[Piece(answer, None)])

    def _with_prompt(self, detail: Detail, messages: Sequence[Message], missing: dict[str, Missing]) -> Detail:
        record, spec = detail.record, self._spec(detail.record)
        curl = None if spec is None else as_curl(record, messages, spec)
        if curl is None:
            missing["curl"] = "server"
        parts = self._parts(record, messages)
        if parts is None:
            missing["parts"] = "tokenizer"
        return replace(detail, messages=messages, parts=parts, python=as_python(record, messages), curl=curl)

    def _spec(self, record: RunRecord) -> ModelSpec | None:
        """How the run's model is run; None where its name means another one here."""
        try:
            spec = self._session.models.peek(record.info.name)
            same = spec is not None and self._session.models.info(record.info.name).model_id == record.info.model_id
        except TokmagicError:
            return None
        return spec if same else None

    def _parts(self, record: RunRecord, messages: Sequence[Message]) -> Sequence[tuple[str, int]] | None:
        """What the prompt consists of; None unless its model's tokenizer was read already: reading it takes seconds."""
        name, models = record.info.name, self._session.models
        if self._spec(record) is None or name not in models.opened():
            return None
        if models.engine(name).info.tokenizer_sha256 is None:
            return None
        prompt = Prompt(tuple(messages), completion=record.params.get("completion") is True)
        try:
            return self._session.parts(name, prompt)
        except TokmagicError:
            return None


Kept = tuple[list[Message], str | None]


def _changes(before: RunRecord, after: RunRecord, one: Kept | None, other: Kept | None) -> Changes:
    prompt: Sequence[changes.Line] | None = None
    if before.prompt_sha256 == after.prompt_sha256:
        prompt = ()
    elif one is not None and other is not None and one[0] and other[0]:
        prompt = changes.lines(one[0], other[0])
    answers = [it.env.get("answer_sha256") for it in (before, after)]
    same = None if None in answers else answers[0] == answers[1]
    return Changes(before.run_id, changes.settings(before, after), prompt, same)
