"""Run aiperf, a client that measures servers, in the environment that ``make peers`` installs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.peers.servers import PeerError, interpreter

_ENOUGH_S = 300


def profile(
    folder: Path,
    base_url: str,
    model: str,
    tokenizer: Path,
    *,
    requests: int,
    words: int,
    output_tokens: int,
    seed: int,
    ignore_eos: bool = False,
    key: str | None = None,
) -> dict[str, Any]:
    """What aiperf exports of so many requests, one at a time, after one to warm up.

    ``folder`` must not exist; ``words`` are the tokens of each prompt without its chat template. Raises
    NotInstalledError, PeerError.
    """
    command = interpreter("aiperf").with_name("aiperf")
    forced = ("--extra-inputs", "ignore_eos:true") if ignore_eos else ()
    lengths = ("--isl", str(words), "--osl", str(output_tokens), *forced)
    counts = ("--concurrency", "1", "--request-count", str(requests), "--warmup-request-count", "1")
    # By itself it would count the text's tokens, which is wrong for short ones; and it looks for GPUs and metrics.
    # Each of its processes takes what the server needs, where there are few cores.
    small = ("--workers-max", "1", "--record-processors", "1", "--export-level", "summary")
    quiet = ("--use-server-token-count", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics")
    asked_with = () if key is None else ("--api-key", key)
    where = ("--model", model, "--url", base_url.removesuffix("/v1"), "--tokenizer", str(tokenizer))
    folder.mkdir(parents=True)
    done = subprocess.run(
        [
            *(
                command,
                "profile",
                "--endpoint-type",
                "chat",
                "--streaming",
                *where,
                *lengths,
                *counts,
                *quiet,
                *small,
                *asked_with,
            ),
            *("--random-seed", str(seed), "--artifact-dir", str(folder / "out")),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=_ENOUGH_S,
        check=False,
    )
    exported = folder / "out" / "profile_export_aiperf.json"
    if done.returncode or not exported.exists():
        raise PeerError(f"aiperf ended with status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(exported.read_text(encoding="utf-8"))
    return found


READ = """
import json, sys
from aiperf.common.models.export_models import JsonExportData
for level in json.load(sys.stdin)["levels"]:
    read = JsonExportData.model_validate(level)
    print(json.dumps([read.time_to_first_token.p50, read.inter_token_latency.avg, read.inter_chunk_latency.count]))
"""


def read(export: dict[str, Any]) -> list[list[float]]:
    """What aiperf itself reads in each level of our export: median TTFT and mean ITL in ms, and how many gaps."""
    done = subprocess.run(
        [interpreter("aiperf"), "-c", READ], input=json.dumps(export), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PeerError(done.stderr[-3000:])
    return [json.loads(line) for line in done.stdout.splitlines()]
