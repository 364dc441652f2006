"""What each verb of the command does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tokmagic import health
from tokmagic import reports as reports
from tokmagic.core.config import TokMagic
from tokmagic.core.files import read_file
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.core.sums import Selection
from tokmagic.engines.base import ModelSpec, parse_source
from tokmagic.errors import NotebookError, UsageError
from tokmagic.explain import look
from tokmagic.formatting.markdown import plain_text
from tokmagic.formatting.numbers import counted
from tokmagic.formatting.tables import Table
from tokmagic.notebooks import check as gate
from tokmagic.prices import hourly, rate
from tokmagic.prices.projection import calls_a_day, project
from tokmagic.prompts.template import build, parse
from tokmagic.reports import exports
from tokmagic.runs import api
from tokmagic.runs.session import Session


def doctor(given: argparse.Namespace) -> int:
    """``tokmagic doctor``: exit 1 if generation cannot work."""
    diagnosis = health.doctor(api.session().settings)
    if given.json:
        found = [
            {"name": f.name, "ok": f.ok, "says": f.message, "mend": f.fix, "vital": f.vital} for f in diagnosis.findings
        ]
        print(json.dumps({"can_generate": diagnosis.can_generate, "findings": found}, indent=1))
    elif given.brief:
        print(*diagnosis.problems(), sep="\n", end="\n" if any(diagnosis.problems()) else "")
    else:
        print(diagnosis.table())
    return 0 if diagnosis.can_generate else 1


def pull(given: argparse.Namespace) -> int:
    """``tokmagic pull [NAME]``."""
    from tokmagic.engines.local.store import pull as fetch

    settings = api.session().settings
    if given.name is None and (settings.api_base or settings.api_key_name):
        raise UsageError(f"{settings.model} runs at a server, so there is nothing to fetch; name another model")
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
    name = _model_of(given, session)
    _set_rates(given, name)
    generation = session.generate(
        prompt,
        name,
        tags=given.tag,
        budget=given.budget,
        confirm=(lambda _question: True) if given.yes else None,
        cache=False if given.no_cache else given.cache or None,
        refresh=given.refresh,
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
    """``tokmagic count FILE -m MODEL``: the tokens of a plain text; for several models a table."""
    session = api.session()
    prompt = Prompt(tuple(api.messages(_read(given.file))), completion=True)
    names = [name for word in given.model for name in word.split(",") if name]
    if len(names) > 1 or given.json:
        table = look(session, prompt, names or [session.models.current]).counts()
        print(json.dumps(table.as_dicts(), ensure_ascii=False) if given.json else table)
    else:
        print(session.models.engine(names[0] if names else None).count(prompt))
    return 0


def report(given: argparse.Namespace) -> int:
    """``tokmagic report``."""
    table = _report(given)
    print(json.dumps(table.as_dicts(), ensure_ascii=False) if given.json else table)
    return 0


def _report(given: argparse.Namespace) -> Table:
    if given.by and (given.waste or given.project):
        raise UsageError(f"--by cannot be used with {'--waste' if given.waste else '--project'}")
    if given.cell and not given.project:
        raise UsageError("--cell needs --project")
    if given.project is not None:
        calls_a_day(given.project, "--project")  # before any run is looked up
    where, ledger = _selected(given), api.ledger()
    if given.project is not None:
        return project(reports.cell_runs(ledger, where, given.cell), given.project).table()
    if given.waste:
        return reports.waste(ledger, where)
    if given.reprice:
        return reports.repriced(ledger, where, api.session().prices, given.by or "model")
    return reports.table(ledger, where, given.by or "cell")


def export(given: argparse.Namespace) -> int:
    """``tokmagic export``."""
    records = api.ledger().stream(_selected(given))
    if given.output:
        exports.export_file(records, Path(given.output), given.format)
    else:
        sys.stdout.writelines(exports.export_lines(records, given.format or "jsonl"))
    return 0


def check(given: argparse.Namespace) -> int:
    """``tokmagic check NOTEBOOK…``: exit 1 beyond a limit, and where there is nothing to check."""
    wanted = gate.limits(given.max_cost, given.max_tokens, given.max_increase)
    if not wanted.any and given.against is None:
        raise UsageError("check needs a limit: --max-cost, --max-tokens, or --max-increase with --against")
    if wanted.increase is not None and given.against is None:
        raise UsageError("--max-increase needs the earlier version: --against OLD.ipynb or --against git:HEAD")
    if given.against is not None and not given.against.startswith("git:") and len(given.notebook) > 1:
        raise UsageError("--against a file goes with one notebook; for several use --against git:REV")
    found: list[dict[str, Any]] = []
    for path in given.notebook:
        try:
            notebook = gate.read(read_file(path), path)
            against = gate.earlier(given.against, path) if given.against is not None else None
        except NotebookError as error:
            found.append({"notebook": path, "ok": False, "error": str(error)})
            if not given.json:
                print(f"tokmagic: {error}", file=sys.stderr, flush=True)
            continue
        verdict = gate.check(notebook, wanted, against, new=given.against is not None and against is None)
        found.append(gate.as_dict(verdict))
        if not given.json:
            heading = [f"{path}:"] if len(given.notebook) > 1 else []
            print(*heading, gate.table(verdict), *(f"{path}: {it}" for it in verdict.problems), sep="\n", flush=True)
    if given.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    return 0 if all(it["ok"] for it in found) else 1


def ledger(given: argparse.Namespace) -> int:
    """``tokmagic ledger move URL``."""
    from tokmagic.ledgers import Ledger
    from tokmagic.ledgers.move import move

    # Whether the target keeps texts follows from what it is, unless the setting says so.
    target = Ledger(given.url, store_text=TokMagic(ledger=given.url).store_text)
    try:
        moved = move(api.ledger(), target)
    finally:
        target.close()
    left = f"; {moved.running} still run, copy again when they have ended" if moved.running else ""
    if moved.budgets_left:
        left += f"; {counted(moved.budgets_left, 'budget')} of {target.name} left unchanged"
    what = f"{counted(moved.runs, 'run')}, {counted(moved.texts, 'text')} and {counted(moved.answers, 'cached answer')}"
    print(f"{what} copied into {target.name}, {counted(moved.present, 'run')} already there{left}")
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


def _selected(given: argparse.Namespace) -> Selection:
    if given.month and (given.since or given.until):
        raise UsageError("give either --month, or --since and --until")
    since, until = _date(given.since, "--since"), _date(given.until, "--until")
    if given.month:
        try:
            first = datetime.strptime(given.month, "%Y-%m")
            # Of the first and the last months that there are, one end is no instant any more.
            since, until = _instant(first), _instant((first + timedelta(days=32)).replace(day=1))
        except (ValueError, OverflowError):
            raise UsageError(f"--month {given.month!r} is not a month; give one such as 2026-11") from None
    notebook = str(Path(given.notebook).resolve()) if given.notebook else None
    return Selection(
        notebook=notebook, since=since, until=until, user=given.user, model=given.model, tags=tuple(given.tag)
    )


def _date(text: str | None, option: str) -> datetime | None:
    if not text:
        return None
    try:
        return _instant(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {text!r} is not a date; give one such as 2026-11-24") from None


def _instant(moment: datetime) -> datetime:
    """A local time in UTC. Raises ValueError and OverflowError at the ends of the calendar."""
    return moment.astimezone(UTC)


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
        raise UsageError(f"--set {text!r} is not a variable; give NAME=VALUE")
    return name, value


def _model_of(given: argparse.Namespace, session: Session) -> str:
    """The model that is named, added first where it is one at an endpoint."""
    if not given.api_base and not given.api_key_name:
        if given.server or given.tokenizer:
            raise UsageError("--server and --tokenizer are for a model at an endpoint; give --api-base URL too")
        return session.models.resolve(given.model) if given.model else session.models.current
    if not given.model:
        raise UsageError("name the endpoint's model with -m")
    endpoint = ModelSpec(
        given.model,
        api_base=given.api_base,
        api_key_name=given.api_key_name,
        server=given.server,
        tokenizer=given.tokenizer,
    )
    session.models.add(given.model, endpoint)
    return str(given.model)


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
