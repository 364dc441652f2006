"""The command, run as a person runs it: verbs, exit codes, and one line for each error."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from tokenizers import Tokenizer

from tests.commands import Command, command_in, environment
from tests.documented import PARSERS, options_of, verbs
from tests.health.test_doctor import ON_CPU
from tests.notebooks.saved_notebooks import one, write
from tests.reports.test_tables import run
from tokmagic import __version__, health
from tokmagic.core.record import RunRecord
from tokmagic.ledgers import Ledger, Outbox
from tokmagic.ledgers.outbox import kept_in
from tokmagic.magics.magics import TokMagics
from tokmagic.runs.session import Session

COMMAND = [sys.executable, "-m", "tokmagic.cli"]
PRICES = ("--input", "0.15", "--output", "0.60")


@pytest.fixture
def tokmagic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in a folder of its own: ``tokmagic("run", "-", text="Hi")``."""
    return command_in(tmp_path, capsys)


def only_run(folder: Path) -> tuple[RunRecord, list[tuple[str, str]]]:
    """The one run in a folder's ledger, with its prompt."""
    ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite")
    (record,) = ledger.runs()
    kept = ledger.texts(record.run_id)
    ledger.close()
    return record, [] if kept is None else [(message.role, message.content) for message in kept[0]]


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The error's line: nothing else may be on stderr, and nothing but whole output on stdout."""
    assert done.returncode == status, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tokmagic: ")
    return lines[0]


def test_version_and_help(tokmagic: Command) -> None:
    assert tokmagic("--version").stdout == f"tokmagic {__version__}\n"
    shown = tokmagic("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for verb, options in verbs().items():
        assert re.search(rf"\n    {verb}\s", shown.stdout)
        told = tokmagic(verb, "--help")
        assert (told.returncode, told.stdout, told.stderr) == (0, options.format_help(), "")
    assert tokmagic("run", "--frobnicate", "--help").returncode == 0, "help wins over what is wrong beside it"


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("tokmagic")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == f"tokmagic {__version__}\n"


def test_run_prints_the_answer_and_its_numbers_apart(tokmagic: Command, tmp_path: Path) -> None:
    done = tokmagic("run", "-m", "scripted", "--max-tokens", "3", *PRICES, text="Hi")
    assert (done.returncode, done.stdout) == (0, "This answer is \n")
    assert done.stderr == "12 → 3 tokens · $0.0000036 · TTFT 0.20 s · 20.0 ms/token · scripted\n"
    record, prompt = only_run(tmp_path)
    assert (record.status, record.reading.cost.usd) == ("ok", Decimal("0.0000036"))
    assert prompt == [("user", "Hi")]


def test_run_fills_in_a_template_and_prints_json(tokmagic: Command, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("--- system\nBe {{ mood }}.\n--- user\nHi {{ who }}\n", encoding="utf-8")
    words = ("run", "ask.txt", "-m", "scripted", "--set", "mood=kind", "--set", "who=Ada = π", "--json", "--tag", "t")
    done = tokmagic(*words)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["finish_reason"], answer["output_tokens"]) == ("ok", "stop", 19)
    assert (answer["cost_usd"], answer["model"]) == (None, "scripted")
    record, prompt = only_run(tmp_path)
    assert prompt == [("system", "Be kind."), ("user", "Hi Ada = π")]
    assert (record.run_id, record.tags) == (answer["run_id"], ("t",))


@pytest.fixture
def recorded(tokmagic: Command) -> Command:
    """Three runs: two priced, one not."""
    for words in (("--tag", "a", *PRICES), ("--tag", "b", *PRICES), ("--max-tokens", "2")):
        assert tokmagic("run", "-m", "scripted", *words, text="Hi").returncode == 0
    return tokmagic


def test_report_adds_up(recorded: Command) -> None:
    done = recorded("report", "--by", "tag")
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["tag", "a", "b", "—", "total", "1"]
    (total,) = [
        row for row in json.loads(recorded("report", "--by", "model", "--json").stdout) if row["model"] == "total"
    ]
    assert (total["runs"], total["input_tokens"], total["output_tokens"]) == (3, 36, 40)
    assert (total["cost_usd"], total["unpriced_runs"], total["saved_usd"]) == ("0.0000264", 1, None)
    for by in ("cell", "run", "notebook", "day", "user", "status"):
        assert recorded("report", "--by", by).stdout.splitlines()[0].startswith(by)
        rows = list(csv.DictReader(io.StringIO(recorded("report", "--by", by, "--csv").stdout)))
        told = json.loads(recorded("report", "--by", by, "--json").stdout)
        assert [row["runs"] for row in rows] == [str(row["runs"]) for row in told[:-1]]
    assert "total  0" in recorded("report", "--since", "2999-01-01").stdout.replace("     ", "  ").replace("   ", "  ")


def test_a_bill_by_tag_says_which_runs_are_in_several_lines(recorded: Command) -> None:
    words = ("--tag", "a", "--tag", "c", "--max-tokens", "2")
    assert recorded("run", "-m", "scripted", *words, text="Hi").returncode == 0
    done = recorded("report", "--by", "tag", "--csv")
    rows = [(row["tag"], row["runs"], row["runs_in_several_lines"]) for row in csv.DictReader(io.StringIO(done.stdout))]
    assert rows == [("a", "2", "1"), ("b", "1", "0"), ("—", "1", "0"), ("c", "1", "1")]
    assert "1 of 4 runs; the lines add up to more" in done.stderr


def test_report_projects_selects_and_reprices(recorded: Command) -> None:
    rows = json.loads(recorded("report", "--project", "1e6/day", "--tag", "a", "--json").stdout)
    assert [row["mean"] for row in rows if row["of"] == "month_usd"] == ["396"]
    shown = recorded("report", "--project", "1e6/day", "--tag", "b").stdout
    assert "1,000,000 calls a day of scripted, from 1 run (median 31 tokens)" in shown
    assert "the runs of scripted have no price" in one_line(recorded("report", "--project", "1e6/day"), 2)
    (line, total) = json.loads(recorded("report", "--by", "tag", "--tag", "b", "--json").stdout)
    assert (line["tag"], line["runs"], total["runs"]) == ("b", 1, 1)
    assert len(recorded("export", "--tag", "a").stdout.splitlines()) == 1
    assert recorded("export", "--tag", "a", "--tag", "b").stdout == ""
    total_line = recorded("report").stdout.splitlines()[-2]
    assert total_line.split()[:5] == ["total", "3", "36", "40", "≥$0.0000264"]
    assert recorded("report", "--reprice").stdout.splitlines()[1].split() == ["scripted", "0", "—", "—", "—"]
    assert recorded("report", "--waste").stdout.splitlines()[-1] == "nothing was wasted"


def test_export_in_each_format(recorded: Command, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in recorded("export").stdout.splitlines()]
    assert [line["cost_usd"] for line in lines] == ["0.0000132", "0.0000132", None]
    rows = list(csv.DictReader(io.StringIO(recorded("export", "--format", "csv").stdout)))
    assert [row["run_id"] for row in rows] == [line["run_id"] for line in lines]
    for name in ("runs.parquet", "runs.csv", "runs.jsonl"):
        done = recorded("export", "-o", name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (tmp_path / name).stat().st_size > 0
    assert (tmp_path / "runs.jsonl").read_text(encoding="utf-8") == recorded("export").stdout
    assert recorded("export", "-o", "-", "--format", "csv").stdout == recorded("export", "--format", "csv").stdout
    assert recorded("export", "-o", "runs").returncode == 0, "JSONL is the default"
    assert (tmp_path / "runs").read_bytes() == (tmp_path / "runs.jsonl").read_bytes()
    assert recorded("export", "--notebook", "other.ipynb").stdout == ""


@pytest.mark.parametrize(
    ("running", "duplicates", "told"),
    [
        (0, 0, None),
        (1, 0, "1 run still running"),
        (0, 2, "2 duplicates"),
        (2, 1, "2 runs still running, 1 duplicate"),
    ],
)
def test_a_column_of_an_export_adds_up_to_what_the_report_says(
    tokmagic: Command, tmp_path: Path, running: int, duplicates: int, told: str | None
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger.settle(run("a", cost="0.25"))
    for number in range(duplicates):
        ledger.settle(replace(run(f"twice{number}", cost="0.25"), duplicate=True, client_run_id="a"))
    for number in range(running):
        ledger.begin(run(f"now{number}", cost="0.5", status="running"))
    for words in (("export",), ("export", "-o", "runs.jsonl")):
        done = tokmagic(*words)
        lines = (done.stdout or (tmp_path / "runs.jsonl").read_text(encoding="utf-8")).splitlines()
        assert len(lines) == 1 + running + duplicates, "all rows, as ever"
        assert done.stderr == ("" if told is None else f"in no sum, and left out with --once: {told}\n")
    once = tokmagic("export", "--once", "--format", "csv")
    (total,) = json.loads(tokmagic("report", "--by", "user", "--json").stdout)[-1:]
    rows = list(csv.DictReader(io.StringIO(once.stdout)))
    assert ([row["run_id"] for row in rows], once.stderr) == (["a"], "")
    assert rows[0]["cost_usd"] == total["cost_usd"] == "0.25"
    ledger.close()


def test_what_waits_for_a_ledger_at_another_address_is_delivered_once(tokmagic: Command, tmp_path: Path) -> None:
    path = kept_in(tmp_path, "postgresql://127.0.0.1:9/books")
    for name in ("a", "b"):
        Outbox(path, store_text=True).keep(run(name, cost="0.25"), (), "an answer")
    with closing(Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as ledger:
        ledger.begin(run("a", cost="0", status="running"))
        done = tokmagic("ledger", "deliver", path.name)
        assert (done.returncode, done.stdout) == (0, f"2 runs delivered into {ledger.name}\n")
        assert [(it.run_id, it.status, it.reading.cost.usd) for it in ledger.runs()] == [
            ("a", "ok", Decimal("0.25")),
            ("b", "ok", Decimal("0.25")),
        ]
    assert not path.exists()
    # The ledger itself is none of these: what is delivered is removed.
    for name in (path.name, "ledger.sqlite"):
        refused = tokmagic("ledger", "deliver", name)
        assert refused.returncode == 2
        assert f"{name} has no runs that wait for a ledger; tokmagic doctor names the files that have" in refused.stderr
    assert (tmp_path / "ledger.sqlite").exists()


@pytest.mark.parametrize(
    ("kept", "asked", "found"),
    [
        ("nb_1.ipynb", "nb_1.ipynb", True),
        ("nb_1.ipynb", "link/nb_1.ipynb", True),
        ("link/nb_1.ipynb", "nb_1.ipynb", True),
        ("gone/nb_1.ipynb", "gone/nb_1.ipynb", True),
        ("gone/nb_1.ipynb", "nb_1.ipynb", False),
        ("link/nbx1.ipynb", "nb_1.ipynb", False),
    ],
)
def test_a_notebook_is_found_by_whichever_path_leads_to_it(
    tokmagic: Command, tmp_path: Path, kept: str, asked: str, found: bool
) -> None:
    """JupyterHub names a home folder as it is set, often by a link; a terminal is in the folder itself."""
    assert tokmagic("run", "-m", "scripted", text="Hi").returncode == 0
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for name in ("nb_1.ipynb", "nbx1.ipynb"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with closing(Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as ledger:
        (record,) = ledger.runs()
        ledger.settle(replace(record, run_id="f" * 32, notebook=str(tmp_path / kept)))
    done = tokmagic("report", "--by", "run", "--notebook", asked, "--json")
    assert json.loads(done.stdout)[-1]["runs"] == found
    assert ("is recorded; tokmagic report --by notebook lists the notebooks" in done.stderr) is not found
    assert len(tokmagic("export", "--notebook", asked).stdout.splitlines()) == found


def test_a_reader_that_goes_away_is_no_error(recorded: Command, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, **environment(tmp_path)}
    done = subprocess.run([*COMMAND, "export"], stdout=write, stderr=subprocess.PIPE, text=True, env=env, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ["--json", "--compare"])
def test_a_limit_holds_also_where_the_reader_goes_away(tmp_path: Path, words: str) -> None:
    """``tokmagic check … | head`` in CI, where pipefail asks for the status of each command."""
    file = write(
        str(tmp_path / "nb.ipynb"), *(one("1", id=f"c{number}") for number in range(200))
    )  # more than a buffer
    read, wrote = os.pipe()
    os.close(read)
    command = [*COMMAND, "check", file, file, "--max-cost", "0.1", *words.split()]
    done = subprocess.run(command, stdout=wrote, stderr=subprocess.PIPE, env={**os.environ}, check=False)
    os.close(wrote)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_an_output_that_cannot_be_written_is_one_line(
    recorded: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["export"], ["report"], ["run", "-m", "scripted"]):
        with Path("/dev/full").open("w", encoding="utf-8") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            done = recorded(*words, text="Hi")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("tokmagic: ")
        assert done.stderr.splitlines()[-1].endswith("No space left on device")
        assert "Traceback" not in done.stderr


@contextmanager
def running(tmp_path: Path, first: str, itl_s: float) -> Iterator[subprocess.Popen[str]]:
    """``tokmagic run`` of a model that says ``first`` and then a word each ``itl_s`` seconds; all it says is a pipe."""
    script = {"pieces": [first, *["word "] * 50], "ttft_s": 0.01, "itl_s": itl_s, "pace": 1}
    (tmp_path / "slow.json").write_text(json.dumps(script), encoding="utf-8")
    with subprocess.Popen(
        [*COMMAND, "run", "-m", "scripted:slow.json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment(tmp_path)},
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None
        process.stdin.write("Hi")
        process.stdin.close()
        assert process.stdout is not None
        assert process.stdout.read(len(first)) == first
        yield process


def test_an_interrupt_settles_the_row_and_exits_130(tmp_path: Path) -> None:
    with running(tmp_path, "first ", itl_s=60) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert "interrupted after 1 token;" in process.stderr.read()
    record, _ = only_run(tmp_path)
    assert (record.status, record.reading.usage.output_tokens) == ("interrupted", 1)


def test_a_run_whose_reader_goes_away_is_stopped(tmp_path: Path) -> None:
    """``tokmagic run … | head -1``: nobody reads what the rest would cost."""
    with running(tmp_path, "first\n", itl_s=0.2) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(60) == 0
    record, _ = only_run(tmp_path)
    assert (record.status, record.error) == ("interrupted", None)
    assert 2 <= (record.reading.usage.output_tokens or 0) < 51
    assert "interrupted" in said
    assert "Traceback" not in said


# What the options of %%generate do here is what they do there


def by_magic(session: Session, line: str) -> Any:
    """``%%generate`` with this line in a shell; the run's row is the last of the session's ledger."""
    shell = InteractiveShell()
    try:
        return TokMagics(shell, session).generate(line, "Hi {{ 'there' }}\n")
    finally:
        shell.history_manager.end_session()


COMMON = [
    *("-m scripted", "--model scripted", "--system 'Be kind'", "--literal", "--completion", "--no-stream", "--quiet"),
    *("--max-tokens 3", "--max-tokens 1e3", "--temperature 0.5", "--top-p .9", "--top-k 40", "--min-p 0.05"),
    *("--repetition-penalty 1.1", "--stop is --stop '---'", "--seed 7", "-n 2 --temperature 1", "--logprobs"),
    """--json-schema '{"type": "object"}'""",
    *("--cache", "--no-cache", "--refresh --seed 1", "--budget 0.5", "--yes", "--tag a --tag b"),
]
HERE_ALONE = {"--into", "--chat", "--reset", "--format"}
"""Options that need a notebook: docs/command-line.md says why."""


@pytest.mark.parametrize("line", COMMON)
def test_an_option_of_a_run_does_what_it_does_in_a_cell(
    tokmagic: Command, make_session: Callable[..., Session], tmp_path: Path, line: str
) -> None:
    model = () if "scripted" in line else ("-m", "scripted")
    session = make_session(model="scripted", home=str(tmp_path / "b"), ledger=f"sqlite:///{tmp_path}/b.sqlite")
    done = tokmagic("run", *model, *shlex.split(line), text="Hi {{ 'there' }}\n")
    assert done.returncode == 0, done.stderr
    by_magic(session, line)
    ((here, prompt), (there,)) = only_run(tmp_path), session.ledger().runs()
    kept = session.ledger().texts(there.run_id)
    assert kept is not None
    assert prompt == [(message.role, message.content) for message in kept[0]]
    for name in ("params", "status", "finish_reason", "tags", "prompt_sha256"):
        assert getattr(here, name) == getattr(there, name)
    assert (here.info.name, here.reading.usage) == (there.info.name, there.reading.usage)


def test_every_option_of_a_run_is_in_the_list_above_or_needs_a_notebook(tokmagic: Command) -> None:
    cell, command = set(options_of(PARSERS["generate"]())), set(options_of(verbs()["run"]))
    assert cell - command == HERE_ALONE
    tried = {word for line in COMMON for word in shlex.split(line) if word.startswith("-")} - {"---"}
    assert (cell & command) - tried == {"-h", "--help", "--dry-run"}


def test_a_dry_run_says_what_the_magic_says(
    tokmagic: Command, make_session: Callable[..., Session], tmp_path: Path
) -> None:
    words = ("run", "-m", "scripted", "--dry-run", "--max-tokens", "100", "-n", "2")
    session = make_session(model="scripted")
    told = by_magic(session, "--dry-run --max-tokens 100 -n 2")
    assert tokmagic(*words, text="Hi {{ 'there' }}\n").stdout == f"{told}\n"
    (row,) = json.loads(tokmagic(*words, *PRICES, "--json", text="Hi").stdout)
    assert row == {
        "model": "scripted",
        "input_tokens": 12,
        "input_source": "counted",
        "most_output_tokens": 200,
        "least_usd": "0.0000018",
        "least_estimated": False,
        "most_usd": "0.0001218",
        "most_estimated": False,
    }
    (unpriced,) = json.loads(tokmagic(*words, "--json", text="Hi").stdout)
    assert (unpriced["least_usd"], unpriced["most_usd"]) == (None, None)
    assert tokmagic("export").stdout == "", "nothing was run"


def test_each_rate_of_a_run_is_what_price_makes_of_it(tokmagic: Command, make_session: Any, tmp_path: Path) -> None:
    line = "--input 1 --output $2 --cached 0.5 --cache-write '1.25 USD' --gpu-hour 3"
    assert tokmagic("run", "-m", "scripted", *shlex.split(line), text="Hi").returncode == 0
    session = make_session(model="scripted", ledger="sqlite://")
    shell = InteractiveShell()
    TokMagics(shell, session).price(f"scripted {line}")
    shell.history_manager.end_session()
    here, there = only_run(tmp_path)[0].rates, session.rates(session.info("scripted"))
    for name in ("input", "output", "cached", "cache_write", "device_hour"):
        assert getattr(here, name) == getattr(there, name)
    assert here.source == "command line"
    answer = json.loads(tokmagic("run", "-m", "scripted", "--per-1k", "0.001", "--json", text="Hi").stdout)
    assert Decimal(answer["cost_usd"]) == Decimal(12 + answer["output_tokens"]) / 1_000_000


def test_a_schema_may_be_a_file(tokmagic: Command, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type":  "object"}', encoding="utf-8")
    assert tokmagic("run", "-m", "scripted", "--json-schema", "schema.json", text="Hi").returncode == 0
    assert only_run(tmp_path)[0].params["json_schema"] == '{"type":"object"}'


def test_what_is_printed_of_several_answers_and_of_none(tokmagic: Command) -> None:
    words = ("run", "-m", "scripted", "--max-tokens", "3")
    streamed = tokmagic(*words, text="Hi")
    assert tokmagic(*words, "--no-stream", text="Hi").stdout == streamed.stdout == "This answer is \n"
    quiet = tokmagic(*words, "--quiet", text="Hi")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert len(tokmagic("export").stdout.splitlines()) == 3


WRONG: list[tuple[list[str], str]] = [
    (["run", "none.txt"], "none.txt cannot be read: No such file or directory"),
    (["run", "."], ". cannot be read: Is a directory"),
    (
        ["run", "Name three rivers."],
        "No such file or directory; name a file, or give the text itself on standard input",
    ),
    (["count", "Name three rivers."], "; name a file, or give the text itself on standard input"),
    (["run", "latin.txt"], "latin.txt is not UTF-8 text; convert it first"),
    (["run", "-m", "smolm2", "ask.txt"], "did you mean smollm2"),
    (["run", "-m", "scripted", "ask.txt", "--set", "1x=2"], "give NAME=VALUE"),
    (["run", "-m", "scripted", "ask.txt", "--input", "1"], "give --output too"),
    (["run", "-m", "scripted", "ask.txt", "--per-1k", "1", "--output", "1"], "--per-1k sets one rate"),
    (["run", "-m", "scripted", "ask.txt", "--cache", "--no-cache"], "give one of them"),
    (["run", "-m", "scripted", "ask.txt", "--top-k", "0"], "--top-k is 0; it must be at least 1"),
    (["run", "-m", "scripted", "ask.txt", "--min-p", "2"], "--min-p is 2; it must be at least 0 and at most 1"),
    (["run", "-m", "scripted", "ask.txt", "-n", "1.5"], "-n: invalid integer value"),
    (["run", "-m", "scripted", "ask.txt", "--json-schema", "none.json"], "none.json cannot be read"),
    (["run", "-m", "scripted", "ask.txt", "--json-schema", "[1]"], "is not a JSON schema"),
    (["run", "-m", "scripted", "ask.txt", "--into", "x"], "unknown option '--into'"),
    (["reproduce", "nb.ipynb", "--timeout", "0"], "--timeout is 0; give whole seconds"),
    (["ledger", "mvoe", "sqlite://"], "did you mean move"),
    (["run", "-m", "scripted", "ask.txt", "--max-tokens", "0"], "--max-tokens is 0"),
    (["run", "-m", "scripted", "ask.txt", "--temperature", "-1"], "--temperature is -1"),
    (["run", "-m", "scripted", "ask.txt", "--stop", ""], "--stop is empty"),
    (["run", "-m", "scripted", "ask.txt", "--max-tokens", "many"], "--max-tokens"),
    (["run", "-m", "scripted", "ask.txt", "--max-tokns", "3"], "did you mean --max-tokens"),
    (["report", "--by", "modell"], "did you mean model"),
    (["report", "--bye", "model"], "did you mean --by"),
    (["report", "--waste", "--by", "model"], "--by cannot be used with --waste"),
    (["report", "--csv", "--json"], "--csv cannot be used with --json"),
    (["report", "--csv", "--reprice"], "--csv cannot be used with --reprice"),
    (["report", "--csv", "--project", "5/day"], "--csv cannot be used with --project"),
    (["report", "--waste", "--reprice"], "not allowed with argument --waste"),
    (["report", "--cell", "1"], "--cell needs --project"),
    (["report", "--project", "often"], "--project is 'often'; give a number of calls, such as 1e6/day"),
    (["report", "--project", "5/day"], "no complete run to project from"),
    (["report", "--since", "soon"], "give one such as 2026-11-24"),
    (["report", "--since", "0001-01-01"], "--since: '0001-01-01' is not a date; give one such as 2026-11-24"),
    (["report", "--month", "2026-13"], "--month: '2026-13' is not a month; give one such as 2026-11"),
    (["report", "--month", "9999-12"], "--month: '9999-12' is not a month; give one such as 2026-11"),
    (["export", "--month", "0001-01"], "--month: '0001-01' is not a month; give one such as 2026-11"),
    (["export", "--format", "jsonk"], "did you mean jsonl"),
    (["export", "-o", "none/x.csv"], "none/x.csv cannot be written"),
    (["export", "-o", "x.txt"], "use jsonl, csv, parquet"),
    (["count", "none.txt"], "none.txt cannot be read"),
    (["reprot"], "did you mean report"),
    ([], "VERB"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_usage_gets_one_line_and_exit_2(tokmagic: Command, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "ask.txt").write_text("Hi", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    assert says in one_line(tokmagic(*words), 2)


FAILING: list[tuple[list[str], dict[str, str], str]] = [
    (["run", "empty.txt", "-m", "scripted"], {}, "the prompt is empty"),
    (["run", "name.txt", "-m", "scripted"], {}, "'nobody' is undefined"),
    (["run", "syntax.txt", "-m", "scripted"], {}, "line 2 of the prompt"),
    (["run", "ask.txt", "-m", "scripted:bad.json"], {}, "bad.json is not a script: Expecting property name"),
    (["run", "ask.txt", "-m", "scripted:none.json"], {}, "none.json is not a script"),
    (["run", "ask.txt", "-m", "./none"], {}, "none does not exist"),
    (["run", "ask.txt", "-m", "scripted", "--input", "-1", "--output", "1"], {}, "--input is -1"),
    (["count", "ask.txt", "-m", "./ask.txt"], {}, "ask.txt is a file"),
    (["pull", "owner/unknown"], {}, "owner/unknown is not in a package"),
    (["report"], {"TOKMAGIC_LEDGER": "sqlite:///bad.json"}, "bad.json is damaged"),
    (["report"], {"TOKMAGIC_LEDGER": "mysql://x/y"}, "mysql"),
    (["report"], {"TOKMAGIC_LEDGER": "nonsense"}, "'nonsense' is not a database URL"),
]


@pytest.mark.parametrize(("words", "env", "says"), FAILING, ids=[says for _, _, says in FAILING])
def test_a_failure_gets_one_line_and_exit_1(
    tokmagic: Command, tmp_path: Path, words: list[str], env: dict[str, str], says: str
) -> None:
    files = {"ask.txt": "Hi", "empty.txt": " \n", "name.txt": "Hi {{ nobody }}", "syntax.txt": "a\n{% if %}"}
    files["bad.json"] = "{ this is no JSON, and no database either: " + "x" * 100
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert says in one_line(tokmagic(*words, **env), 1)


def test_a_bad_setting_is_named(tokmagic: Command, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("modle = 'x'", encoding="utf-8")
    done = tokmagic("report", TOKMAGIC_CONFIG=str(tmp_path / "config.toml"))
    assert "unknown setting modle (did you mean model?)" in one_line(done, 2)


@pytest.mark.parametrize("name", ["BUGDET_DAY", "BUDGET_MONTH", "DAILY_BUDGET", "BUDGETDAY"])
def test_a_variable_that_is_meant_to_set_a_budget_stops_a_run(tokmagic: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "ask.txt").write_text("Hi", encoding="utf-8")
    done = tokmagic("run", "ask.txt", "-m", "scripted", **{f"TOKMAGIC_{name}": "5"})
    assert f"TOKMAGIC_{name} is no setting, and limits nothing; unset it, and use TOKMAGIC_BUDGET_DAY" in one_line(
        done, 2
    )
    assert tokmagic("run", "ask.txt", "-m", "scripted", TOKMAGIC_API_KEY="k", TOKMAGIC_TEAM="t").returncode == 0


BAD_SETTINGS = [
    ("attempts", "two", "give a whole number of attempts, at least 1"),
    ("cache_bytes", "256 MiB", "give a whole number of bytes"),
    ("silence_timeout_s", "soon", "give seconds, above 0"),
    ("llamacpp_threads", "many", "give a whole number of threads"),
    ("notebook_metadata", "maybe", "use on or off"),
]


@pytest.mark.parametrize(("name", "value", "says"), BAD_SETTINGS, ids=[name for name, _, _ in BAD_SETTINGS])
def test_a_setting_that_is_none_stops_a_run_that_does_not_need_it(
    tokmagic: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """As a variable and in the file, and doctor tells it, too."""
    monkeypatch.setattr(health, "probe", lambda: ON_CPU)
    file = tmp_path / "config.toml"
    file.write_text(f'{name} = "{value}"', encoding="utf-8")
    (tmp_path / "ask.txt").write_text("Hi", encoding="utf-8")
    variable = f"TOKMAGIC_{name.upper()}"
    for called, env in ((variable, {variable: value}), (f"{name} in {file}", {"TOKMAGIC_CONFIG": str(file)})):
        told = f"{called} is '{value}'; {says}"
        assert told in one_line(tokmagic("run", "ask.txt", "-m", "scripted", **env), 2)
        looked = tokmagic("doctor", "--brief", **env)
        assert (looked.returncode, f"settings: {told}" in looked.stdout) == (1, True)
    assert json.loads(tokmagic("report", "--json").stdout)[-1]["runs"] == 0


def test_doctor_says_what_works(tokmagic: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # What torch says in a process of its own takes seconds: tests/health looks at it.
    monkeypatch.setattr(health, "probe", lambda: ON_CPU)
    done = tokmagic("doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["can_generate"]) == (0, True)
    findings = {finding["name"]: finding for finding in found["findings"]}
    assert {"torch", "transformers", "model", "ledger", "disk", "sidebar"} <= set(findings)
    assert (findings["model"]["ok"], findings["model"]["mend"]) == (False, "tokmagic pull")
    table = tokmagic("doctor")
    assert table.stdout.rstrip().endswith("generation works here")
    bad = tokmagic("doctor", TOKMAGIC_MODEL="/none")
    assert bad.returncode == 1
    assert "FAILS" in bad.stdout
    assert bad.stderr == ""
    broken = tokmagic("doctor", TOKMAGIC_LEDGER="nonsense")
    assert broken.returncode == 0, "generation works without a ledger"
    assert "runs are not recorded" in broken.stdout


@pytest.mark.model
def test_pull_twice_fetches_once(tokmagic: Command, model_home: Path) -> None:
    (weights,) = (model_home / "models").glob("*/model.safetensors")
    before, there = weights.stat(), set(weights.parent.parent.iterdir())
    first, second = tokmagic("pull", TOKMAGIC_HOME=str(model_home)), tokmagic("pull", TOKMAGIC_HOME=str(model_home))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith(f"HuggingFaceTB/SmolLM2-135M-Instruct is in {weights.parent}")
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # Another process that has just pulled it, such as another test's, may still have its scratch folder there.
    assert set(weights.parent.parent.iterdir()) <= there


@pytest.mark.model
def test_a_real_run_count_and_report(tokmagic: Command, tmp_path: Path, model_home: Path) -> None:
    (vocabulary,) = (model_home / "models").glob("*/tokenizer.json")
    text = "Grüße, 你好 👩\u200d👩\u200d👧 — def f(x): return x\n"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    counted = tokmagic("count", "text.txt", TOKMAGIC_HOME=str(model_home))
    assert counted.stdout == f"{len(Tokenizer.from_file(str(vocabulary)).encode(text).ids)}\n"
    words = ("run", "-", "--max-tokens", "5", "--temperature", "0", *PRICES, "--json")
    done = tokmagic(*words, text="Name a river.", TOKMAGIC_HOME=str(model_home))
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["status"], answer["output_tokens"]) == ("smollm2", "ok", 5)
    expected = (answer["input_tokens"] * Decimal("0.15") + 5 * Decimal("0.60")) / 1_000_000
    assert Decimal(answer["cost_usd"]) == expected
    (row,) = [json.loads(line) for line in tokmagic("export").stdout.splitlines()]
    assert {name: row[name] for name in ("run_id", "input_tokens", "cost_usd", "ttft_s")} == {
        name: answer[name] for name in ("run_id", "input_tokens", "cost_usd", "ttft_s")
    }


NOBODY = "~nobody-of-this-name/x"
LONG = "a" * 300


@pytest.mark.parametrize(
    ("words", "settings", "status"),
    [
        (("report",), {"TOKMAGIC_LEDGER": "", "TOKMAGIC_HOME": NOBODY}, 2),
        (("report",), {"TOKMAGIC_LEDGER": f"sqlite:///{NOBODY}"}, 1),
        (("run", "-"), {"TOKMAGIC_PRICES": NOBODY}, 1),
        (("run", "-", "--model", NOBODY), {}, 2),
        (("run", "-", "--model", f"scripted:{NOBODY}"), {}, 2),
        (("count", "-", "--model", NOBODY), {}, 2),
        (("run", "-", "--model", LONG), {}, 2),
        (("run", "-", "--model", f"/{LONG}"), {}, 1),
        (("run", "-", "--model", f"scripted:/{LONG}"), {}, 1),
        (("count", "-", "--model", f"~/{LONG}"), {}, 1),
        (("run", LONG), {}, 2),
        (("check", f"{LONG}.ipynb", "--max-cost", "1"), {}, 2),
        (("export", "-o", f"{LONG}.jsonl"), {}, 2),
        (("report",), {"TOKMAGIC_HOME": f"/{LONG}", "TOKMAGIC_LEDGER": ""}, 1),
    ],
)
def test_a_name_that_no_file_can_have_is_told_in_one_line(
    tokmagic: Command, words: tuple[str, ...], settings: dict[str, str], status: int
) -> None:
    line = one_line(tokmagic(*words, text="Hi", **{"TOKMAGIC_MODEL": "scripted", **settings}), status)
    assert "nobody-of-this-name" in line or LONG in line


def test_a_users_name_that_is_not_utf8_is_spelled_out(tokmagic: Command) -> None:
    name, spelled = "caf\udce9", r"caf\udce9"
    assert tokmagic("run", "-", "--model", "scripted", text="Hi", LOGNAME=name).returncode == 0
    for words in (("--user", name), ("--user", name, "--waste"), ("--by", "user", "--user", spelled)):
        assert tokmagic("report", *words).returncode == 0
    assert tokmagic("report", "--by", "user", "--user", name).stdout.splitlines()[1].split()[:2] == [spelled, "1"]
    assert tokmagic("report", "--model", name, "--json").returncode == 0
