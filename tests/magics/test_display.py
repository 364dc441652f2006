"""What a finished cell shows, as a mimebundle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tokmagic.magics.display import bundle


def generation(*texts: str, form: str = "markdown") -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(text=it) for it in texts], footer="2 tokens", format=form)


@pytest.mark.parametrize("answers", [1, 20])
def test_answers_that_are_long_together_are_shown_as_text(answers: int) -> None:
    """Each of them alone would be formatted, and twenty would take twenty times as long."""
    short = bundle(generation(*["*a* "] * answers))["text/markdown"]
    long = bundle(generation(*["*a* " * (26_000 // answers)] * answers))["text/markdown"]
    assert short.count("<em>a</em>") == answers
    assert (long.count("<em>a</em>"), long.count("<pre>")) == (0, answers)
    fenced = bundle(generation(f"```\n{'a ' * 60_000}\n```", form="code"))["text/markdown"]
    assert "```" not in fenced
