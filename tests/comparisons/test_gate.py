"""What a notebook keeps of a comparison, and ``tokmagic check --compare`` on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from tests.commands import Command, command_in
from tests.comparisons.desk import VARIANTS, Desk, items, right
from tokmagic.comparisons import saved
from tokmagic.comparisons.figures import figures
from tokmagic.comparisons.gate import gate, problems
from tokmagic.comparisons.results import Comparison
from tokmagic.comparisons.showing import exact_rows, json_rows
from tokmagic.core.record import COMPARISON_IN_OUTPUTS, source_sha256
from tokmagic.errors import ModelError

Make = Callable[..., Desk]
SOURCE = "%%compare --over questions\n--- variant terse\nterse {{ q }}\n--- variant reasoned\nreasoned {{ q }}"


def worse(text: str, number: int) -> str:
    """The reasoned variant is wrong on most items, and longer."""
    if "reasoned" in text:
        return "no idea, really" if int(text.rpartition("q")[2]) % 5 else f"well, {right(text, number)}"
    return right(text, number)


@pytest.fixture
def make(make_desk: Make) -> Callable[..., Comparison]:
    def made(answers: Any = worse, *, source: str | None = SOURCE, **options: Any) -> Comparison:
        desk = make_desk(small=answers)
        desk.session.cell_id = lambda: "c1"
        desk.session.source = lambda: source
        return desk.compare(**{"score": "contains(a)", "over": items(20), **options})

    return made


@pytest.fixture
def formatter() -> Iterator[Any]:
    shell = InteractiveShell()
    yield shell.display_formatter
    shell.history_manager.end_session()


def cell(found: Comparison | None = None, *, id: str = "c1", source: str = SOURCE, formatter: Any = None) -> Any:
    """A cell as a notebook's file has it, with what IPython would put into its output."""
    outputs = []
    if found is not None:
        data, metadata = formatter.format(found)
        outputs = [{"output_type": "execute_result", "execution_count": 1, "data": data, "metadata": metadata}]
    return {"cell_type": "code", "id": id, "source": source, "metadata": {}, "execution_count": 1, "outputs": outputs}


def write(folder: Path, *cells: Any) -> None:
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)}
    (folder / "nb.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_in(tmp_path, capsys)


def test_an_output_keeps_the_figures_and_no_answers(make: Callable[..., Comparison], formatter: Any) -> None:
    found = make()
    data, metadata = formatter.format(found)
    assert data["text/html"] == found.to_html()
    assert data["text/plain"] == repr(found)
    kept = metadata[COMPARISON_IN_OUTPUTS]
    row = kept.pop("row")
    assert (row["cell_id"], row["status"], row["comparison"]["done"]) == ("c1", "ok", 40)
    assert kept == json.loads(json.dumps(found.to_json()))
    assert kept["figures"] == found.rows()
    assert (kept["cell_id"], kept["source_sha256"]) == ("c1", source_sha256(SOURCE))
    assert "no idea" not in json.dumps(kept)
    it = saved.read(kept)
    assert (it.baseline, it.complete, it.passes) == ("terse", True, True)
    (score,) = (row for row in it.differences if row.metric == "score")
    assert score.difference == pytest.approx(-0.8)
    assert saved.read(json.dumps(kept)) == it


def test_where_outputs_keep_no_numbers_they_keep_none(make_desk: Make, formatter: Any) -> None:
    found = make_desk(settings={"notebook_metadata": False}).compare(over=items(2))
    assert formatter.format(found)[1] == {}


def test_a_worse_variant_fails(make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path) -> None:
    write(tmp_path, cell(make(), formatter=formatter))
    done = check("check", "nb.ipynb", "--compare")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "nb.ipynb: cell 1 (c1): reasoned is worse than terse in score: −80.0 points (p < 0.0001, level 0.05)\n"
    )
    assert check("check", "nb.ipynb", "--compare", "--level", "0.00001").returncode == 0
    dearer = check("check", "nb.ipynb", "--compare", "--metric", "cost", "--metric", "tokens").stdout
    assert "in cost: +$0.00000" in dearer
    assert "in tokens: +1.8 tokens" in dearer
    (told,) = json.loads(check("check", "nb.ipynb", "--compare", "--json").stdout)
    assert (told["ok"], len(told["problems"])) == (False, 1)


def test_one_that_is_not_seen_to_be_worse_passes(
    make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path
) -> None:
    write(tmp_path, cell(make(right), formatter=formatter))
    done = check("check", "nb.ipynb", "--compare", "--metric", "score", "--metric", "cost")
    assert (done.returncode, done.stdout) == (0, "nb.ipynb: no variant is worse in score, cost\n")
    better = make(worse, variants={"reasoned": VARIANTS["reasoned"], "terse": VARIANTS["terse"]})
    write(tmp_path, cell(better, formatter=formatter))
    assert check("check", "nb.ipynb", "--compare").returncode == 0


@pytest.mark.slow
def test_what_cannot_be_told_fails(
    make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path
) -> None:
    def failing(text: str, number: int) -> str:
        if "q3" in text:
            raise ModelError("gone")
        return right(text, number)

    def unsure(answer: str) -> bool:
        if answer.startswith("well"):
            raise ValueError("unsure")
        return True

    whole = make(right)
    cases = (
        ([], "there is nothing to check: no cell holds a comparison"),
        ([cell()], "cell 1 (c1) has no comparison in its output; run it without --quiet, with metadata on"),
        (
            [cell(make(failing, seed=1), formatter=formatter)],
            "cell 1 (c1): runs are missing, so the comparison is incomplete",
        ),
        (
            [cell(make(right, over=items(1), score=len), formatter=formatter)],
            "cell 1 (c1): reasoned has too few items to tell",
        ),
        ([cell(make(right, score=None), formatter=formatter)], "cell 1 (c1): the comparison has no score"),
        (
            [cell(make(worse, score=unsure, seed=7), formatter=formatter)],
            "cell 1 (c1): 4 answers of reasoned have no score, so whether it is worse cannot be told",
        ),
        (
            [cell(make(right, score="human('Is it right?')", seed=3), formatter=formatter)],
            "cell 1 (c1): 20 answers of terse have no score",
        ),
        ([cell(whole, source=SOURCE + "!", formatter=formatter)], "cell 1 (c1) was changed after it ran; run it again"),
    )
    for cells, says in cases:
        write(tmp_path, *cells)
        done = check("check", "nb.ipynb", "--compare")
        assert done.returncode == 1
        assert f"nb.ipynb: {says}" in done.stdout


def test_a_comparison_shown_again_is_checked_once(
    make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path
) -> None:
    found = make()
    again = cell(found, id="c2", source="result", formatter=formatter)
    write(tmp_path, cell(found, formatter=formatter), again)
    assert len(check("check", "nb.ipynb", "--compare").stdout.splitlines()) == 1
    write(tmp_path, again)
    assert check("check", "nb.ipynb", "--compare").stdout.startswith("nb.ipynb: cell 1 (c2): reasoned is worse")


def test_the_same_runs_with_another_score_are_checked_too(
    make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path
) -> None:
    """Scores are of the same answers, so the comparison's id does not tell them apart."""
    first, other = make(score=lambda _answer: True), make()
    assert first.to_json()["id"] == other.to_json()["id"]
    write(tmp_path, cell(first, formatter=formatter), cell(other, id="c2", formatter=formatter))
    assert check("check", "nb.ipynb", "--compare").stdout.startswith("nb.ipynb: cell 2 (c2): reasoned is worse")


def test_a_file_of_the_command_is_checked_too(make: Callable[..., Comparison], check: Command, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(make().to_json()), encoding="utf-8")
    assert check("check", "c.json", "--compare").stdout.startswith("c.json: reasoned is worse than terse in score")
    for text, says in (
        ("{", "it is not JSON: "),
        ("[]", "it holds no figures of a comparison"),
        ('{"figures": [], "format": 7}', "it is in format 7, and 1 is needed; upgrade tokmagic"),
        ('{"figures": [], "format": 1, "variants": []}', "its figures cannot be read: StopIteration"),
        ('{"figures": [{"variant": "a"}], "format": 1}', "its figures cannot be read: KeyError"),
    ):
        (tmp_path / "c.json").write_text(text, encoding="utf-8")
        done = check("check", "c.json", "--compare")
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith(f"c.json: {says}")


def test_the_gate_takes_what_makes_sense(check: Command, tmp_path: Path) -> None:
    write(tmp_path)
    for words, says in (
        (("--compare", "--level", "2"), "--level is '2'; give a number between 0 and 1"),
        (("--compare", "--level", "x"), "--level is 'x'"),
        (("--compare", "--metric", "scor"), "--metric is 'scor' (did you mean score?); known: score, cost"),
        (("--level", "0.1"), "--level, --metric and --margin are of --compare"),
        ((), "check needs a limit: --max-cost, --max-tokens, --compare"),
    ):
        done = check("check", "nb.ipynb", *words)
        assert done.returncode == 2
        assert says in done.stderr


def test_limits_and_comparisons_are_checked_together(
    make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path
) -> None:
    write(tmp_path, cell(make(right), formatter=formatter))
    done = check("check", "nb.ipynb", "--compare", "--max-cost", "1")
    assert done.returncode == 1
    assert "no variant is worse in score" in done.stdout
    assert "no cell holds the numbers of a run" in done.stdout


def test_every_p_below_the_level_counts(make: Callable[..., Comparison]) -> None:
    it = saved.read(make().to_json())
    (p,) = (row.p for row in it.differences if row.metric == "score")
    assert p is not None
    assert list(problems(it, gate(None, repr(p)))) == []
    assert len(list(problems(it, gate(["score"], repr(p * 1.001))))) == 1


# Margins


def saved_of(values: Any, baseline: Any = 0.0, *, passes: bool = False) -> saved.Saved:
    """A comparison as it is read from a file, of a variant with these scores, an item each."""
    scores = np.zeros((2, len(values), 1))
    scores[0, :, 0], scores[1, :, 0] = baseline, values
    unknown = np.full_like(scores, np.nan)
    every = {"score": scores, "usd": unknown, "tokens": unknown, "latency_s": unknown}
    rows = json_rows(exact_rows(figures(["old", "new"], every, passes=passes, seed=0)))
    text = {"format": 1, "variants": [{"label": "old"}], "complete": True, "passes": passes, "figures": rows}
    return saved.read(json.dumps(text))


def keeps(found: saved.Saved, margin: float) -> bool:
    return not list(problems(found, gate(None, None, [str(margin)])))


def test_a_margin_is_students_test_of_non_inferiority_where_there_are_many_items() -> None:
    rng = np.random.default_rng(5)
    for mean in np.linspace(-0.12, 0.0, 25):
        values = rng.normal(mean, 1.0, 2_000)
        by_statsmodels = DescrStatsW(values).ttest_mean(-0.06, alternative="larger")[1] < 0.025
        by_scipy = stats.ttest_1samp(values, -0.06, alternative="greater").pvalue < 0.025
        assert keeps(saved_of(values), 0.06) == by_statsmodels == by_scipy


@pytest.mark.slow
def test_with_few_items_it_seldom_errs_and_finds_what_is_there() -> None:
    """A difference of just the margin passes in about 2.5 % of comparisons; one well within it nearly always."""
    rng = np.random.default_rng(11)
    at_margin = [keeps(saved_of(rng.normal(-0.5, 1, 60)), 0.5) for _ in range(200)]
    within = [keeps(saved_of(rng.normal(0.1, 1, 60)), 0.5) for _ in range(50)]
    assert sum(at_margin) <= 200 * 0.06
    assert sum(within) >= 45


def test_passes_without_any_difference_have_a_bound() -> None:
    for items_, margin in ((20, 0.17), (20, 0.16), (150, 0.025), (150, 0.024), (182, 0.021), (3, 0.5)):
        bound = proportion_confint(0, items_, 0.05, "wilson")[1]
        assert keeps(saved_of(np.zeros(items_), passes=True), margin) == (bound < margin)
    always_better = saved_of(np.ones(20), passes=True)
    assert keeps(always_better, 0.02)
    assert not keeps(saved_of(np.zeros(20), 1.0, passes=True), 0.9)


@pytest.mark.parametrize(
    ("items_", "worse", "better"),
    [
        (5, 0.1, 0.08),
        (10, 0.05, 0.04),
        (10, 0.1, 0.05),
        (20, 0.02, 0.01),
        (20, 0.05, 0.04),
        (20, 0.1, 0.08),
        (30, 0.1, 0.0),
    ],
)
def test_a_difference_in_passes_of_just_the_margin_seldom_passes(items_: int, worse: float, better: float) -> None:
    """Its probability, over all that so many items may come to: few of them differ, often all to the better."""
    passing = 0.0
    for up, down in product(range(7), repeat=2):
        if up + down <= items_:
            apart = np.array([1.0] * up + [-1.0] * down + [0.0] * (items_ - up - down))
            likely = stats.multinomial.pmf([up, down, items_ - up - down], items_, [better, worse, 1 - better - worse])
            found = saved_of(1.0 * (apart > 0), 1.0 * (apart < 0), passes=True)
            passing += likely * keeps(found, worse - better)
    assert passing <= 0.03


def test_one_better_item_among_equals_is_no_proof() -> None:
    for passes in (True, False):
        better = np.array([1.0] + [0.0] * 9)
        assert not keeps(saved_of(better, passes=passes), 0.05)
        assert not keeps(saved_of(better / 2, passes=passes), 0.02)


def test_the_same_difference_everywhere_takes_six_items() -> None:
    assert keeps(saved_of(np.full(6, -0.01)), 0.02)
    assert not keeps(saved_of(np.full(6, -0.03)), 0.02)
    (told,) = problems(saved_of(np.full(5, -0.01)), gate(None, None, ["0.02"]))
    assert told == "new has too few items to tell whether its score keeps the margin; compare on more"


def test_a_margin_of_the_command(
    make: Callable[..., Comparison], formatter: Any, check: Command, tmp_path: Path
) -> None:
    write(tmp_path, cell(make(), formatter=formatter))
    done = check("check", "nb.ipynb", "--compare", "--margin", "0.05")
    assert done.returncode == 1
    assert "reasoned may be worse than terse in score by more than the margin: −80.0 points was measured" in done.stdout
    assert "(margin −5.0 points)" in done.stdout
    assert check("check", "nb.ipynb", "--compare", "--margin", "0.999").returncode == 0
    passed = check("check", "nb.ipynb", "--compare", "--margin", "tokens=3", "--margin", "cost=0.001")
    assert passed.stdout == "nb.ipynb: no variant is worse in tokens (margin 3), cost (margin 0.001)\n"
    assert "in tokens by more than the margin: +1.8 tokens" in check(
        "check", "nb.ipynb", "--compare", "--margin", "tokens=1"
    ).stdout  # fmt: skip
    assert "0.02 stands for 2 points" in check("check", "nb.ipynb", "--compare", "--margin", "2").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--compare", "--margin", "0"], "--margin is '0'; give a number above 0"),
        (["--compare", "--margin", "score=nan"], "--margin is 'score=nan'"),
        (["--compare", "--margin", "2%"], "--margin is '2%'; give a number above 0, such as 0.02"),
        (["--compare", "--margin", "scor=0.1"], "--margin is 'scor' (did you mean score?)"),
        (["--compare", "--margin", "0.1", "--level", "0.01"], "--level is of p, which a --margin does not ask"),
        (["--margin", "0.1"], "--margin are of --compare; give that, too"),
    ],
)
def test_margins_that_are_none(check: Command, words: list[str], says: str) -> None:
    done = check("check", "nb.ipynb", *words)
    assert done.returncode == 2
    assert says in done.stderr
