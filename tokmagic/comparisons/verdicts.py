"""The paragraph that says which prompt is worth its money, and where that cannot be said."""

from __future__ import annotations

from collections.abc import Sequence

from tokmagic.comparisons.differences import PassPrice
from tokmagic.comparisons.figures import ArmFigures
from tokmagic.comparisons.showing import shows, usd
from tokmagic.comparisons.words import NOTHING, sentence, signed


def verdict(arms: Sequence[ArmFigures], *, passes: bool) -> str:
    """A few sentences on each variant, one after another: what was seen, what was not, and what follows."""
    how = shows(passes=passes)
    baseline, *others = arms
    if not baseline.levels:
        return "Nothing ran, so there is nothing to compare."
    told = [f"Compared with {baseline.label}."]
    for arm in others:
        parts = [f"{arm.label}:"] if len(others) > 1 else []
        if all(it.mean is None for it in arm.differences.values()):
            told.append(f"{arm.label}: {NOTHING}.")
            continue
        for metric in ("score", "usd", "latency_s"):
            if (it := arm.differences.get(metric)) is not None:
                name, _, show = how[metric]
                score = metric == "score"
                parts.append(sentence(it, f"the {name}" if score else name, show, brief=not score))
        told.append(" ".join([*parts, *_conclusion(arm, baseline.label, how["score"][0])]))
    return " ".join(told)


def _conclusion(arm: ArmFigures, baseline: str, name: str) -> list[str]:
    """What follows from score, which is called ``name``, and cost together."""
    score, cost = arm.differences.get("score"), arm.differences.get("usd")
    if score is None or score.mean is None:
        return []
    better = _sign(score.mean) if score.seen else 0
    if cost is None or cost.mean is None:
        return [f"{arm.label} is {'better' if better > 0 else 'worse'}; what it costs is not known."] if better else []
    dearer = _sign(cost.mean) if cost.seen else 0
    if better > 0:
        if dearer > 0:
            return [f"{arm.label} is better and costs more: {_price(arm.pass_price, 'each extra pass costs')}"]
        unsure = "may cost more, which is not certain" if cost.leaning > 0 else "no higher cost was seen"
        return [f"{arm.label} is better, and {'costs less' if dearer else unsure}."]
    if better < 0:
        if dearer < 0:
            return [f"{arm.label} is worse and costs less: {_price(arm.pass_price, 'each pass given up saves')}"]
        unsure = "may cost less, which is not certain" if cost.leaning < 0 else "no lower cost was seen"
        return [f"{arm.label} is worse, and {'costs more' if dearer else unsure}: keep {baseline}."]
    if dearer and score.leaning == dearer:
        but = "costs less, but its {} may be lower" if dearer < 0 else "costs more, and its {} may be higher"
        return [f"{arm.label} {but.format(name)}: compare on more items before you choose."]
    if dearer < 0:
        return [f"{arm.label} costs less and no loss was seen, which does not prove that there is none."]
    if dearer > 0:
        return [f"{arm.label} costs more and no gain was seen: keep {baseline} unless more items show one."]
    if score.leaning or cost.leaning:
        return ["These items do not settle which to prefer: compare on more."]
    return ["These items give no reason to prefer either."]


def _price(it: PassPrice | None, what: str) -> str:
    if it is None:
        return "whether that is worth it depends on what the score is worth to you."
    if it.usd is None:
        return f"{it.note}."
    low, high = it.interval.low, it.interval.high
    spread = "" if low is None or high is None else f" ({signed(low, usd)} to {signed(high, usd)})"
    return f"{what} {usd(it.usd)}{spread}."


def _sign(value: float | None) -> int:
    return 0 if not value else 1 if value > 0 else -1
