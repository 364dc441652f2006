"""The documentation is true: its code runs, its links lead somewhere, its pictures are there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.documented import OTHERS, PARSERS, check_no_option_is_invented
from tests.kernels import running_kernel
from tests.pages import Block, Page, commands, page, pages
from tokmagic import errors
from tokmagic.cli.command import parser
from tokmagic.core.config import TokMagic
from tokmagic.prices import PriceBook
from tokmagic.prompts.parser import split

LANGUAGES = {"ipython", "python", "sh", "console", "toml", "yaml", "json", "dockerfile", "text", "message"}
MOST_BYTES = 150_000
RUN = [it for it in pages() if it.of("ipython", "python") and ".zh-CN" not in it.path.name]
"""Pages with cells; the Chinese one has those of the English one."""


def each(*languages: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for it in pages() for block in it.of(*languages)]


every_page = pytest.mark.parametrize("it", pages(), ids=str)


# Blocks


@every_page
def test_each_block_says_what_it_is(it: Page) -> None:
    for block in it.blocks:
        assert block.language in LANGUAGES, f"{block}: a fence needs one of the languages {sorted(LANGUAGES)}"
        assert not block.directive or block.language in ("ipython", "python"), block


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("it", RUN, ids=str)
def test_the_cells_of_a_page_run_in_their_order(it: Page, model_home: Path, ledger_url: str, tmp_path: Path) -> None:
    """In a real kernel, with the default model where the page names no other; the page may load the extension too."""
    with running_kernel(TOKMAGIC_HOME=str(model_home), TOKMAGIC_LEDGER=ledger_url) as kernel:
        assert kernel.run(f"import os\nos.chdir({str(tmp_path)!r})\n%load_ext tokmagic").ok
        for number, block in enumerate(it.of("ipython", "python")):
            what, _, name = block.directive.partition(" ")
            if what == "not":
                continue
            ran = kernel.run(block.text, cell_id=f"cell-{number}", timeout_s=600)
            if what == "raises":
                assert not ran.ok, f"{block} ran, and should have raised {name}"
                assert ran.error.startswith(f"{name}: "), f"{block}\n{ran.error}"
            else:
                assert ran.ok, f"{block}\n{ran.error}"


def magic_lines(block: Block) -> Iterator[tuple[str, str]]:
    """The names and words of a block's magics."""
    for line in block.text.splitlines():
        if found := re.match(r"(?:\w+ = )?%{1,2}(\w+)[ \t]*(.*)", line):
            yield found[1], found[2]


@pytest.mark.parametrize("block", each("ipython"))
def test_each_option_line_parses(block: Block) -> None:
    """Also where the cell is not run. What is no magic, and not below one, is Python."""
    for name, words in magic_lines(block):
        check_magic(name, words)
    if not block.text.startswith("%%"):
        ast.parse("".join(line for line in block.text.splitlines(True) if not line.startswith("%")))


def check_magic(name: str, line: str) -> None:
    """Parse a magic's words as the magic does. Raises UsageError."""
    if name in OTHERS:
        return
    magic = PARSERS[name]()
    words = magic.leading(line)[0] if name == "tokens" else line
    magic.parse_args(split(words, lambda word: word))


@pytest.mark.parametrize("block", each("python"))
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", each("sh", "console"))
def test_shell_lines_are_commands_that_exist(block: Block) -> None:
    lines = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    text = "\n".join(lines) if block.language == "console" else block.text
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: {done.stderr}"
    for command in commands(block):
        check_command(block, command)


def check_command(block: Block, command: list[str]) -> None:
    name, *words = command
    if Path(name).name == "tokmagic":
        try:
            parser().parse_args(words)
        except errors.UsageError as error:
            pytest.fail(f"{block}: {' '.join(command)}: {error}")
    elif name == "make":
        for target in [word for word in words if "=" not in word]:
            assert target in make_targets(), f"{block}: there is no target {target}"


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("block", each("toml", "yaml", "json"))
def test_data_can_be_read(block: Block) -> None:
    read = {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}[block.language]
    assert read(block.text)


def test_the_price_file_is_one(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    for block in page("docs/prices.md").of("toml"):
        file.write_text(block.text, encoding="utf-8")
        PriceBook(lambda: str(file)).check()


def test_the_settings_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    (block,) = page("docs/settings.md").of("toml")
    file.write_text(block.text, encoding="utf-8")
    monkeypatch.setenv("TOKMAGIC_CONFIG", str(file))
    settings = TokMagic()
    assert {name: getattr(settings, name) for name in tomllib.loads(block.text)} == tomllib.loads(block.text)


# Links and pictures


@every_page
def test_links_lead_somewhere(it: Page) -> None:
    for target in it.links:
        if re.match(r"https?:|mailto:", target):
            assert target.startswith("https:"), f"{it}: {target} is not encrypted"
            continue
        name, _, anchor = target.partition("#")
        file = (it.path.parent / name).resolve() if name else it.path
        assert file.exists(), f"{it}: {target} leads nowhere"
        assert ROOT in file.parents, f"{it}: {target} leads out of the project"
        if anchor:
            assert anchor in Page(file).anchors, f"{it}: {target}: there is no such heading"


def test_pictures_are_there_used_and_small() -> None:
    shown = {(it.path.parent / target).resolve() for it in pages() for target, _ in it.images}
    kept = set((ROOT / "docs" / "images").iterdir())
    assert shown == kept, f"missing: {shown - kept}; used nowhere: {kept - shown}"
    for file in kept:
        assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", file
        assert file.stat().st_size <= MOST_BYTES, file


@every_page
def test_pictures_have_a_text_instead(it: Page) -> None:
    assert all(len(text) > 8 for _, text in it.images), it


# The checks themselves


@pytest.mark.parametrize(
    "text",
    [
        "[there](nowhere.md)",
        "[there](#nowhere)",
        "```\n%cost\n```",
        "```ipython\n%price smollm2 --inptu 3\n```",
        "```ipython\n%cost\n```\n```ipython\nno magic\n  at = all\n```",
        "```python\nx =\n```",
        "```sh\nif true\n```",
        "```sh\nls # a comment\nA=1 .venv/bin/tokmagic run --modell x\n```",
        "```sh\ncat prompt.txt | tokmagic rnu\n```",
        "```console\n$ make no-such-target\nmake: it says\n```",
        "```toml\nx = \n```",
        "`%%generate --max-tokns 3`",
        "`tokmagic report --wsate`",
        "![x](images/x.png)",
    ],
)
def test_what_is_wrong_is_found(text: str, tmp_path: Path) -> None:
    wrong = Page(tmp_path / "wrong.md")
    wrong.path.write_text(text, encoding="utf-8")
    found = []
    for check in (
        test_each_block_says_what_it_is,
        test_links_lead_somewhere,
        test_pictures_have_a_text_instead,
        check_no_option_is_invented,
    ):
        found += failures(check, wrong)
    for languages, check in (
        (("ipython",), test_each_option_line_parses),
        (("python",), test_python_is_python),
        (("sh", "console"), test_shell_lines_are_commands_that_exist),
        (("toml",), test_data_can_be_read),
    ):
        for block in wrong.of(*languages):
            found += failures(check, block)
    assert len(found) == 1, found


def failures(check: Any, subject: Any) -> list[BaseException]:
    try:
        check(subject)
    except (AssertionError, errors.UsageError, SyntaxError, ValueError, pytest.fail.Exception) as failure:
        return [failure]
    return []


# Two languages


def test_getting_started_is_the_same_in_both_languages() -> None:
    english, chinese = page("docs/getting-started.md"), page("docs/getting-started.zh-CN.md")
    assert [tag for tag, _ in english.headings] == [tag for tag, _ in chinese.headings]
    for one, two in zip(english.blocks, chinese.blocks, strict=True):
        assert (one.language, one.text, one.directive) == (two.language, two.text, two.directive)
    assert [target for target, _ in english.images] == [target for target, _ in chinese.images]
    assert sorted(english.links[1:]) == sorted(chinese.links[1:])
    assert english.links[0] == chinese.path.name
    assert chinese.links[0] == english.path.name
    assert [token.type for token in english.tokens] == [token.type for token in chinese.tokens]
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese.path.read_text(encoding="utf-8"))) > 500
