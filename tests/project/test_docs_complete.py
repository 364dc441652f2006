"""The documentation names each magic, option, command, setting, column and error that there is, and no other."""

from __future__ import annotations

import ast
import re
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.documented import HELP, PARSERS, check_no_option_is_invented, documented, options_of, verbs
from tests.pages import Page, codes, page, pages, rows
from tokmagic import errors
from tokmagic.core.config import TokMagic, describe
from tokmagic.core.record import EngineInfo, RunRecord
from tokmagic.health import Probe, doctor
from tokmagic.magics import budget, cost
from tokmagic.magics.magics import TokMagics
from tokmagic.reports.exports import export_row


@pytest.mark.parametrize("name", PARSERS)
def test_each_magics_options_are_documented(name: str) -> None:
    told = documented(page("docs/magics.md").section(name))
    assert told == set(options_of(PARSERS[name]())) - HELP


def test_each_magic_and_its_words_are_documented() -> None:
    magics = page("docs/magics.md")
    assert {name for kind in TokMagics.magics.values() for name in kind} == set(PARSERS)
    assert [text for tag, text in magics.headings if tag == "h2"][: len(PARSERS)] == list(PARSERS)
    words = {
        "model": ["add", "use", "load", "unload", "info"],
        "price": ["off"],
        "budget": [*budget.SCOPES, "off"],
        "cache": ["on", "off", "clear"],
        "cost": cost.ACTIONS,
        "tokmagic": ["doctor", "version"],
    }
    for name, known in words.items():
        told = " ".join(code for token in magics.section(name) for code in codes(token))
        for word in known:
            assert re.search(rf"%{name} ([A-Z]+ )?{word}\b", told), f"docs/magics.md tells nothing of %{name} {word}"


@pytest.mark.parametrize("name", verbs())
def test_each_commands_options_are_documented(name: str) -> None:
    told = documented(page("docs/command-line.md").section(name))
    assert told == set(options_of(verbs()[name])) - HELP


def test_each_command_is_documented() -> None:
    command_line = page("docs/command-line.md")
    assert [text for tag, text in command_line.headings if tag == "h2"] == list(verbs())
    listed = {
        code for cells in rows(command_line.tokens) for code in codes(cells[0]) if re.fullmatch("tokmagic .+", code)
    }
    assert listed == {f"tokmagic {name}" for name in verbs()}


def test_each_setting_is_documented_with_its_default() -> None:
    told = {
        codes(cells[0])[0]: cells[1].content
        for cells in rows(page("docs/settings.md").tokens)
        if cells and codes(cells[0]) and codes(cells[0])[0].startswith("TOKMAGIC_")
    }
    assert set(told) == {f"TOKMAGIC_{name.upper()}" for name, _ in describe()}
    settings = TokMagic()
    for name, _ in describe():
        value, cell = getattr(settings, name), told[f"TOKMAGIC_{name.upper()}"]
        if isinstance(value, bool):
            assert cell.startswith("`on`" if value else "`off`"), name
        elif isinstance(value, int | float):
            assert cell.split()[0] == f"{value:g}" or cell.split()[0] == str(value), name
        elif value == "":
            assert cell == "empty", name


@pytest.mark.parametrize("name", ["docs/getting-started.md", "docs/getting-started.zh-CN.md"])
def test_each_extra_is_named_where_one_is_chosen(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"].keys() - set(page(name).code) == set()


def test_each_column_of_the_export_is_defined() -> None:
    record = RunRecord("r", datetime(2026, 11, 24, tzinfo=UTC), "ok", EngineInfo("m", "m", "scripted"), "0" * 64, {})
    assert set(export_row(record)) <= {
        code for cell in page("docs/metrics.md").code for code in re.findall(r"\w+", cell)
    }


@pytest.mark.parametrize("it", pages(), ids=str)
def test_no_option_is_invented(it: Page) -> None:
    check_no_option_is_invented(it)


# Troubleshooting


def templates() -> list[str]:
    """Every text in the code; what is filled in stands as a NUL."""
    found = []
    for file in (ROOT / "tokmagic").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(it.value if isinstance(it, ast.Constant) else "\0" for it in node.values))
    for file in (ROOT / "labextension" / "src").glob("*.ts*"):
        text = file.read_text(encoding="utf-8")
        found += [one or two for one, two in re.findall(r"'([^'\n]+)'|\"([^\"\n]+)\"", text)]
    return found


def test_quoted_messages_are_what_the_code_says() -> None:
    texts = templates()
    quoted = [(block, line) for it in pages() for block in it.of("message") for line in block.text.splitlines()]
    assert quoted
    for block, line in quoted:
        parts = [part.strip() for part in line.split("…") if part.strip()]
        assert len("".join(parts)) >= 8, f"{block}: {line!r} could be anything"
        pattern = re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)
        assert any(pattern.search(text) for text in texts), f"{block}: no message reads {line!r}"


def test_a_message_that_nothing_prints_is_found() -> None:
    texts = templates()
    assert any("make it writable, or set TOKMAGIC_LEDGER" in text for text in texts)
    assert not any("make it writeable" in text for text in texts)


def error_classes() -> set[str]:
    found = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    return found | {"LedgerWarning", "BudgetWarning"}


def test_each_error_has_its_symptom() -> None:
    code = {code for it in page("docs/troubleshooting.md").code for code in re.findall(r"\w+", it)}
    assert error_classes() <= code, error_classes() - code


def test_each_finding_of_doctor_is_explained(make_session: Any) -> None:
    told = {
        code for cells in rows(page("docs/troubleshooting.md").section("What doctor finds")) for code in codes(cells[0])
    }
    tried = Probe(cuda="12.8", devices=("NVIDIA L4",), attention=("math",), bitsandbytes={"nf4": "no kernel"})
    diagnosis = doctor(make_session(model="scripted").settings, tried)
    found = {finding.name.split()[0] for finding in diagnosis.findings}
    assert {"gpu", "cuda", "attention", "ledger", "sidebar"} <= found
    assert found <= {name.split()[0] for name in told}
