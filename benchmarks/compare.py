"""What a comparison costs over the engine's own batch.

``python -m benchmarks.compare [ROUNDS [ITEMS [TOKENS]]]``: the model must have been pulled. Both sides run the same
prompts in the same order, as many at once, on the same loaded model, in turn in one process.

- ``tokens_per_s``: output tokens a second of ``tokmagic.compare``, with its ledger, budget and scores ÷ those of the
  engine's streams alone, read on as many threads, before and after it; 1 is no overhead.
- ``draw_s``: seconds that the result's statistics and tables take.
- ``one_run_ms``: what a run of a comparison takes where the engine takes no time, by a scripted one; and of
  ``generate_many``, which has the same ledger.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import pairwise
from typing import Any

from benchmarks import report, spread
from tokmagic.comparisons.api import compare_in
from tokmagic.comparisons.inputs import read
from tokmagic.comparisons.plan import make
from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Finished
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.many import run_all
from tokmagic.runs.session import Session

AT_ONCE = 16
VARIANTS = {
    "plain": "Write a very long story about {{ what }}.",
    "guided": "You are a patient story teller. Write a very long story about {{ what }} and never stop early.",
}
NOUNS = ("a lamp", "a river", "an old map", "a violin", "the moon", "a train", "a garden", "a letter")
PLACES = ("by the sea", "in winter", "at night", "in a city", "on a hill", "in the rain", "far away", "at home")
RATES = Rates(input=Decimal("0.15"), output=Decimal("0.6"), source="%price")


def rows(count: int) -> list[dict[str, str]]:
    return [{"what": f"{NOUNS[it % 8]} {PLACES[it // 8 % 8]}, number {it}"} for it in range(count)]


def compared(session: Session, model: str, count: int, tokens: int, seed: int) -> Any:
    return compare_in(
        session,
        VARIANTS,
        rows(count),
        model=model,
        score=lambda answer: len(answer) > 10,
        budget="10",
        seed=seed,
        concurrency=AT_ONCE,
        max_tokens=tokens,
        temperature=0.0,
    )


def of_compare(session: Session, count: int, tokens: int, seed: int) -> float:
    """Output tokens a second of a comparison."""
    began = time.perf_counter()
    found = compared(session, "smollm2", count, tokens, seed)
    taken_s = time.perf_counter() - began
    assert found.complete, found.notes()
    return float(sum(it.output_tokens or 0 for it in found.answers)) / taken_s


def of_engine(session: Session, count: int, tokens: int, seed: int) -> float:
    """The same of the engine alone, on the prompts that a comparison would run, in its order."""
    engine = session.models.engine("smollm2")
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    plan = make(VARIANTS, read(rows(count)), ["smollm2"], repeat=1, seed=seed, sampling=sampling, baseline=None)
    prompts = [plan.prompt(arm, block.item) for block in plan.blocks() for arm in block.arms]

    def run(prompt: Prompt) -> int:
        return sum(it.usage.output_tokens or 0 for it in engine.stream(prompt) if isinstance(it, Finished))

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        total = sum(pool.map(run, prompts))
    return total / (time.perf_counter() - began)


def draw_s(session: Session, count: int, tokens: int) -> float:
    """Seconds to draw the result of a comparison that is finished."""
    found = compared(session, "smollm2", count, tokens, 1)
    began = time.perf_counter()
    repr(found)
    return time.perf_counter() - began


def one_run_ms(session: Session, count: int) -> dict[str, float]:
    """Milliseconds a run where the engine takes none."""
    session.models.add("s", ModelSpec("scripted"))
    session.prices.set("s", RATES)
    began = time.perf_counter()
    found = compared(session, "s", count, 64, 0)
    compare_s = time.perf_counter() - began
    prompts = [Prompt((Message("user", f"Question {it}"),), Sampling(max_tokens=64)) for it in range(2 * count)]
    began = time.perf_counter()
    run_all(session, prompts, session_work(session), "s", AT_ONCE, cache=False)
    many_s = time.perf_counter() - began
    runs = found.plan.runs
    return {"compare": 1000 * compare_s / runs, "generate_many": 1000 * many_s / runs}


def session_work(session: Session) -> Any:
    return lambda prompt, *, others: session.generate(prompt, "s", budget="10", cache=False, others=others)


def main() -> None:
    rounds, items, tokens = ([int(word) for word in sys.argv[1:]] + [3, 32, 48][len(sys.argv) - 1 :])[:3]
    with tempfile.TemporaryDirectory() as folder:
        session = Session(TokMagic(ledger=f"sqlite:///{folder}/ledger.sqlite"))
        session.prices.set("smollm2", RATES)
        session.load("smollm2")
        repr(compared(session, "smollm2", 4, 4, 0))  # imports
        ours: list[float] = []
        theirs = [of_engine(session, items, tokens, 1)]
        for seed in range(1, rounds + 1):
            ours.append(of_compare(session, items, tokens, seed))
            theirs.append(of_engine(session, items, tokens, seed))
        # Beside those before and after it: a machine that is shared is faster in one minute than in the next.
        ratios = [one / statistics.fmean(beside) for one, beside in zip(ours, pairwise(theirs), strict=True)]
        report(
            "compare",
            {
                "rounds": rounds,
                "runs": 2 * items,
                "tokens": tokens,
                "at_once": AT_ONCE,
                "tokens_per_s": spread(ratios),
                "tokens_per_s_of": {"compare": statistics.median(ours), "engine": statistics.median(theirs)},
                "draw_s": draw_s(session, items, tokens),
                "one_run_ms": one_run_ms(session, 200),
            },
        )
        session.close()


if __name__ == "__main__":
    main()
