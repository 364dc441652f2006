"""``tokmagic doctor``: what works here."""

from __future__ import annotations

import argparse
from contextlib import suppress

from tokmagic import health
from tokmagic.cli.common import print_json, tell
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--brief", action="store_true", help="only the problems, one per line")
    form.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> int:
    """Tell what works; exit 1 if generation cannot."""
    diagnosis = health.doctor(api.session().settings)
    if given.json:
        found = [
            {"name": f.name, "ok": f.ok, "says": f.message, "mend": f.fix, "vital": f.vital} for f in diagnosis.findings
        ]
        with suppress(BrokenPipeError):  # | head
            print_json({"can_generate": diagnosis.can_generate, "findings": found}, indent=1)
    elif not given.brief:
        tell(diagnosis.table())
    elif problems := [*diagnosis.problems()]:
        tell(*problems)
    return 0 if diagnosis.can_generate else 1
