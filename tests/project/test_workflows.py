"""The forge's workflows: they call the Makefile and nothing else, and may do no more than they need."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").iterdir())}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
MAKE = re.compile(r'make (?P<target>[a-z-]+)(?: [A-Z]+="\$[A-Z_]+")?')
"""A call of make. What a person of elsewhere may choose, such as a branch's name, comes by a shell's variable."""
ACTION = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")


def load(name: str) -> dict[Any, Any]:
    return dict(yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8")))


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in load(name)["jobs"].values():
        yield from job["steps"]


def targets(name: str, job: str) -> list[str]:
    runs = [step["run"] for step in load(name)["jobs"][job]["steps"] if "run" in step]
    return [found["target"] for run in runs if (found := MAKE.fullmatch(run))]


def test_the_workflows_are_there() -> None:
    assert set(WORKFLOWS) == {"ci", "release"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_step_calls_an_existing_target_or_a_pinned_action(name: str) -> None:
    for step in steps(name):
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            found = MAKE.fullmatch(step["run"])
            assert found, f"{step['run']!r} is no call of make"
            assert found["target"] in TARGETS, f"the Makefile has no target {found['target']}"
        else:
            assert ACTION.fullmatch(step["uses"]), f"{step['uses']} is not pinned by its commit"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_pinned_action_names_its_version(name: str) -> None:
    """A commit tells a reader nothing."""
    lines = [line for line in WORKFLOWS[name].read_text(encoding="utf-8").splitlines() if "uses:" in line]
    for line in lines:
        assert re.search(r" # v\d+\.\d+\.\d+$", line), line
    assert len({line.strip().removeprefix("- ") for line in lines}) == len(
        {step["uses"] for step in steps(name) if "uses" in step}
    )


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_allowed_that_is_not_needed(name: str) -> None:
    workflow = load(name)
    assert workflow["permissions"] == {"contents": "read"}
    allowed = {job: made["permissions"] for job, made in workflow["jobs"].items() if "permissions" in made}
    assert allowed == ({"publish": {"id-token": "write"}} if name == "release" else {})
    assert "secrets." not in WORKFLOWS[name].read_text(encoding="utf-8")
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_ci_runs_what_a_person_runs() -> None:
    jobs = ["check", "test", "test-long", "test-matrix", "image-test"]
    assert {job: targets("ci", job) for job in load("ci")["jobs"]} == {job: [job] for job in jobs}


def test_ci_takes_all_turns() -> None:
    assert load("ci")["env"]["TURN"] == "all"


def test_ci_tries_each_python_that_the_package_says_it_works_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: 3."
    claimed = [f"3.{it.removeprefix(prefix)}" for it in project["classifiers"] if it.startswith(prefix)]
    assert load("ci")["jobs"]["test"]["strategy"]["matrix"]["python"] == claimed
    assert project["requires-python"] == f">={claimed[0]}"


def test_a_release_is_checked_and_tried_before_it_is_published() -> None:
    workflow = load("release")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # `on` is a truth value in YAML 1.1
    assert targets("release", "build") == ["check-tag", "dist", "test-release"]
    publish = workflow["jobs"]["publish"]
    assert (publish["needs"], publish["environment"]) == ("build", "release")
    assert not any("run" in step or "checkout" in step["uses"] for step in publish["steps"])


def test_every_target_is_listed() -> None:
    """`make help` and CONTRIBUTING.md tell of each target that a person calls."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    helped = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE)) - {"help"}
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", told.split("## Make targets")[1].split("\n## ")[0], re.MULTILINE
    )
    assert {name for row in rows for name in re.findall(r"[a-z-]+", row)} == helped


def test_the_pre_commit_hook_is_a_command_that_exists() -> None:
    """What pre-commit of another repository reads here: required keys, and a command with its verb."""
    from tokmagic.cli.command import parser

    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert {"id", "name", "entry", "language"} <= hook.keys()
    command, verb = hook["entry"].split()
    assert parser().parse_args([verb, "a.ipynb"]).verb == verb
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert command in scripts
