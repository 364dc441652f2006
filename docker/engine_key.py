"""Makes the key by which a container's notebooks ask its shared engine, and prints it as JSON.

    engine_key.py [OLD_KEY_ID]

A process of its own, since the ledger takes memory that what watches the engine does without. The key of an earlier
start is revoked.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from datetime import UTC, datetime

from tokmagic.core.config import TokMagic
from tokmagic.errors import TokmagicError, UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs.environment import user_name


def main(old_key_id: str) -> None:
    """Print the key's id and secret, or what is wrong with the ledger."""
    try:
        settings = TokMagic()
        with contextlib.closing(Ledger(settings.ledger, store_text=settings.store_text)) as ledger:
            with contextlib.suppress(UsageError):  # it was in another ledger
                if old_key_id:
                    ledger.keys.revoke(old_key_id)
            now = datetime.now(UTC).isoformat(timespec="microseconds")
            key, secret = ledger.keys.add(f"container {socket.gethostname()[:40]} {now}", user_name())
    except TokmagicError as error:
        print(json.dumps({"fault": str(error)}))
        return
    print(json.dumps({"key_id": key.key_id, "secret": secret}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
