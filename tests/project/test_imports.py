"""Importing tokmagic and loading the extension must stay light: what is heavy comes with its first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokmagic

HEAVY = "torch transformers tokenizers sqlalchemy alembic jinja2 huggingface_hub bitsandbytes ipywidgets numpy pyarrow"
HEAVY += " genai_prices pydantic pandas altair tiktoken"

REPORT = f"""
import json, sys
print("\\n" + json.dumps(sorted(set({HEAVY!r}.split()) & set(sys.modules))))
"""


def heavy_after(code: str, folder: Path) -> list[str]:
    """The heavy packages that are there after ``code`` ran in an interpreter of its own."""
    env = {**os.environ, "TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": f"sqlite:///{folder}/ledger.sqlite"}
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], capture_output=True, text=True, env=env, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


SHELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def run(line):
    result = shell.run_cell(line)
    assert result.success, result
"""

LIGHT = {
    "import": "import tokmagic\nassert tokmagic.__version__",
    "public names": "import tokmagic\ntokmagic.generate, tokmagic.count, tokmagic.generate_many, tokmagic.Generation",
    "load_ipython_extension": f"{SHELL}import tokmagic\ntokmagic.load_ipython_extension(shell)",
    "load and list": f"{SHELL}run('%load_ext tokmagic')\nrun('%model')\nrun('%price')",
    "reload": f"{SHELL}run('%load_ext tokmagic')\nrun('%reload_ext tokmagic')\nrun('%unload_ext tokmagic')",
    "settings": f"{SHELL}run('%load_ext tokmagic')\nrun('%config TokMagic.model = \"scripted\"')",
    "command's help": "from tokmagic.cli.command import parser\nparser().format_help()",
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT.keys())
def test_nothing_heavy_is_imported(code: str, tmp_path: Path) -> None:
    assert heavy_after(code, tmp_path) == []


def test_the_check_sees_what_is_imported(tmp_path: Path) -> None:
    """A scripted run needs the ledger and the templates, and still no model library."""
    code = f"{SHELL}run('%load_ext tokmagic')\nrun('%model use scripted')\nrun('%%generate\\nHi')"
    assert heavy_after(code, tmp_path) == ["alembic", "jinja2", "sqlalchemy"]


def test_nothing_is_written_by_loading(tmp_path: Path) -> None:
    assert heavy_after(LIGHT["load_ipython_extension"], tmp_path) == []
    assert not (tmp_path / "ledger.sqlite").exists()
    assert not (tmp_path / "models").exists()


def test_public_names_exist_and_others_are_refused() -> None:
    for name in tokmagic.__all__:
        assert getattr(tokmagic, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'generat'"):
        _ = tokmagic.generat  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        from tokmagic import generat  # type: ignore[attr-defined]  # noqa: F401


def test_the_extension_says_where_its_sidebar_is() -> None:
    assert tokmagic._jupyter_labextension_paths() == [{"src": "labextension", "dest": "tokmagic"}]


def test_the_ledger_can_be_asked_for_after_its_package_was_imported() -> None:
    code = (
        "import tokmagic, tempfile, os; os.environ['TOKMAGIC_HOME'] = tempfile.mkdtemp()\n"
        "assert tokmagic.ledger().runs() == []\n"
        "import tokmagic.ledgers\n"
        "assert tokmagic.ledger().runs() == []\n"
        "assert tokmagic.ledger() is tokmagic.runs.api.ledger()\n"
        "assert isinstance(tokmagic.ledger(), tokmagic.ledgers.Ledger)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
