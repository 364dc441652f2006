"""The commands that these tests run, and the notebooks they run them on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.notebooks.commands import CELLS, Command, Desk, Done
from tests.notebooks.shells import InShell
from tokmagic.cli import main
from tokmagic.notebooks.reproduce import report
from tokmagic.runs import api


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``tokmagic check`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        status = main(["check", *words])
        shown = capsys.readouterr()
        return Done(status, shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def frozen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebook of CELLS, run and frozen once by a front end that tells no cell ids."""
    desk = Desk(tmp_path_factory.mktemp("frozen"))
    desk.answer()
    desk.write(*CELLS)
    desk.execute()
    return desk.folder


@pytest.fixture
def desk(frozen_folder: Path, tmp_path: Path) -> Desk:
    """A frozen notebook that a test may change."""
    return Desk(Path(shutil.copytree(frozen_folder, tmp_path / "desk")))


@pytest.fixture
def empty(tmp_path: Path) -> Desk:
    """A folder where there is no notebook yet."""
    desk = Desk(tmp_path / "desk")
    desk.folder.mkdir()
    desk.answer()
    return desk


@pytest.fixture
def reproduce_in_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``tokmagic reproduce nb.ipynb`` in the desk's folder, as people do."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def run(desk: Desk, *words: str) -> Done:
        monkeypatch.chdir(desk.folder)
        for name, value in desk.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(api, "_session", None)
        capsys.readouterr()
        status = main(["reproduce", "nb.ipynb", *words])
        api.session().close()
        shown = capsys.readouterr()
        assert not [it for it in temporary.iterdir() if it.name.startswith("tokmagic-reproduce-")]
        return Done(status, shown.out, shown.err)

    return run


@pytest.fixture
def reproduce(reproduce_in_kernel: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same, where the cells run in this process."""
    monkeypatch.setattr(report, "in_kernel", InShell)
    return reproduce_in_kernel
