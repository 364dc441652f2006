"""The command, run as a person runs it: verbs, exit codes, and one line for each error."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tokmagic import __version__
from tokmagic.cli import main
from tokmagic.ledgers import Ledger
from tokmagic.runs import api

Command = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-m", "tokmagic.cli"]
PRICES = ("--input", "0.15", "--output", "0.60")


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": f"sqlite:///{folder}/ledger.sqlite", **more}


@pytest.fixture
def tokmagic(tmp_path: Path) -> Command:
    """Run the command in a folder of its own: ``tokmagic("run", "-", text="Hi")``."""

    def run(*words: str, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        given = environment(tmp_path, **env)
        return subprocess.run(
            [*COMMAND, *words], input=text, capture_output=True, text=True, env=given, cwd=tmp_path, check=False
        )

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The same within this process, which is quicker: for commands that end before they do anything."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        for name, value in environment(tmp_path, **env).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(api, "_session", None)
        try:
            status = main(words)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, shown.out, shown.err)

    return run


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
    assert shown.returncode == 0
    for verb in ("doctor", "pull", "run", "count", "report", "export", "check", "ledger"):
        assert f"\n    {verb} " in shown.stdout
        assert tokmagic(verb, "--help").returncode == 0


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("tokmagic")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == f"tokmagic {__version__}\n"


def test_run_prints_the_answer_and_its_numbers_apart(tokmagic: Command, tmp_path: Path) -> None:
    done = tokmagic("run", "-m", "scripted", "--max-tokens", "3", *PRICES, text="Hi")
    assert (done.returncode, done.stdout) == (0, "This answer is \n")
    assert done.stderr == "12 → 3 tokens · $0.0000036 · TTFT 0.20 s · 20.0 ms/token · scripted\n"
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    (record,) = ledger.runs()
    kept = ledger.texts(record.run_id)
    ledger.close()
    assert (record.status, record.reading.cost.usd) == ("ok", Decimal("0.0000036"))
    assert kept is not None
    assert [message.content for message in kept[0]] == ["Hi"]


def test_run_fills_in_a_template_and_prints_json(tokmagic: Command, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("--- system\nBe {{ mood }}.\n--- user\nHi {{ who }}\n", encoding="utf-8")
    words = ("run", "ask.txt", "-m", "scripted", "--set", "mood=kind", "--set", "who=Ada = π", "--json", "--tag", "t")
    done = tokmagic(*words)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["finish_reason"], answer["output_tokens"]) == ("ok", "stop", 19)
    assert (answer["cost_usd"], answer["model"]) == (None, "scripted")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    (record,) = ledger.runs()
    kept = ledger.texts(record.run_id)
    ledger.close()
    assert kept is not None
    assert [(m.role, m.content) for m in kept[0]] == [("system", "Be kind."), ("user", "Hi Ada = π")]
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
    assert "total  0" in recorded("report", "--since", "2999-01-01").stdout.replace("     ", "  ").replace("   ", "  ")


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
    assert recorded("export", "--notebook", "other.ipynb").stdout == ""


def test_a_reader_that_goes_away_is_no_error(recorded: Command, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "export"], stdout=write, stderr=subprocess.PIPE, text=True, env=environment(tmp_path), check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("words", [["export"], ["report"], ["run", "-m", "scripted"]])
def test_an_output_that_cannot_be_written_is_one_line(recorded: Command, tmp_path: Path, words: list[str]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*COMMAND, *words], input="Hi", stdout=full, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tokmagic: ")
    assert done.stderr.splitlines()[-1].endswith("No space left on device")
    assert "Traceback" not in done.stderr


def test_an_interrupt_settles_the_row_and_exits_130(tmp_path: Path) -> None:
    script = {"pieces": ["first ", *["word "] * 50], "ttft_s": 0.01, "itl_s": 60, "pace": 1}
    (tmp_path / "slow.json").write_text(json.dumps(script), encoding="utf-8")
    process = subprocess.Popen(
        [*COMMAND, "run", "-m", "scripted:slow.json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("Hi")
    process.stdin.close()
    assert process.stdout.read(6) == "first "
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert "interrupted after 1 token;" in process.stderr.read()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    (record,) = ledger.runs()
    ledger.close()
    assert (record.status, record.reading.usage.output_tokens) == ("interrupted", 1)


WRONG: list[tuple[list[str], str]] = [
    (["run", "none.txt"], "none.txt cannot be read: No such file or directory"),
    (["run", "."], ". cannot be read: Is a directory"),
    (["run", "latin.txt"], "latin.txt is not UTF-8 text; convert it first"),
    (["run", "-m", "smolm2", "ask.txt"], "did you mean smollm2"),
    (["run", "-m", "scripted", "ask.txt", "--set", "1x=2"], "give NAME=VALUE"),
    (["run", "-m", "scripted", "ask.txt", "--input", "1"], "give --input and --output"),
    (["run", "-m", "scripted", "ask.txt", "--max-tokens", "0"], "--max-tokens is 0"),
    (["run", "-m", "scripted", "ask.txt", "--temperature", "-1"], "--temperature is -1"),
    (["run", "-m", "scripted", "ask.txt", "--stop", ""], "--stop is empty"),
    (["run", "-m", "scripted", "ask.txt", "--max-tokens", "many"], "--max-tokens"),
    (["run", "-m", "scripted", "ask.txt", "--max-tokns", "3"], "did you mean --max-tokens"),
    (["report", "--by", "modell"], "did you mean model"),
    (["report", "--bye", "model"], "did you mean --by"),
    (["report", "--waste", "--by", "model"], "--by cannot be used with --waste"),
    (["report", "--waste", "--reprice"], "not allowed with argument --waste"),
    (["report", "--cell", "1"], "--cell needs --project"),
    (["report", "--project", "often"], "--project is 'often'; give a number of calls, such as 1e6/day"),
    (["report", "--project", "5/day"], "no complete run to project from"),
    (["report", "--since", "soon"], "give one such as 2026-11-24"),
    (["report", "--since", "0001-01-01"], "--since '0001-01-01' is not a date; give one such as 2026-11-24"),
    (["report", "--month", "2026-13"], "--month '2026-13' is not a month; give one such as 2026-11"),
    (["report", "--month", "9999-12"], "--month '9999-12' is not a month; give one such as 2026-11"),
    (["export", "--month", "0001-01"], "--month '0001-01' is not a month; give one such as 2026-11"),
    (["export", "--format", "jsonk"], "did you mean jsonl"),
    (["export", "-o", "none/x.csv"], "none/x.csv cannot be written"),
    (["export", "-o", "x.txt"], "use jsonl, csv, parquet"),
    (["count", "none.txt"], "none.txt cannot be read"),
    (["reprot"], "did you mean report"),
    ([], "VERB"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_usage_gets_one_line_and_exit_2(here: Command, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "ask.txt").write_text("Hi", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    assert says in one_line(here(*words), 2)


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
    here: Command, tmp_path: Path, words: list[str], env: dict[str, str], says: str
) -> None:
    files = {"ask.txt": "Hi", "empty.txt": " \n", "name.txt": "Hi {{ nobody }}", "syntax.txt": "a\n{% if %}"}
    files["bad.json"] = "{ this is no JSON, and no database either: " + "x" * 100
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert says in one_line(here(*words, **env), 1)


def test_a_bad_setting_is_named(tokmagic: Command, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("modle = 'x'", encoding="utf-8")
    done = tokmagic("report", TOKMAGIC_CONFIG=str(tmp_path / "config.toml"))
    assert "unknown setting modle (did you mean model?)" in one_line(done, 2)


def test_doctor_says_what_works(tokmagic: Command) -> None:
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
    before = weights.stat()
    first, second = tokmagic("pull", TOKMAGIC_HOME=str(model_home)), tokmagic("pull", TOKMAGIC_HOME=str(model_home))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith(f"HuggingFaceTB/SmolLM2-135M-Instruct is in {weights.parent}")
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(path.suffix for path in weights.parent.parent.iterdir()) == ["", ".lock"]


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
