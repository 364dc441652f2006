"""``make test-matrix``: the built wheel with the lowest and the newest of what it says it works with.

Each environment is made anew under ``.cache/matrix`` and runs the tests that its packages matter to, against the
wheel and never the source tree. A requirement is either varied or held at what ``constraints.txt`` says; what it needs
in turn is pip's choice. torch is always held: it is several gigabytes, and its newest build is for CUDA.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.bounds import constraints, held, project, test_tools

FOLDER = Path(".cache/matrix")
WITHOUT_MODEL = "not model and not tiktoken and not ui and not slow and not gpu and not postgres and not outside"
LAB_TESTS = ("tests/magics/test_kernel.py", "tests/runs/test_live.py", "tests/project/test_notebooks.py", "tests/ui")
MODEL_TESTS = (
    "tests/tokens/test_tokenizer.py",
    "tests/magics/test_tokens.py",
    "tests/tokens/test_counter.py",
    "tests/engines/test_local_engine.py",
    "tests/engines/test_local_schema.py",
    "tests/engines/test_model_files.py",
)


@dataclass(frozen=True)
class Environment:
    """One row of the matrix: what is installed beside the base, which groups are varied, which tests run."""

    name: str
    extras: tuple[str, ...]
    tests: tuple[str, ...]
    marks: str = "not slow and not gpu and not postgres and not outside"
    lowest: tuple[str, ...] = ()
    newest: tuple[str, ...] = ()
    python: str = sys.executable

    @property
    def folder(self) -> Path:
        return (FOLDER / self.name).resolve()

    @property
    def interpreter(self) -> Path:
        return self.folder / "bin" / "python"


CHECKOUT_TESTS = (
    *("gpu", "image"),
    *(f"project/test_{name}.py" for name in ("docs", "docs_complete", "release", "version", "workflows")),
)
"""Tests of a checkout, or of what no environment here has."""
BASE_TESTS = ("tests", *(f"--ignore=tests/{name}" for name in CHECKOUT_TESTS))
PYTHON_TESTS = (
    *("tests/ledgers/test_store.py", "tests/magics/test_kernel.py"),
    *(f"tests/notebooks/test_check_{name}.py" for name in ("files", "growth", "limits")),
    *("tests/project/test_imports.py", "tests/prompts/test_template.py", "tests/reports"),
    *("tests/runs/test_live.py", "tests/runs/test_session.py"),
)
SMALL = ("compare", "lab", "openai", "parquet", "postgres", "report", "tokenizer")
"""The extras without torch, whose build for other interpreters is large."""
ALL = (*SMALL, "local")
MATRIX = (
    Environment("base-lowest", ALL, BASE_TESTS, WITHOUT_MODEL, lowest=("base", *SMALL)),
    Environment("lab-lowest", ALL, LAB_TESTS, lowest=("lab",)),
    Environment("lab-newest", ALL, LAB_TESTS, newest=("lab",)),
    Environment("transformers-lowest", ALL, MODEL_TESTS, lowest=("local",)),
    Environment("transformers-newest", ALL, MODEL_TESTS, newest=("local",)),
    Environment("python3.12", SMALL, PYTHON_TESTS, WITHOUT_MODEL, newest=("base", *SMALL), python="python3.12"),
    Environment("python3.13", SMALL, PYTHON_TESTS, WITHOUT_MODEL, newest=("base", *SMALL), python="python3.13"),
)
SHOWN = ("jupyterlab", "ipykernel", "ipython", "transformers", "torch", "sqlalchemy", "httpx2", "genai-prices")


def main(words: list[str] | None = None) -> int:
    """Run the environments, all or those named, and print one line a package set; 1 if a test failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.matrix")
    parser.add_argument("dist", type=Path, help="the folder that holds the wheel")
    parser.add_argument("only", nargs="*", help="environments to run (all)")
    parser.add_argument("--keep", action="store_true", help="run the tests again in the environments that are there")
    given = parser.parse_args(words)
    (wheel,) = given.dist.resolve().glob("*.whl")
    results = [
        (env, _outcome(env, None if given.keep else wheel))
        for env in MATRIX
        if env.name in given.only or not given.only
    ]
    for env, outcome in results:
        print(f"{env.name:20} {outcome:14} {'' if outcome == NO_PYTHON else _versions(env)}")
    return int(any(outcome not in (PASSED, NO_PYTHON) for _, outcome in results))


PASSED, FAILED, NO_PYTHON = "passed", "FAILED", "no interpreter"


def _outcome(env: Environment, wheel: Path | None) -> str:
    """Install the wheel, unless there is none to install, and run the tests."""
    if not _runs(env.python):
        return NO_PYTHON
    print(f"--- {env.name}", flush=True)
    try:
        if wheel is not None:
            _install(env, wheel)
    except subprocess.CalledProcessError:
        return "FAILED install"
    return PASSED if _test(env) == 0 else FAILED


def _runs(python: str) -> bool:
    """Whether there is such an interpreter; a version manager may have a command of that name that starts none."""
    return shutil.which(python) is not None and subprocess.run([python, "-V"], capture_output=True).returncode == 0


def _install(env: Environment, wheel: Path) -> None:
    shutil.rmtree(env.folder, ignore_errors=True)
    subprocess.run([env.python, "-m", "venv", env.folder], check=True)
    limits = env.folder / "constraints.txt"
    limits.write_text(_limits(env), encoding="utf-8")
    pip: list[str | Path] = [env.interpreter, "-m", "pip", "install", "-q", "--only-binary", ":all:", "-c", limits]
    subprocess.run([*pip, "pip"], check=True)
    wanted = f"tokmagic[{','.join(env.extras)}] @ {wheel.as_uri()}"
    # Tests count with small tokenizers of their own; the package comes with transformers where that is installed.
    subprocess.run([*pip, wanted, *test_tools(), "tokenizers"], check=True)
    subprocess.run([env.interpreter, "-m", "pip", "check"], check=True)


def _limits(env: Environment) -> str:
    """The constraints of an environment: varied groups at their lower bound or free, all else that is ours held."""
    groups, known = project(), held()
    ours = [name for group, required in groups.items() if group not in env.newest for name in required]
    pins = {name: known[name] for name in [*ours, *test_tools(), "pip", "torch"]}
    for group in env.lowest:
        pins |= {name: bound for name, bound in groups[group].items() if name != "torch"}
    return constraints(pins)


def _test(env: Environment) -> int:
    tree = env.folder / "tree"
    _copy_checkout(tree)
    path = os.pathsep.join([str(env.folder / "bin"), os.environ["PATH"]])
    # A model folder of its own: the model is read and converted by the packages that are tried.
    settings = {"PATH": path, "TOKMAGIC_TEST_HOME": str(env.folder / "home")}
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command: list[str | Path] = [env.interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run([*command, "-m", env.marks, *env.tests], cwd=tree, env={**clean, **settings}).returncode


def _copy_checkout(tree: Path) -> None:
    """Everything but the package, so that the tests find the wheel's and no other."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and not name.startswith("tokmagic/") and Path(name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, tree / name)


def _versions(env: Environment) -> str:
    """What is installed of the packages that people ask after."""
    code = (
        "import platform, sys, importlib.metadata as m\n"
        "print('python', platform.python_version(), end='')\n"
        "have = {d.name.lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(*(f', {n} {have[n]}' for n in sys.argv[1:] if n in have), sep='')"
    )
    command: list[str | Path] = [env.interpreter, "-c", code, *SHOWN]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
