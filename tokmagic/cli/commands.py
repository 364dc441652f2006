"""What each verb of the command does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tokmagic import api, health
from tokmagic import report as reports
from tokmagic.config import TokMagic
from tokmagic.engines import ModelSpec, parse_source
from tokmagic.errors import UsageError
from tokmagic.events import Prompt, Rates, RunRecord, Sampling, Selection
from tokmagic.markdown import plain_text
from tokmagic.prices import hourly, rate
from tokmagic.prompt import build, parse


def doctor(given: argparse.Namespace) -> int:
    """``tokmagic doctor``: exit 1 if generation cannot work."""
    diagnosis = health.doctor(api.session().settings)
    if given.json:
        found = [
            {"name": f.name, "ok": f.ok, "says": f.says, "mend": f.mend, "vital": f.vital} for f in diagnosis.findings
        ]
        print(json.dumps({"can_generate": diagnosis.can_generate, "findings": found}, indent=1))
    else:
        print(diagnosis.table())
    return 0 if diagnosis.can_generate else 1


def pull(given: argparse.Namespace) -> int:
    """``tokmagic pull [NAME]``."""
    from tokmagic.engines.local_store import pull as fetch

    settings = api.session().settings
    source, revision = parse_source(given.name or settings.model)
    located = fetch(ModelSpec(source, revision=revision), settings, _progress, force=given.force)
    print(f"{located.model_id} is in {located.folder} (from {located.origin})")
    return 0


def run(given: argparse.Namespace) -> int:
    """``tokmagic run FILE``: the answer on stdout, the numbers on stderr."""
    session = api.session()
    variables = dict(_variable(text) for text in given.set)
    sampling = Sampling(
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
        stop=tuple(given.stop),
    )
    messages = parse(_read(given.file), variables, literal=given.literal)
    prompt = build(messages, sampling, system=given.system, completion=given.completion)
    name = session.models.resolve(given.model) if given.model else session.models.current
    _set_rates(given, name)
    generation = session.generate(
        prompt,
        name,
        tags=given.tag,
        budget=given.budget,
        confirm=(lambda _question: True) if given.yes else None,
        watcher=_Printer(quiet=given.json),
        progress=_progress,
    )
    if given.json:
        print(json.dumps(generation.as_dict(), ensure_ascii=False))
    else:
        print(flush=True)
        print(generation.footer, file=sys.stderr)
    generation.raise_for_status()
    return 0


def count(given: argparse.Namespace) -> int:
    """``tokmagic count FILE -m MODEL``: the tokens of a plain text."""
    text = _read(given.file)
    print(api.session().models.engine(given.model).count(Prompt(tuple(api.messages(text)), completion=True)))
    return 0


def report(given: argparse.Namespace) -> int:
    """``tokmagic report``."""
    table = reports.table(_selected(given), given.by)
    print(json.dumps(table.as_dicts(), ensure_ascii=False) if given.json else table)
    return 0


def export(given: argparse.Namespace) -> int:
    """``tokmagic export``."""
    records = _selected(given)
    if given.output:
        reports.export_file(records, Path(given.output), given.format)
    else:
        sys.stdout.write(reports.export_text(records, given.format or "jsonl"))
    return 0


def ledger(given: argparse.Namespace) -> int:
    """``tokmagic ledger move URL``."""
    from tokmagic.ledger import Ledger
    from tokmagic.ledger.move import move

    # Whether the target keeps texts follows from what it is, unless the setting says so.
    target = Ledger(given.url, store_text=TokMagic(ledger=given.url).store_text)
    try:
        moved = move(api.ledger(), target)
    finally:
        target.close()
    left = f"; {moved.running} still run, copy again when they have ended" if moved.running else ""
    print(f"{moved.runs} runs and {moved.texts} texts copied into {target.name}, {moved.present} were there{left}")
    print("use it from now on with TOKMAGIC_LEDGER (the ledger copied from is unchanged)", file=sys.stderr)
    return 0


class _Printer:
    """Prints the answer as it comes."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def token(self, text: str) -> None:
        if not self._quiet:
            sys.stdout.write(plain_text(text))
            sys.stdout.flush()


def _progress(doing: str, share: float | None) -> None:
    if sys.stderr.isatty():
        percent = "" if share is None else f" {share:.0%}"
        sys.stderr.write("\r\033[K" + ("" if share == 1.0 else f"{doing}{percent}"))
        sys.stderr.flush()


def _selected(given: argparse.Namespace) -> list[RunRecord]:
    since = None
    if given.since:
        try:
            since = datetime.fromisoformat(given.since).astimezone()
        except ValueError:
            raise UsageError(f"--since {given.since!r} is no date; give one such as 2026-11-24") from None
    notebook = str(Path(given.notebook).resolve()) if given.notebook else None
    return api.ledger().runs(Selection(notebook=notebook, since=since))


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text; convert it first") from None


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--set {text!r} is no variable; give NAME=VALUE")
    return name, value


def _set_rates(given: argparse.Namespace, name: str) -> None:
    rates = Rates(source="command line")
    if (given.input is None) != (given.output is None):
        raise UsageError("a bill needs both token rates; give --input and --output")
    if given.input is not None:
        rates = replace(rates, input=rate(given.input, what="--input"), output=rate(given.output, what="--output"))
    if given.gpu_hour is not None:
        rates = replace(rates, device_hour=hourly(given.gpu_hour))
    if rates != Rates(source="command line"):
        api.session().prices.set(name, rates)
    if given.shadow:
        api.session().prices.shadow(name, given.shadow)
