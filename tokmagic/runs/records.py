"""A run's record as it begins: what is asked, of which model, by whom, at which rates and on what."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt, spelled
from tokmagic.core.record import INFO_IN_ENV, EngineInfo, RunRecord
from tokmagic.prompts.template import sha256
from tokmagic.runs.environment import environment


def new_record(
    info: EngineInfo,
    prompt: Prompt,
    rates: Rates,
    *,
    session: str,
    user: str | None,
    notebook: str | None = None,
    cell_id: str | None = None,
    tags: Sequence[str] = (),
) -> RunRecord:
    """The record of a run that begins now. Nothing is written."""
    env = dict(environment())
    env |= {name: value for name in INFO_IN_ENV if (value := getattr(info, name)) is not None}
    params = {
        key: value
        for key, value in asdict(prompt.sampling).items()
        if value is not None and value is not False and value != ()
    }
    if prompt.sampling.stop:
        params["stop"] = tuple(map(spelled, prompt.sampling.stop))
    if prompt.completion:
        params["completion"] = True
    if prompt.ignore_eos:
        params["ignore_eos"] = True
    if prompt.min_tokens:
        params["min_tokens"] = prompt.min_tokens
    return RunRecord(
        run_id=uuid.uuid4().hex,
        started_at=datetime.now(UTC),
        status="running",
        info=info,
        prompt_sha256=sha256(prompt),
        params=params,
        notebook=notebook,
        cell_id=cell_id,
        session=session,
        user=user,
        rates=rates,
        tags=tuple(map(spelled, tags)),
        env=env,
    )
