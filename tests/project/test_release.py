"""What a release hands out, installed where there is nothing: no node, no compiler, no source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import tokmagic
from tests.clean_environments import CleanEnvironment, clean_environment
from tests.conftest import ROOT
from tests.terminal import Terminal
from tests.ui.lab import Lab, running_lab
from tools.dist import WHEEL_LIMIT_BYTES, Packed, read_sdist, read_wheel, sdist_problems, tracked, wheel_problems

pytestmark = pytest.mark.slow

VERSION = tokmagic.__version__
SHARE = Path("share", "jupyter", "labextensions", "tokmagic")


def make_dist(folder: Path) -> Path:
    command = ["make", "--no-print-directory", "dist", f"DIST={folder}"]
    for _ in range(3):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        # hatchling looks through the whole tree, and the image that is built beside this comes and goes in there.
        if done.returncode == 0 or f"No such file or directory: '{ROOT / '.cache'}" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, made by the command that makes a release."""
    built = (ROOT / "tokmagic" / "labextension" / "package.json").is_file()
    if not built and shutil.which("npm") is None and os.environ.get("CI") != "true":
        pytest.skip("the sidebar is not built, and there is no npm to build it")
    return make_dist(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """The wheel with what it needs and no extra; nothing was compiled for it."""
    made = clean_environment(tmp_path_factory.mktemp("bare"))
    made.pip_install("--only-binary", ":all:", wheel)
    return made


@pytest.fixture(scope="module")
def with_lab(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """The wheel with JupyterLab."""
    made = clean_environment(tmp_path_factory.mktemp("lab"))
    made.pip_install("--only-binary", ":all:", f"tokmagic[lab] @ {wheel.as_uri()}")
    return made


@pytest.fixture
def empty(tmp_path: Path) -> CleanEnvironment:
    return clean_environment(tmp_path)


def installed_files(environment: CleanEnvironment) -> dict[str, bytes]:
    """The extension as it is installed."""
    share = environment.folder / SHARE
    return {str(path.relative_to(share)): path.read_bytes() for path in share.rglob("*") if path.is_file()}


def packed_files(wheel: Path) -> dict[str, bytes]:
    """The extension as the wheel holds it."""
    prefix = f"tokmagic-{VERSION}.data/data/{SHARE}/"
    files = read_wheel(wheel).files.items()
    return {name.removeprefix(prefix): content for name, content in files if name.startswith(prefix)}


def test_two_builds_of_a_commit_are_the_same_to_the_byte(dist: Path, tmp_path: Path) -> None:
    again = make_dist(tmp_path)
    names = sorted(path.name for path in dist.iterdir())
    assert names == [f"tokmagic-{VERSION}-py3-none-any.whl", f"tokmagic-{VERSION}.tar.gz"]
    for name in names:
        assert (again / name).read_bytes() == (dist / name).read_bytes()


def test_the_extension_is_the_same_wherever_it_was_built(tmp_path: Path) -> None:
    """Ids that the bundler makes of absolute paths would show here."""
    if shutil.which("npm") is None or not (ROOT / "labextension" / "node_modules").is_dir():
        assert os.environ.get("CI") != "true", "the sidebar is built with npm"
        pytest.skip("there is no npm, or `make build` has not been run")
    elsewhere = tmp_path / "a" / "longer" / "path"
    shutil.copytree(ROOT / "labextension", elsewhere / "labextension", symlinks=True, copy_function=link_or_copy)
    shutil.rmtree(elsewhere / "labextension" / "lib")  # would be written to, and is the checkout's by its links
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    build = ["npm", "run", "--silent", "build:prod"]
    subprocess.run(build, cwd=elsewhere / "labextension", env={**os.environ, "PATH": path}, check=True)
    for name, file in (("labextension", "package.json"), ("widget", "panel.js")):
        assert_same(ROOT / "tokmagic" / name, elsewhere / "tokmagic" / name, file)


def assert_same(built: Path, there: Path, file: str) -> None:
    """Two folders hold the same files, ``file`` among them."""
    for folder in (built, there):
        assert (folder / file).is_file()
    files = {folder: {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()} for folder in (built, there)}
    assert files[built].keys() == files[there].keys()
    for name, path_built in files[built].items():
        assert files[there][name].read_bytes() == path_built.read_bytes(), name


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= WHEEL_LIMIT_BYTES


def without(packed: Packed, name: str) -> Packed:
    return Packed(packed.path, {key: content for key, content in packed.files.items() if name not in key})


def with_file(packed: Packed, name: str) -> Packed:
    return Packed(packed.path, {**packed.files, name: b""})


def test_the_check_of_what_was_packed_sees_what_is_wrong(sdist: Path, wheel: Path) -> None:
    source, binary, ours = read_sdist(sdist), read_wheel(wheel), tracked(ROOT)
    assert list(sdist_problems(source, ours, VERSION)) == []
    assert list(wheel_problems(binary, source, VERSION)) == []
    for broken, says in (
        (without(source, "tokmagic/runs/session.py"), ["lacks tokmagic/runs/session.py"]),
        (without(source, "third-party-licenses"), ["lacks the extension's static/third-party-licenses.json"]),
        (without(source, "widget/panel.css"), ["lacks tokmagic/widget/panel.css"]),
        (with_file(source, "tokmagic/notes.txt"), ["holds tokmagic/notes.txt, which git does not track"]),
        (with_file(source, "tokmagic/labextension/static/a.js.map"), ["holds tokmagic/labextension/static/a.js.map"]),
    ):
        assert list(sdist_problems(broken, ours, VERSION)) == says
    for broken, says in (
        (without(binary, "LICENSE"), [f"lacks tokmagic-{VERSION}.dist-info/licenses/LICENSE"]),
        (with_file(binary, "tests/__init__.py"), ["holds tests/__init__.py, which the sdist does not"]),
    ):
        assert list(wheel_problems(broken, source, VERSION)) == says
    other = [problem for problem in wheel_problems(binary, source, "9.9.9") if "9.9.9" in problem]
    assert other, "the wheel of another version passed"


def test_without_extras_it_is_imported_from_the_wheel(bare: CleanEnvironment) -> None:
    said = bare.run("python", "-c", "import tokmagic; print(tokmagic.__version__, tokmagic.__file__)").stdout
    version, where = said.split()
    assert version == VERSION
    assert Path(where).is_relative_to(bare.folder)
    assert bare.run("tokmagic", "--version").stdout == f"tokmagic {VERSION}\n"
    assert bare.run("pip", "check").stdout.strip() == "No broken requirements found."


def test_without_extras_the_magics_work_in_a_terminal(bare: CleanEnvironment) -> None:
    terminal = Terminal([bare.python, *Terminal.IPYTHON], env=bare.variables, cwd=bare.home)
    try:
        terminal.ask("%load_ext tokmagic")
        terminal.ask('get_ipython().run_cell("%%generate -m scripted --into out\\nSay hello.");')
        assert re.search(r"^ok 19\r?$", terminal.ask("print(out.status, out.usage.output_tokens)"), re.MULTILINE)
        assert re.search(r"^cell 1 +1 +12 +19 ", terminal.ask("%cost"), re.MULTILINE)
    finally:
        terminal.end()
    assert "Traceback" not in terminal.seen


def test_without_extras_the_doctor_says_what_is_missing(bare: CleanEnvironment) -> None:
    done = bare.run("tokmagic", "doctor", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    for missing in ("torch", "transformers"):
        assert re.search(rf"^\W*{missing} .*FAILS.*not installed.*tokmagic\[local\]", done.stdout, re.MULTILINE)
    assert re.search(r"JupyterLab.*not installed.*tokmagic\[lab\]", done.stdout)


def test_jupyterlab_lists_the_extension(with_lab: CleanEnvironment) -> None:
    listed = with_lab.run("jupyter", "labextension", "list").stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", listed)
    assert re.search(rf"^\s*tokmagic v{re.escape(VERSION)} enabled OK \(python, tokmagic\)$", plain, re.MULTILINE)
    assert str(with_lab.folder / SHARE.parent) in plain


def test_jupyterlab_serves_the_extension(with_lab: CleanEnvironment, tmp_path: Path) -> None:
    with running_lab(tmp_path / "server", with_lab.python, **with_lab.variables) as lab:
        (entry,) = [it for it in page_config(lab)["federated_extensions"] if it["name"] == "tokmagic"]
        served = get(lab, f"lab/extensions/tokmagic/{entry['load']}")
    assert served == installed_files(with_lab)[entry["load"]]
    assert re.fullmatch(r"static/remoteEntry\.\w+\.js", entry["load"])


def page_config(lab: Lab) -> dict[str, Any]:
    """What the page tells the front end."""
    found = re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', get(lab, "lab").decode(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def get(lab: Lab, path: str) -> bytes:
    request = urllib.request.Request(f"{lab.url}{path}", headers={"Authorization": f"token {lab.token}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status == 200
        return bytes(reply.read())


def test_the_sdist_brings_the_extension_without_node(empty: CleanEnvironment, sdist: Path, wheel: Path) -> None:
    empty.pip_install("--no-deps", sdist)
    assert installed_files(empty) == packed_files(wheel)


def test_a_checkout_without_node_gives_the_magics_and_says_so(bare: CleanEnvironment, tmp_path: Path) -> None:
    checkout, environment = tmp_path / "checkout", clean_environment(tmp_path, sees=bare.packages)
    subprocess.run(["git", "clone", "-q", "--depth=1", ROOT.as_uri(), checkout], check=True)
    for name in ("hatch_build.py", "pyproject.toml"):  # as they are here, committed or not
        shutil.copy(ROOT / name, checkout / name)
    said = environment.pip_install("--verbose", "--no-deps", checkout)
    assert "tokmagic: no npm here; this build holds the magics without the sidebar" in said
    assert installed_files(environment) == {}
    code = "import IPython, tokmagic; IPython.InteractiveShell().extension_manager.load_extension('tokmagic')"
    said = environment.run("python", "-c", f"{code}; print(tokmagic.__file__)").stdout
    assert Path(said.strip()).is_relative_to(environment.folder)


def test_nothing_is_left_after_it_is_uninstalled(empty: CleanEnvironment, wheel: Path) -> None:
    before = empty.traces("")
    empty.pip_install("--no-deps", wheel)
    assert installed_files(empty)
    empty.run("python", "-c", "import tokmagic.events")
    assert list(empty.packages.glob("tokmagic/__pycache__/*.pyc"))
    empty.run("python", "-m", "pip", "uninstall", "-y", "-q", "tokmagic")
    assert empty.traces("tokmagic") == []
    left = {path for path in set(empty.traces("")) - set(before) if "__pycache__" not in path.parts}
    # pip removes the folders of modules, and leaves those that data files were in.
    assert {path.relative_to(empty.folder) for path in left} <= {SHARE.parent, *SHARE.parent.parents}


@pytest.mark.model
def test_the_wheel_generates(wheel: Path, model_home: Path, tmp_path: Path) -> None:
    """The model's packages are the project's: torch is large, and what is tried here is the wheel."""
    environment = clean_environment(tmp_path, sees=Path(sysconfig.get_path("purelib")))
    environment.pip_install("--no-deps", wheel)
    where = environment.run("python", "-c", "import tokmagic, torch; print(tokmagic.__file__)").stdout.strip()
    assert Path(where).is_relative_to(environment.folder)
    (environment.home / "prompt.txt").write_text("Say hello.")
    settings = {
        "TOKMAGIC_HOME": str(model_home),
        "TOKMAGIC_LEDGER": f"sqlite:///{environment.home}/ledger.sqlite",
        "HF_HUB_OFFLINE": "1",
    }
    ran = ["tokmagic", "run", "prompt.txt", "-m", "smollm2", "--max-tokens", "8", "--temperature", "0"]
    environment.run(*ran, **settings)
    (row,) = environment.run("tokmagic", "export", **settings).stdout.splitlines()
    run = json.loads(row)
    assert (run["status"], run["engine"], run["output_tokens"]) == ("ok", "local", 8)
    assert run["input_tokens"] == 33
