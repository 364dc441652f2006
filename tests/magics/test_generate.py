"""``%%generate``: its conversations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tokmagic.errors import UsageError
from tokmagic.magics.magics import TokMagics
from tokmagic.runs.session import Session


def test_a_conversation_without_a_name_is_refused(make_session: Callable[..., Session]) -> None:
    session, shell = make_session(model="scripted"), InteractiveShell()
    magics = TokMagics(shell, session)
    shell.user_ns["topic"] = ""
    for line in ("--chat ''", "--chat $topic", "--chat {topic} --reset"):
        with pytest.raises(UsageError, match="--chat is empty; name the conversation"):
            magics.generate(line, "Hi")
    assert session.ledger().runs() == []
    magics.generate("--chat talk --quiet", "Hi")
    assert len(magics.generate("--chat talk --quiet", "And then?").prompt.messages) == 3
    shell.history_manager.end_session()
