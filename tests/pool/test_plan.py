"""What a pool may be asked for, and what is refused before anything starts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.commands import command_in
from tokmagic.core.config import TokMagic
from tokmagic.core.version import __version__
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.registry import Models
from tokmagic.errors import UsageError
from tokmagic.pool.plan import Plan, Scale, plan_of, replicas


@pytest.mark.parametrize(("text", "found"), [("2", (2, 2)), ("1:4", (1, 4)), ("3:3", (3, 3))])
def test_replicas_are_two_numbers_or_one(text: str, found: tuple[int, int]) -> None:
    assert replicas(text) == found


@pytest.mark.parametrize("text", ["", "a", "1:", ":2", "1:2:3", "1.5"])
def test_replicas_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--replicas is"):
        replicas(text)


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (Scale(0, 1), "--replicas is 0:1"),
        (Scale(3, 2), "--replicas is 3:2"),
        (Scale(gpus=1.5), "--gpus-per-replica is 1.5"),
        (Scale(gpus=-1), "--gpus-per-replica is -1"),
        (Scale(cpus=0), "--cpus-per-replica is 0"),
        (Scale(cpus=math.nan), "nan is no amount"),
        (Scale(gpus=math.inf), "inf is no amount"),
        (Scale(up_after_s=-1), "--scale-up-after"),
    ],
)
def test_a_scale_that_cannot_be(scale: Scale, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        scale.check()


@pytest.mark.parametrize("gpus", [0, 0.25, 0.5, 1, 2, 8])
def test_a_share_of_a_gpu_or_several(gpus: float) -> None:
    Scale(gpus=gpus).check()


def test_a_model_at_an_endpoint_needs_no_replica() -> None:
    there = ModelSpec("their-model", api_base="http://127.0.0.1:1/v1")
    plan = Plan({"a": ModelSpec("scripted"), "b": there}, Scale(1, 3), "1", at_once=4)
    assert plan.pooled == ["a"]
    assert plan.most_at_once == 4 * 3 + 4


@pytest.mark.parametrize("option", ["--replicas", "--gpus-per-replica", "--scale-up-after"])
def test_an_option_of_pools_alone(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command_in(tmp_path, capsys)("serve", "scripted", option, "1")
    assert done.returncode == 2
    assert done.stderr == f"tokmagic: {option} is for a pool; give --pool too\n"


def test_options_make_a_plan() -> None:
    options = {"replicas": "1:4", "gpus_per_replica": 0.5, "scale_up_after": None, "concurrency": 8, "drain": 5}
    plan = plan_of(Models(TokMagic()), ["smollm2", "smollm2", "scripted"], options)
    assert list(plan.models) == ["smollm2", "scripted"]
    assert plan.scale == Scale(1, 4, gpus=0.5)
    assert (plan.at_once, plan.drain_s, plan.waiting, plan.version) == (8, 5, 256, __version__)
    assert plan.most_at_once == 8 * 4 * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"replica": "1"}, r"no option 'replica' \(did you mean replicas\?\)"),
        ({"drain": "5"}, "drain is '5'; give a number"),
        ({"gpus_per_replica": True}, "gpus_per_replica is True"),
        ({"replicas": "4:1"}, "--replicas is 4:1"),
    ],
)
def test_options_that_make_none(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan_of(Models(TokMagic()), ["scripted"], options)
