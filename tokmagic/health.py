"""``tokmagic doctor``: what works here and what does not, each with its mend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokmagic import gpu
from tokmagic.config import TokMagic
from tokmagic.engines.local_store import check_folder, locate
from tokmagic.engines.registry import Models
from tokmagic.errors import TokmagicError
from tokmagic.prices import PriceBook
from tokmagic.reconciliation import disagreement
from tokmagic.run import Session
from tokmagic.tables import Table


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``vital`` ones must be well for generation to work."""

    name: str
    ok: bool
    says: str
    mend: str = ""
    vital: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def can_generate(self) -> bool:
        """Whether every vital finding is well."""
        return all(finding.ok for finding in self.findings if finding.vital)

    def table(self) -> Table:
        """The findings as a table."""
        rows = tuple((f.name, "ok" if f.ok else "FAILS" if f.vital else "no", f.says, f.mend) for f in self.findings)
        note = "generation works here" if self.can_generate else "generation cannot work here; mend what FAILS"
        return Table(("", "", "what was found", "mend"), rows, note, figures=False)


def doctor(settings: TokMagic) -> Diagnosis:
    """Look at everything generation needs. Loads no model and downloads nothing."""
    findings: list[Finding] = []
    for check in (_packages, _model, _device, _ledger, _prices, _counts, _lab):
        try:
            findings += check(settings)
        except TokmagicError as error:
            findings.append(Finding(check.__name__.strip("_"), False, str(error)))
    return Diagnosis(tuple(findings))


def _packages(_settings: TokMagic) -> Iterator[Finding]:
    needed: list[tuple[str, bool]] = [("torch", True), ("transformers", True), ("bitsandbytes", False)]
    for package, vital in needed:
        try:
            version = importlib.metadata.version(package)
            yield Finding(package, True, version, vital=vital)
        except importlib.metadata.PackageNotFoundError:
            says = "not installed" if vital else "not installed; --quant will not work"
            yield Finding(package, False, says, "pip install 'tokmagic[local]'", vital)


def _model(settings: TokMagic) -> Iterator[Finding]:
    try:
        models = Models(settings)
        spec = models.spec(models.current)
        if spec.kind == "scripted":
            yield Finding("model", True, f"{models.engine().info.name}, which plays back a fixed answer")
            return
        located = locate(spec, settings)
        if located is not None:
            check_folder(located.folder, allow_pickle=False)
    except TokmagicError as error:
        yield Finding("model", False, str(error), "set TOKMAGIC_MODEL", vital=True)
        return
    except ImportError as error:
        yield Finding("model", False, f"needs {error.name}", "pip install 'tokmagic[local]'", vital=True)
        return
    if located is None:
        yield Finding("model", False, f"{settings.model} is not here yet; it is fetched at first use", "tokmagic pull")
    else:
        yield Finding("model", True, f"{located.model_id} ({located.origin}) in {located.folder}")


def _device(_settings: TokMagic) -> Iterator[Finding]:
    devices = gpu.devices()
    for device in devices:
        free = (device.total_bytes - device.used_bytes) / 2**30
        yield Finding(f"gpu {device.index}", True, f"{device.name}, {free:.1f} GiB free, driver {device.driver}")
    if not devices:
        mend = "in a container: docker run --gpus all"
        yield Finding("gpu", False, f"none; models run on {os.cpu_count()} CPU cores", mend)


def _ledger(settings: TokMagic) -> Iterator[Finding]:
    try:
        ledger = Session(settings).ledger()
    except TokmagicError as error:
        yield Finding("ledger", False, str(error), "runs are not recorded until this is mended")
        return
    yield Finding("ledger", True, ledger.name)
    ledger.close()
    home = settings.home_path
    where = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(where).free
    yield Finding(
        "disk",
        free > 2**30,
        f"{free / 2**30:.1f} GiB free for {home}",
        "" if free > 2**30 else "free some space",
    )


def _prices(settings: TokMagic) -> Iterator[Finding]:
    if settings.prices:
        PriceBook(lambda: settings.prices).check()
        yield Finding("prices", True, settings.prices)


def _counts(settings: TokMagic) -> Iterator[Finding]:
    try:
        ledger = Session(settings).ledger()
    except TokmagicError:
        return  # told already
    try:
        for model in ledger.endpoint_models():
            found = disagreement(ledger.compared(model))
            if found is not None:
                yield Finding(f"tokens of {model}", False, str(found), "name its own tokenizer with --tokenizer")
    finally:
        ledger.close()


def _lab(_settings: TokMagic) -> Iterator[Finding]:
    if importlib.util.find_spec("jupyterlab") is None:
        yield Finding("sidebar", False, "JupyterLab is not installed here", "pip install 'tokmagic[lab]'")
        return
    from jupyter_core.paths import jupyter_path

    folders = [Path(path) / "tokmagic" / "package.json" for path in jupyter_path("labextensions")]
    found = next((path.parent for path in folders if path.is_file()), None)
    if found is None:
        yield Finding("sidebar", False, "the extension is not installed", "reinstall tokmagic, or run: make build")
    else:
        yield Finding("sidebar", True, str(found))
