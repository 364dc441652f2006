"""The dashboard for Grafana asks for figures that the gateway has, and the documentation names all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.serve.gateways import Served

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = re.compile(r"\b(?:vllm|tokmagic):[a-z_0-9]+")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "docker" / "grafana" / "tokmagic.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def samples(served: Served) -> dict[str, set[str]]:
    """The names of all samples after a request, each with its labels."""
    served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Count."}]})
    served.post("/v1/chat/completions", {"messages": []})
    found: dict[str, set[str]] = {}
    for line in served.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rsplit(" ", 1)[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def asked(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_each_figure_is_there_with_its_labels(dashboard: dict[str, Any], samples: dict[str, set[str]]) -> None:
    for expression in asked(dashboard):
        names = set(NAME.findall(expression))
        assert names
        assert names <= samples.keys(), expression
        by = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        filtered = set(re.findall(r"(\w+)=~", expression))
        for name in names:
            assert by | filtered <= samples[name], expression


def test_the_documentation_names_each_figure(samples: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    plain = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in samples}
    missing = {name for name in plain if name not in page and f"{name}_total" not in page}
    assert missing == set()
    assert set(NAME.findall(page)) <= plain | samples.keys()
