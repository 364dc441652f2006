"""``tokmagic bench`` as a person runs it: tables, files, a picture, and one line for whatever is wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.rig import HOURLY, Limited, Paced, chunked, paced, plan, with_model, words
from tests.commands import Command, command_in, environment
from tests.engines.endpoints import Make
from tests.servers import serve
from tokmagic.bench import charts, showing
from tokmagic.bench.files import as_dict
from tokmagic.bench.running import bench
from tokmagic.errors import ModelError
from tokmagic.reports import plots

FEW = ("--requests", "2", "--warmup", "0", "--output-tokens", "4", "--prompt-tokens", "12")
PRICES = ("--input", "1", "--output", "2")


@pytest.fixture
def tokmagic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_in(tmp_path, capsys)


def table(text: str, *columns: str) -> list[list[str]]:
    """The rows of the table whose first columns are called so, by words."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if re.split("  +", line)[: len(columns)] == list(columns))
    rows = []
    for line in lines[at + 1 :]:
        if not line[:1].isdigit():
            break
        rows.append(line.split())
    return rows


def test_a_model_is_measured(tokmagic: Command) -> None:
    done = tokmagic("bench", "scripted", "--concurrency", "1,2", *FEW, *PRICES)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "4 requests to scripted will cost about $0.000432 at most\n"
    first, second = table(done.stdout, "at once", "requests")
    assert first[:10] == ["1", "2", "12", "4", "200.0", "200.0", "20.0", "20.0", "20.0", "20.0"]
    assert second[:2] == ["2", "2"]
    assert table(done.stdout, "at once", "cost") == [[level, "$0.00004", "$5.00", "$1.25"] for level in "12"]
    assert "prompts are of about the wanted length" in done.stdout


def test_figures_and_picture_are_written(tokmagic: Command, tmp_path: Path) -> None:
    words = ("bench", "-m", "scripted", "--concurrency", "1,2", *FEW, *PRICES)
    done = tokmagic(*words, "--json", "out.json", "--plot", "out.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [level["concurrency"] for level in found["levels"]] == [1, 2]
    printed = tokmagic(*words, "--json", "-")
    assert json.loads(printed.stdout)["plan"]["output_tokens"] == 4


def test_a_server_is_measured_by_its_url(tokmagic: Command) -> None:
    with serve(paced(0.02, 0.005)) as server:
        asked = ("bench", "--url", server.url, "-m", "org/m", "--concurrency", "2", *FEW, "--ignore-eos")
        done = tokmagic(*asked, "--gpu-hour", "2", "--json", "-")
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == 2
        assert {it.body["ignore_eos"] for it in server.asked} == {True}
        assert {it.body["max_tokens"] for it in server.asked} == {4}
    found = json.loads(done.stdout)
    (level,) = found["levels"]
    assert (found["model"]["server"], found["model"]["id"]) == (server.url, "org/m")
    assert (level["total_osl"]["avg"], level["total_isl"]["avg"]) == (8, 24)
    assert level["gaps_are_between"] == "chunks"
    assert (level["cost_usd"], level["usd_per_million_output"] is None) == (None, False)
    assert list(level["at_utilisation"]) == ["0.2", "0.5", "1"]


def test_a_server_that_sends_several_tokens_a_chunk_is_said_to(tokmagic: Command) -> None:
    with serve(paced(0.0, 0.0, tokens_a_chunk=3)) as server:
        done = tokmagic("bench", "--api-base", server.url, "-m", "m", "--concurrency", "1", *FEW)
    assert "ITL is between network chunks: 4 chunks brought 8 tokens; TPOT is by the server's count" in done.stdout
    assert "no price is known; give --input and --output, or --gpu-hour" in done.stdout


WRONG = [
    (("--concurrency", "0"), 2, "--concurrency is 0; it must be at least 1 and at most 1,024"),
    (("--concurrency", "-3"), 2, "--concurrency is -3"),
    (("--concurrency", "1,x"), 2, "--concurrency"),
    (("--concurrency", ","), 2, "--concurrency has 0 levels"),
    (("--prompt-tokens", "1e6"), 2, "--prompt-tokens is 1,000,000; it must be at least 1 and at most 500,000"),
    (("--output-tokens", "0"), 2, "--output-tokens is 0"),
    (("--requests", "-1"), 2, "--requests is -1"),
    (("--max-cost", "-1"), 1, "--max-cost is -1"),
    (("--max-cost", "1"), 1, "the price of scripted is unknown, so --max-cost cannot be kept"),
    (("--max-cost", "0.000001", *PRICES), 1, "more than --max-cost of $0.000001"),
    (("--input", "1"), 2, "a bill needs both token rates"),
    (("--plot", "out.jpeg"), 2, "out.jpeg is neither .svg nor .png"),
    (("--json", "nowhere/out.json"), 2, "which is no folder; name a file that can be written"),
    (("--json", "."), 2, ". is a folder"),
    (("-m", "scripted"), 2, "the model is named twice"),
    (("--server", "vllm"), 2, "--server and --tokenizer are for a model at an endpoint"),
]


@pytest.mark.parametrize(
    ("words", "status", "says"), WRONG, ids=lambda it: " ".join(it) if isinstance(it, tuple) else None
)
def test_what_is_wrong_is_one_line_and_costs_nothing(
    tokmagic: Command, words: tuple[str, ...], status: int, says: str
) -> None:
    done = tokmagic("bench", "scripted", "--requests", "1", *words)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("tokmagic: ")
    assert says in line
    assert len(done.stderr.splitlines()) <= 2, "before it at most what it would have cost"


def test_a_url_in_a_models_place_is_told_where_it_belongs(tokmagic: Command) -> None:
    done = tokmagic("bench", "http://localhost:8000/v1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "give it with --url, and its model's name with -m" in done.stderr


def test_an_unknown_model_is_one_line(tokmagic: Command) -> None:
    done = tokmagic("bench", "smollm3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "model 'smollm3' is unknown (did you mean smollm2?)" in done.stderr


def test_a_server_that_does_not_answer_is_one_line(tokmagic: Command) -> None:
    with serve(paced(0.0, 0.0)) as server:
        gone = server.url
    done = tokmagic("bench", "--api-base", gone, "-m", "m", *FEW)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        f"tokmagic: {gone} cannot be reached: nothing listens there; start the server, or check --api-base"
    )


def test_a_server_that_refuses_an_option_is_one_line(tokmagic: Command) -> None:
    asked = ("bench", "--api-base", "http://127.0.0.1:9/v1", "-m", "m", "--server", "openai", "--ignore-eos", *FEW)
    done = tokmagic(*asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "tokmagic: this server ignores --ignore-eos; leave it out"


def test_an_interrupt_prints_and_writes_what_was_measured(tmp_path: Path) -> None:
    """In a process of its own, interrupted as a person does it."""
    asked: list[float] = []
    quick, stuck = paced(0.0, 0.0), paced(0.0, 600.0)

    def script(request: Any, wire: Any) -> None:
        asked.append(time.monotonic())
        (quick if len(asked) <= 2 else stuck)(request, wire)

    with serve(script) as server:
        words = ("bench", "--api-base", server.url, "-m", "m", "--concurrency", "1,2", *FEW, "--json", "out.json")
        process = subprocess.Popen(
            [sys.executable, "-m", "tokmagic.cli", *words],
            cwd=tmp_path,
            env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), **environment(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        arrived = threading.Event()
        deadline = time.monotonic() + 60
        while len(asked) < 4 and time.monotonic() < deadline:
            arrived.wait(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "tokmagic: the bench was interrupted: 2 of 4 requests were measured"
    assert [row[:2] for row in table(stdout, "at once", "requests")] == [["1", "2"]]
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (found["interrupted"], [level["concurrency"] for level in found["levels"]]) == (True, [1])


# The figures as JSON, as tables and as a chart


@pytest.fixture
def found(make_session: Make) -> Any:
    session = make_session()

    def answer(number: int) -> Any:
        return words(5, itl_s=0.02, ttft_s=0.1 + 0.1 * (number % 2), inputs=100)

    with_model(session, Limited("m", answer), HOURLY)
    energy = iter(range(0, 1000, 25))
    asked = plan(levels=(1, 2), prompt_tokens=100, output_tokens=5, requests=4)
    return bench(session, "m", asked, energy=lambda: float(next(energy)))


def test_each_level_has_aiperfs_names(found: Any) -> None:
    level = as_dict(found)["levels"][0]
    ttft = level["time_to_first_token"]
    assert (ttft["unit"], ttft["count"], ttft["min"], ttft["max"]) == ("ms", 4, pytest.approx(100), pytest.approx(200))
    assert (ttft["avg"], ttft["p50"], ttft["std"]) == (pytest.approx(150), pytest.approx(150), pytest.approx(50))
    assert level["inter_token_latency"]["count"] == 4, "the mean of each request"
    assert level["inter_chunk_latency"]["count"] == 16, "each gap"
    assert (level["request_count"]["avg"], level["total_osl"]["avg"]) == (4, 20)
    assert (level["is_complete"], level["was_cancelled"], level["error_summary"]) == (True, False, [])
    assert level["energy_j"] == 25.0
    assert level["of_roof"]["decode"]["share"] == pytest.approx(0.0101025 / 0.02)
    assert "input_config" not in level, "that is about servers"
    whole = as_dict(found)
    assert whole["roof"]["read_bytes_per_s"] == 1e9
    assert whole["work"]["weight_bytes"] == 10_000_000
    json.dumps(whole, allow_nan=False)


def test_the_error_rate_is_of_the_requests_that_ended(found: Any) -> None:
    """As aiperf's, "percentage of completed requests that ended in error": what was stopped on the way is none."""
    first, *others = found.levels[0].requests
    failed = replace(first, outcome="failed", error=ModelError("no"))
    stopped = replace(first, outcome="stopped")
    found.levels[0] = replace(found.levels[0], requests=(*others, failed, stopped, stopped), wanted=8)
    assert as_dict(found)["levels"][0]["request_error_rate"] == {"unit": "%", "avg": 25.0}


def test_each_time_is_shown_beside_its_roof(found: Any) -> None:
    text = showing.text(found)
    rows = [re.split("  +", line) for line in text.splitlines()]
    assert ["decode", "1", "20.0 ms a token", "10.1", "51%"] in rows
    assert ["prefill", "2", "150.0 ms a prompt", "100.0", "67%"] in rows
    assert ["bfloat16", "—", "0.2"] in rows
    assert "cpu, 2 threads: reads 1.0 GB/s of memory; matrix products in GFLOP/s" in text
    assert "(float32, 64 rows)" in text
    assert "1M out, 20%" in text
    assert "25 J" in text
    assert "$3.60 an hour" in text


def test_the_chart_has_both_panels_and_the_roof(found: Any) -> None:
    drawn = charts.plot(found)
    latency, throughput = drawn.spec["hconcat"]
    shown = json.dumps(latency)
    assert all(f'"time": "{name}"' in shown for name in ("TTFT", "ITL", "TPOT", "least ITL", "least TTFT"))
    assert json.dumps(throughput).count('"throughput": ') == 2
    assert drawn.png.startswith(b"\x89PNG")


def test_a_chart_of_a_server_has_no_roof(make_session: Make, tmp_path: Path) -> None:
    session = make_session()
    with_model(session, Paced("m", lambda _number: chunked(1, 1, 1, 1)))
    drawn = charts.plot(bench(session, "m", plan()))
    plots.save(drawn, tmp_path / "chart.svg")
    assert "least" not in (tmp_path / "chart.svg").read_text(encoding="utf-8")
