"""``tokmagic doctor``: what it finds amiss, and that nothing hides the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tokmagic import api, gpu
from tokmagic.cli import main
from tokmagic.config import TokMagic
from tokmagic.health import Diagnosis, Finding, doctor

ALWAYS = ["torch", "transformers", "bitsandbytes", "model", "gpu", "ledger", "disk", "sidebar"]
Look = Callable[..., Diagnosis]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Look at a fresh data folder, on a machine without a GPU; settings by keyword."""
    monkeypatch.setattr(gpu, "devices", list)

    def run(**settings: str) -> Diagnosis:
        return doctor(TokMagic(**{"home": str(tmp_path / "home"), **settings}))

    return run


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    (found,) = [found for found in diagnosis.findings if found.name == name]
    return found


def test_everything_is_looked_at_in_order(look: Look) -> None:
    diagnosis = look()
    assert [found.name for found in diagnosis.findings] == ALWAYS
    assert [found.name for found in diagnosis.findings if found.vital] == ["torch", "transformers"]
    assert diagnosis.can_generate
    for found in diagnosis.findings:
        assert found.ok or found.mend, found


def test_a_model_that_is_not_here_yet_can_be_fetched(look: Look, tmp_path: Path) -> None:
    diagnosis = look()
    model = finding(diagnosis, "model")
    assert (model.ok, model.mend, model.vital) == (False, "tokmagic pull", False)
    assert model.says == "smollm2 is not here yet; it is fetched at first use"
    assert diagnosis.can_generate
    assert not (tmp_path / "home" / "models").exists()


def test_a_model_that_is_here_is_told_with_its_place(look: Look, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}", encoding="utf-8")
    model = finding(look(model=str(folder)), "model")
    assert (model.ok, model.says) == (True, f"{folder} (folder) in {folder}")
    scripted = finding(look(model="scripted"), "model")
    assert (scripted.ok, scripted.says) == (True, "scripted, which plays back a fixed answer")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smolm2", "did you mean smollm2"),
        ("{folder}/gone", "does not exist"),
        ("{folder}/file", "is a file"),
        ("{folder}", "has no config.json"),
        ("{folder}/bare", "has no weights"),
        ("{folder}/pickled", "--allow-pickle"),
        ("scripted:{folder}/gone", "is no script"),
        ("x/y@", "is no model"),
    ],
)
def test_a_model_that_cannot_run_is_vital(look: Look, tmp_path: Path, model: str, says: str) -> None:
    (tmp_path / "file").touch()
    for name, files in {"bare": ["config.json"], "pickled": ["config.json", "pytorch_model.bin"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    diagnosis = look(model=model.format(folder=tmp_path))
    found = finding(diagnosis, "model")
    assert (found.ok, found.vital, found.mend) == (False, True, "set TOKMAGIC_MODEL")
    assert says in found.says
    assert not diagnosis.can_generate
    assert [found.name for found in diagnosis.findings] == ALWAYS
    assert "FAILS" in repr(diagnosis.table())
    assert diagnosis.table().note == "generation cannot work here; mend what FAILS"


@pytest.mark.parametrize(("package", "vital"), [("torch", True), ("transformers", True), ("bitsandbytes", False)])
def test_a_missing_package(look: Look, monkeypatch: pytest.MonkeyPatch, package: str, vital: bool) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    diagnosis = look()
    found = finding(diagnosis, package)
    assert (found.ok, found.vital, found.mend) == (False, vital, "pip install 'tokmagic[local]'")
    assert found.says.startswith("not installed")
    assert diagnosis.can_generate is not vital


def broken(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    connection.close()


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [broken, newer, a_folder])
def test_a_broken_ledger_is_told_and_left_as_it_is(look: Look, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "ledger.sqlite"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    diagnosis = look(ledger=f"sqlite:///{path}")
    found = finding(diagnosis, "ledger")
    assert (found.ok, found.mend) == (False, "runs are not recorded until this is mended")
    assert "\n" not in found.says
    assert before is None or path.read_bytes() == before
    assert diagnosis.can_generate, "generation works without a ledger"
    assert finding(diagnosis, "sidebar").says


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@127.0.0.1:1/d"])
def test_a_ledger_that_cannot_be_reached_shows_no_password(look: Look, url: str) -> None:
    diagnosis = look(ledger=url)
    assert not finding(diagnosis, "ledger").ok
    assert "hunter2" not in repr(diagnosis)
    assert diagnosis.can_generate


def test_a_data_folder_that_cannot_be_made(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    diagnosis = look(home=str(tmp_path / "file" / "home"))
    assert not finding(diagnosis, "ledger").ok
    assert finding(diagnosis, "sidebar").says


@pytest.mark.parametrize(("free", "ok"), [(5 * 2**30, True), (2**30, False), (0, False)])
def test_a_full_disk(look: Look, monkeypatch: pytest.MonkeyPatch, free: int, ok: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(free, 0, free))
    disk = finding(look(), "disk")
    assert (disk.ok, disk.mend) == (ok, "" if ok else "free some space")
    assert disk.says.startswith(f"{free / 2**30:.1f} GiB free for ")


def test_gpus_are_listed(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    none = finding(look(), "gpu")
    assert none.ok is False
    assert none.says.startswith("none; models run on ")
    pair = [gpu.Gpu(0, "A", 24 * 2**30, 2**30, "550.1"), gpu.Gpu(1, "B", 8 * 2**30, 8 * 2**30, "550.1")]
    monkeypatch.setattr(gpu, "devices", lambda: pair)
    diagnosis = look()
    assert finding(diagnosis, "gpu 0").says == "A, 23.0 GiB free, driver 550.1"
    assert finding(diagnosis, "gpu 1").says == "B, 0.0 GiB free, driver 550.1"


def test_the_sidebar_is_looked_for_where_jupyter_looks(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *parts: [str(tmp_path.joinpath(*parts))])
    assert finding(look(), "sidebar").says == "the extension is not installed"
    package = tmp_path / "labextensions" / "tokmagic" / "package.json"
    package.parent.mkdir(parents=True)
    package.touch()
    assert (finding(look(), "sidebar").ok, finding(look(), "sidebar").says) == (True, str(package.parent))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert finding(look(), "sidebar").mend == "pip install 'tokmagic[lab]'"


@pytest.mark.parametrize(("model", "status"), [("scripted", 0), ("/none", 1)])
def test_the_commands_json(
    look: Look,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    status: int,
) -> None:
    monkeypatch.setattr(api, "_session", None)
    monkeypatch.setenv("TOKMAGIC_HOME", str(tmp_path))
    monkeypatch.setenv("TOKMAGIC_MODEL", model)
    assert main(["doctor", "--json"]) == status
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert list(shown) == ["can_generate", "findings"]
    assert shown["can_generate"] is (status == 0)
    assert [found["name"] for found in shown["findings"]] == ALWAYS
    for found in shown["findings"]:
        assert {key: type(value) for key, value in found.items()} == {
            "name": str,
            "ok": bool,
            "says": str,
            "mend": str,
            "vital": bool,
        }
