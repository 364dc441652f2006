"""``tokmagic bench`` and aiperf measure the same server alike, and aiperf reads what is written of it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.bench.rig import paced
from tests.engines.endpoints import Make
from tests.servers import serve
from tokmagic.bench.files import as_dict
from tokmagic.bench.plan import Plan
from tokmagic.bench.running import Bench, bench
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session

pytestmark = [pytest.mark.outside, pytest.mark.slow, pytest.mark.model]

ROUNDS, REQUESTS, WORDS, OUTPUT = 3, 8, 32, 16
TTFT_S, ITL_S = 0.2, 0.02


@pytest.fixture
def session(make_session: Make) -> Session:
    return make_session()


def measured(session: Session, url: str, tokenizer: Path, seed: int) -> Bench:
    session.models.add("m", ModelSpec("m", api_base=url, tokenizer=str(tokenizer)))
    asked = Plan(seed=seed, levels=(1,), prompt_tokens=64, output_tokens=OUTPUT, requests=REQUESTS, ignore_eos=True)
    return bench(session, "m", asked)


def test_both_see_the_same_times(session: Session, aiperf: Any, smollm_folder: Path, tmp_path: Path) -> None:
    """Of a server that keeps a pace, in turn, so that what else the machine does meets both."""
    names = ("time_to_first_token", "inter_token_latency", "inter_chunk_latency")
    ours: dict[str, list[float]] = {name: [] for name in names}
    theirs: dict[str, list[float]] = {name: [] for name in names}
    with serve(paced(TTFT_S, ITL_S)) as server:
        for number in range(ROUNDS):
            folder, options = (
                tmp_path / str(number),
                {"requests": REQUESTS, "words": WORDS, "output_tokens": OUTPUT, "ignore_eos": True},
            )
            other = aiperf.profile(folder, server.url, "m", smollm_folder, seed=number, **options)
            level = as_dict(measured(session, server.url, smollm_folder, number))["levels"][0]
            assert level["inter_chunk_latency"]["count"] == other["inter_chunk_latency"]["count"]
            assert level["total_osl"]["avg"] == other["total_osl"]["avg"] == REQUESTS * OUTPUT
            for name in names:
                ours[name].append(level[name]["p50"])
                theirs[name].append(other[name]["p50"])
    for name in names:
        assert statistics.median(ours[name]) == pytest.approx(statistics.median(theirs[name]), rel=0.05), name
    assert statistics.median(ours["time_to_first_token"]) >= 1e3 * TTFT_S


def test_aiperf_reads_each_level(session: Session, aiperf: Any, smollm_folder: Path) -> None:
    with serve(paced(0.01, 0.002)) as server:
        found = measured(session, server.url, smollm_folder, 1)
    (level,) = as_dict(found)["levels"]
    ((ttft_ms, itl_ms, gaps),) = aiperf.read(as_dict(found))
    assert ttft_ms == level["time_to_first_token"]["p50"]
    assert itl_ms == level["inter_token_latency"]["avg"]
    assert gaps == REQUESTS * (OUTPUT - 1)
