"""An executed notebook as files: each answer's footer is there, and what a model wrote does nothing to the reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.ui, pytest.mark.slow]

ELSEWHERE = "evil.example"
ANSWERS = [
    f"<script>window.hacked=1</script><img src=https://{ELSEWHERE}/a onerror=window.hacked=2>",
    "<svg onload=window.hacked=3><style>* {display: none}</style></svg>",
    f"[go](javascript:window.hacked=4) ![i](https://{ELSEWHERE}/i.png) [d](data:text/html,hi)",
    f"\x1b[2J\x1b[31mred\x1b]8;;https://{ELSEWHERE}\x07link\x1b]8;;\x07",
    "pay \u202e52$\u202c or \u2067now\u2069",
    f'=HYPERLINK("https://{ELSEWHERE}")\n@SUM(1)\n\n    +1\n# -1',
    "```\n</code></pre><script>window.hacked=5</script>\n```\n\n</div></div><b>$x$",
]
FORMATS = ("markdown", "text", "code", "json")
UNWANTED = {*map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))), "\x1b", "\x07"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an executed notebook ``out.ipynb``, and what nbconvert makes of it, ``out.html`` and ``out.md``."""
    folder = tmp_path_factory.mktemp("exported")
    sources = ["%load_ext tokmagic"]
    for index, answer in enumerate(ANSWERS):
        script = {"pieces": [answer[at : at + 5] for at in range(0, len(answer), 5)]}
        (folder / f"{index}.json").write_text(json.dumps(script), encoding="utf-8")
        sources.append(f"%model add m{index} scripted:{index}.json")
        sources += [f"%%generate -m m{index} --no-cache --format {form}\nHi" for form in FORMATS]
    cells = [{"cell_type": "code", "id": f"c{at}", "metadata": {}, "source": it} for at, it in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": kernel,
        "cells": [{**cell, "execution_count": None, "outputs": []} for cell in cells],
    }
    (folder / "in.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    for words in (
        # By itself it leaves out what a busy kernel shows four seconds after the end of its cell.
        [
            "--to",
            "notebook",
            "--execute",
            "--ExecutePreprocessor.iopub_timeout=90",
            "in.ipynb",
            "--output",
            "out.ipynb",
        ],
        ["--to", "html", "out.ipynb"],
        ["--to", "markdown", "out.ipynb"],
    ):
        command = [sys.executable, "-m", "jupyter", "nbconvert", *words]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def outputs(folder: Path) -> list[dict[str, Any]]:
    """What the cells with prompts show."""
    cells = json.loads((folder / "out.ipynb").read_text(encoding="utf-8"))["cells"]
    return [it["outputs"][0] for it in cells if "".join(it["source"]).startswith("%%generate")]


def footers(folder: Path) -> list[str]:
    return ["".join(it["data"]["text/plain"]).split("\n")[-1] for it in outputs(folder)]


def test_the_footer_is_the_last_line_of_each_plain_text(exported: Path) -> None:
    found = footers(exported)
    assert len(found) == len(ANSWERS) * len(FORMATS)
    for footer, output in zip(found, outputs(exported), strict=True):
        row = output["metadata"]["tokmagic"]
        assert footer.startswith(f"{row['input_tokens']} → {row['output_tokens']} tokens · ")
        assert footer.endswith(f" · {row['model']}")


@pytest.mark.parametrize("name", ["out.ipynb", "out.html", "out.md"])
def test_nothing_in_a_file_drives_a_terminal_or_turns_a_line_round(exported: Path, name: str) -> None:
    text = (exported / name).read_text(encoding="utf-8")
    shown = json.dumps(outputs(exported), ensure_ascii=False) if name == "out.ipynb" else text
    assert [f"{ord(it):04X}" for it in sorted(UNWANTED & set(shown))] == []
    assert "⟨202E⟩52" in shown


def read(browser: Browser, markup: str) -> tuple[Page, list[str]]:
    """Show a page to a browser that reaches nobody, and return it with what it asked for."""
    page, asked = browser.new_page(), []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route("**/*", refuse)
    page.set_content(markup)
    for link in page.locator("a[href^='javascript:'], a[href^='data:']").all():
        link.click(force=True)
    return page, asked


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_in_a_browser_it_is_text_and_its_footer_can_be_read(browser: Browser, exported: Path, form: str) -> None:
    name = {"html": "out.html", "markdown": "out.md"}[form]
    markup = (exported / name).read_text(encoding="utf-8")
    if form == "markdown":
        markup = MarkdownIt("commonmark", {"html": True}).enable("table").render(markup)
    page, asked = read(browser, markup)
    assert page.evaluate("() => window.hacked") is None
    assert [url for url in asked if ELSEWHERE in url] == []
    seen = page.locator("body").inner_text()
    for footer in footers(exported):
        assert footer in seen
    for answer in ("<script>window.hacked=1</script>", "<svg onload=window.hacked=3>"):
        assert seen.count(answer) == len(FORMATS)
    assert page.locator(f"[src*='{ELSEWHERE}']").count() == 0
    page.close()
