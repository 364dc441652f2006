"""Importing tokmagic and loading the extension must stay light: what is heavy comes with its first use."""

from __future__ import annotations

import ast
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import tokmagic
from tests.conftest import ROOT
from tokmagic.cli.command import VERBS
from tokmagic.magics.magics import TokMagics

HEAVY = "torch transformers tokenizers sqlalchemy alembic jinja2 huggingface_hub bitsandbytes ipywidgets numpy pyarrow"
HEAVY += " genai_prices pydantic pandas altair tiktoken sentencepiece scipy statsmodels xllamacpp"

LAZY = {
    ("tokmagic", "tokmagic.magics.magics"): "IPython and the magics come with %load_ext",
    (
        "tokmagic",
        "tokmagic.{room}",
    ): "a public name is looked up at its first use, so that --version imports nothing",
    ("tokmagic.cli", "tokmagic.cli.command"): "--version needs no parser",
    ("tokmagic.cli", "tokmagic.cli.streams"): "--version needs nothing of the standard streams",
    ("tokmagic.cli.command", "tokmagic.cli.{name}"): "a verb brings its machinery, so it is imported when it is called",
    **dict.fromkeys(
        [("tokmagic.cli.serve", f"tokmagic.serve{module}") for module in (".process", ".gateway", ".metrics")],
        "a web server is an extra, which --help does without",
    ),
    ("tokmagic.magics.magics", "tokmagic.magics.{magic}"): "a magic brings its machinery, as a verb does",
    ("tokmagic.magics.magics", "tokmagic.magics.display"): "the first answer brings what shows it",
    ("tokmagic.magics.shell", "tokmagic.explain"): "what takes prompts apart comes with the first row that is opened",
    ("tokmagic.comparisons.api", "tokmagic.comparisons.preparing"): "numpy and scipy come with the first comparison",
    ("tokmagic.comparisons.scores", "tokmagic.engines.local.encoder"): "torch, for scores by embeddings alone",
    ("tokmagic.runs.api", "tokmagic.runs.session"): "the session imports nearly all; %load_ext does without it",
    ("tokmagic.runs.api", "tokmagic.runs.many"): "threads and checks that one prompt does without",
    ("tokmagic.runs.alerts", "tokmagic.engines.endpoint.webhook"): "the HTTP client, where no alert is posted",
    ("tokmagic.runs.recorder", "tokmagic.ledgers"): "SQLAlchemy takes longer than all of %load_ext",
    ("tokmagic.notebooks.reproduce.execute", "tokmagic.ledgers"): "SQLAlchemy, for a notebook that cannot be run",
    ("tokmagic.tokens.chat_template", "tokmagic.tokens.sandbox"): "jinja2, which a first count alone needs",
    ("tokmagic.engines.registry", "tokmagic.engines.scripted"): "only the engine that is asked for is imported",
    ("tokmagic.engines.registry", "tokmagic.engines.endpoint.engine"): "as above: the HTTP client",
    ("tokmagic.engines.registry", "tokmagic.engines.endpoint.shared"): "as above",
    ("tokmagic.engines.registry", "tokmagic.engines.local.engine"): "as above: what reads tokenizers",
    ("tokmagic.engines.registry", "tokmagic.engines.llamacpp.engine"): "as above: what reads tokenizers and GGUF files",
    ("tokmagic.cli.serve", "tokmagic.pool.process"): "Ray takes seconds, and is an extra",
    ("tokmagic.cli.serve", "tokmagic.pool.plan"): "as above",
    (
        "tokmagic.engines.local.engine",
        "tokmagic.engines.local.inference",
    ): "torch and transformers: counting needs neither",
    ("tokmagic.engines.local.declared", "tokmagic.engines.local.device"): "as above, where no GPU can be here",
}
"""Imports of our own within functions: from where, of what, and what start-up is spared by it. There are no others."""
DYNAMIC = {
    "tokmagic.{room}": ("runs.api", "runs.generation", "comparisons.api"),
    "tokmagic.cli.{name}": tuple(VERBS),
    "tokmagic.magics.{magic}": tuple(name for kind in TokMagics.magics.values() for name in kind),
}
"""What the names in braces stand for."""

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
    "comparing": "import tokmagic\ntokmagic.compare",
    "load_ipython_extension": f"{SHELL}import tokmagic\ntokmagic.load_ipython_extension(shell)",
    "load and list": f"{SHELL}run('%load_ext tokmagic')\nrun('%model')\nrun('%price')",
    "reload": f"{SHELL}run('%load_ext tokmagic')\nrun('%reload_ext tokmagic')\nrun('%unload_ext tokmagic')",
    "settings": f"{SHELL}run('%load_ext tokmagic')\nrun('%config TokMagic.model = \"scripted\"')",
    "command's help": "from tokmagic.cli import main\nassert main(['--help']) == 0",
    "verb's help": "from tokmagic.cli import main\nassert main(['run', '--help']) == 0",
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT.keys())
def test_nothing_heavy_is_imported(code: str, tmp_path: Path) -> None:
    assert heavy_after(code, tmp_path) == []


def test_the_check_sees_what_is_imported(tmp_path: Path) -> None:
    """A scripted run needs the ledger and the templates, and still no model library."""
    code = f"{SHELL}run('%load_ext tokmagic')\nrun('%model use scripted')\nrun('%%generate\\nHi')"
    assert heavy_after(code, tmp_path) == ["jinja2", "sqlalchemy"]


@pytest.mark.parametrize("device", [None, "cuda"])
def test_what_is_known_of_a_model_imports_no_torch_where_a_gpu_may_be(tmp_path: Path, device: str | None) -> None:
    """Any thread may ask for it, while a cell imports torch."""
    code = f"""
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local import declared
from tokmagic.engines.local.engine import LocalEngine
declared._GPU_FILES = ("/dev/null",)
assert LocalEngine("m", ModelSpec("owner/name", device={device!r}), TokMagic()).info.device == {device!r}
"""
    assert "torch" not in heavy_after(code, tmp_path)


@pytest.mark.slow
@pytest.mark.model
def test_counting_for_a_local_model_and_replaying_it_need_no_torch(model_home: Path, tmp_path: Path) -> None:
    """Its tokenizer is enough for that; a first draft and a cached answer are there before torch would be."""
    cell = "%%generate --model smollm2 --max-tokens 2 --temperature 0 --seed 1\\nHi"
    setting = f"{SHELL}import os\nos.environ['TOKMAGIC_HOME'] = {str(model_home)!r}\nrun('%load_ext tokmagic')\n"
    assert "torch" not in heavy_after(f"{setting}run('%%tokens --model smollm2\\nHi')", tmp_path)
    assert "torch" in heavy_after(f"{setting}run('{cell}')", tmp_path)
    again = f"{setting}run('{cell}')\nassert shell.user_ns['_'].status == 'cached'"
    assert not {"torch", "transformers"} & set(heavy_after(again, tmp_path))


@pytest.mark.model
def test_counting_for_a_gguf_file_needs_nothing_that_runs_it(smollm_folder: Path, tmp_path: Path) -> None:
    """Where its tokenizer lies beside it: neither llama.cpp nor numpy nor torch."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).symlink_to(smollm_folder / name)
    number = struct.pack("<Q", 1)
    name, value = (struct.pack("<Q", len(it)) + it for it in (b"general.architecture", b"llama"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQ", 3, 0) + number + name + struct.pack("<I", 8) + value)
    code = f"{SHELL}run('%load_ext tokmagic')\nrun('%model add m {tmp_path}/m.gguf')\nrun('%%tokens --model m\\nHi')"
    assert not {"xllamacpp", "numpy", "torch"} & set(heavy_after(code, tmp_path))


OURS = """
import json, sys
print("\\n" + json.dumps(sorted(name for name in sys.modules if name.startswith("tokmagic") or name == "argparse")))
"""


def ours_after(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code + OURS], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_the_version_needs_no_parser() -> None:
    code = "from tokmagic.cli import main\nassert main(['--version']) == 0"
    assert ours_after(code) == ["tokmagic", "tokmagic.cli", "tokmagic.core", "tokmagic.core.version"]


def test_loading_makes_no_session_and_the_first_magic_does() -> None:
    session, verb = "tokmagic.runs.session", "tokmagic.explain"
    loaded = ours_after(f"{SHELL}run('%load_ext tokmagic')\nrun('%config TokMagic.model = \"scripted\"')")
    assert not {session, verb, "tokmagic.core.record", "tokmagic.prices"} & set(loaded)
    used = ours_after(f"{SHELL}run('%load_ext tokmagic')\nrun('%model')")
    assert session in used
    assert verb not in used, "what %tokens needs comes with %tokens"


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


# Where our own modules are imported


class Import(NamedTuple):
    """One import of our own; ``told``: its line, and the comment above it."""

    source: str
    target: str
    lazy: bool
    told: str


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    return {module_of(file): file for file in (ROOT / "tokmagic").rglob("*.py")}


def targets(node: ast.AST) -> Iterator[str]:
    """Which of our modules a node imports, by a statement or by ``import_module``."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names if name.name.split(".")[0] == "tokmagic")
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tokmagic":
        inside = [f"{node.module}.{name.name}" for name in node.names]
        yield from dict.fromkeys(name if name in modules() else str(node.module) for name in inside)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield ast.unparse(node.args[0]).removeprefix("f").strip("'\"")


def for_types_alone(tree: ast.AST) -> set[ast.AST]:
    """What stands below ``if TYPE_CHECKING``, which is never run."""
    blocks = [it for it in ast.walk(tree) if isinstance(it, ast.If) and ast.unparse(it.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for it in block.body for inner in ast.walk(it)}


@cache
def imports() -> list[Import]:
    """All imports of our own that are ever run."""
    found = []
    for source, file in modules().items():
        text = file.read_text(encoding="utf-8")
        tree, lines = ast.parse(text), text.splitlines()
        skipped = for_types_alone(tree)
        functions = [it for it in ast.walk(tree) if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)]
        lazy = {inner for function in functions for it in function.body for inner in ast.walk(it)}
        for node in set(ast.walk(tree)) - skipped:
            for target in targets(node):
                first = min(it.lineno for it in functions if node in set(ast.walk(it))) if node in lazy else 1
                told = "\n".join(lines[first : node.lineno])  # type: ignore[attr-defined]
                found.append(Import(source, target, node in lazy, told))
    return found


def test_our_own_modules_are_imported_within_functions_for_a_quick_start_alone() -> None:
    lazy = [it for it in imports() if it.lazy]
    assert {(it.source, it.target) for it in lazy} == set(LAZY)
    assert [it for it in lazy if "# start-up: " not in it.told] == [], "a comment says what is spared"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Counting what is imported within functions, and by a name that is put together."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for it in imports():
        names = DYNAMIC.get(it.target)
        stem = it.target.rpartition(".")[0]
        reached = {it.target} if names is None else {f"{stem}.{name}" for name in names}
        assert reached <= graph.keys(), f"{it.source} imports {it.target}, which is no module"
        graph[it.source] |= reached
    assert list(TopologicalSorter(graph).static_order()), "raises CycleError with the modules of a cycle"
