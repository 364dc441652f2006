"""``tokmagic doctor``: what works here and what does not, each with its fix."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tokmagic.core.config import TokMagic
from tokmagic.engines import gpu
from tokmagic.engines.base import ModelSpec, Shared
from tokmagic.engines.local.store import check_folder, locate
from tokmagic.engines.registry import Models
from tokmagic.errors import TokmagicError
from tokmagic.formatting.numbers import counted
from tokmagic.health import devices
from tokmagic.health.devices import Probe, probe
from tokmagic.health.findings import Diagnosis, Finding
from tokmagic.ledgers import Outbox, is_on_a_server
from tokmagic.ledgers.outbox import files_in, kept_in
from tokmagic.prices import PriceBook
from tokmagic.runs.session import Session
from tokmagic.tokens.agreement import compare
from tokmagic.tokens.reconciliation import disagreement
from tokmagic.tokens.tokenizer import Tokenizer

__all__ = ["Diagnosis", "Finding", "Probe", "doctor", "probe"]

_ROUTES = {Path("/proc/net/route"): 0, Path("/proc/net/ipv6_route"): -1}
"""The kernel's routes, and the column with each one's device (proc(5))."""
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def doctor(settings: TokMagic, tried: Probe | None = None) -> Diagnosis:
    """Look at everything generation needs. Loads no model and downloads nothing.

    ``tried`` is what was found of torch before; without it torch is tried now, which takes seconds.
    """
    elsewhere = bool(
        settings.api_base or settings.api_key_name or settings.engine_url
    )  # then a server needs what is not vital here
    findings = [replace(finding, vital=finding.vital and not elsewhere) for finding in _torch(tried)]
    for check in (_settings, _model, _ledger, _undelivered, _prices, _counts, _lab):
        try:
            findings += check(settings)
        except TokmagicError as error:
            findings.append(Finding(check.__name__.strip("_"), False, str(error)))
    return Diagnosis(tuple(findings))


def _torch(tried: Probe | None) -> Iterator[Finding]:
    """The packages of the local engine and the devices they find."""
    torch, transformers, quantiser = (_version(name) for name in ("torch", "transformers", "bitsandbytes"))
    tried = None if torch is None else tried or probe()
    if tried is not None and tried.problem is not None:
        fix = "reinstall it: pip install --force-reinstall torch"
        yield Finding("torch", False, f"{torch} cannot be used: {tried.problem}", fix, vital=True)
        tried = None
    else:
        yield _package("torch", torch)
    yield _package("transformers", transformers)
    if quantiser is None:
        message = "not installed; --quant nf4 will not work, nor int8 on a GPU"
        yield Finding("bitsandbytes", False, message, "pip install 'tokmagic[local]'")
    elif tried is not None:
        yield devices.bitsandbytes(quantiser, tried)
    yield from devices.gpus(gpu.look(), tried)
    if tried is not None:
        yield devices.attention(tried)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, version: str | None) -> Finding:
    if version is None:
        return Finding(name, False, "not installed", "pip install 'tokmagic[local]'", vital=True)
    return Finding(name, True, version, vital=True)


def _settings(settings: TokMagic) -> Iterator[Finding]:
    try:
        settings.check()
    except TokmagicError as error:
        yield Finding("settings", False, str(error), "no prompt runs until this is fixed", vital=True)


def _model(settings: TokMagic) -> Iterator[Finding]:
    try:
        models = Models(settings)
        spec = models.spec(models.current)
        if spec.api_key_name and not os.environ.get(spec.api_key_name):
            message = f"{spec.source} needs a key, and {spec.api_key_name} is not set"
            yield Finding("model", False, message, "set it before JupyterLab starts", vital=True)
            return
        if not spec.traits.has_weights:
            engine = models.engine()
            info = engine.info
            if isinstance(engine, Shared):  # nothing is billed for the question
                known = [it.name for it in engine.served()]
                if spec.source not in known:
                    message = f"{spec.source} is not served at {info.server}; known: {', '.join(known)}"
                    yield Finding("model", False, message, "set TOKMAGIC_MODEL to one of these", vital=True)
                    return
            does = f"at {info.server}" if info.server else "which plays back a fixed answer"
            yield Finding("model", True, f"{info.name}, {does}")
            yield from _tokenizer(spec, settings)
            return
        located = locate(spec, settings)
        if located is not None:
            check_folder(located.folder, allow_pickle=False)
    except TokmagicError as error:
        itself = settings.api_base or settings.api_key_name or settings.engine_url  # then it says how
        fix = "" if itself else "set TOKMAGIC_MODEL"
        yield Finding("model", False, str(error), fix, vital=True)
        return
    except ImportError as error:
        yield Finding("model", False, f"needs {error.name}", "pip install 'tokmagic[local]'", vital=True)
        return
    if located is not None:
        yield Finding("model", True, f"{located.model_id} ({located.origin}) in {located.folder}")
        yield from _tokenizer(spec, settings)
    elif has_network():
        yield Finding("model", False, f"{settings.model} is not here yet; it is fetched at first use", "tokmagic pull")
    else:
        message = f"{settings.model} is not here yet, and there is no network to fetch it"
        fix = "start once with a network, or put the model into the data folder"
        yield Finding("model", False, message, fix, vital=True)


def _tokenizer(spec: ModelSpec, settings: TokMagic) -> Iterator[Finding]:
    """What counts for a model, if it is here, and whether others would count alike."""
    named = spec if spec.traits.has_weights else spec.of_tokenizer
    try:
        located = locate(named, settings) if named is not None else None
        if located is None:
            return
        tokenizer = Tokenizer(located.folder, trust_remote_code=spec.trust_remote_code)
    except TokmagicError as error:
        yield Finding("tokenizer", False, str(error), "fetch the model again", vital=spec.traits.has_weights)
        return
    agreement = compare(tokenizer)
    told = tokenizer.origin if agreement is None else f"{tokenizer.origin}; {agreement.told}"
    if agreement is None or agreement.agrees is not False:
        yield Finding("tokenizer", True, told)
    else:
        yield Finding("tokenizer", False, told, "servers that count as transformers does will report other counts")


def has_network() -> bool:
    """Whether any device but the loopback has a route, or a proxy is set; True where that is unknown. Sends nothing."""
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    try:
        tables = [(path.read_text(encoding="ascii"), column) for path, column in _ROUTES.items() if path.exists()]
    except OSError:
        return True
    reached = {line.split()[column] for table, column in tables for line in table.splitlines() if line.strip()}
    return not tables or bool(reached - {"lo", "Iface"})


def _ledger(settings: TokMagic) -> Iterator[Finding]:
    try:
        ledger = Session(settings).ledger()
    except TokmagicError as error:
        yield Finding("ledger", False, str(error), "runs are not recorded until this is fixed")
        return
    with closing(ledger):
        damage = ledger.damage()
    if damage is None:
        yield Finding("ledger", True, ledger.name)
    else:
        yield Finding("ledger", False, damage, "runs may be lost until this is fixed")
    home = settings.home_path
    where = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(where).free
    ok = free > 2**30
    yield Finding("disk", ok, f"{free / 2**30:.1f} GiB free for {home}", "" if ok else "free some space")


def _undelivered(settings: TokMagic) -> Iterator[Finding]:
    """What waits for a server's ledger: what is kept for another address than today's is delivered by nobody."""
    own = kept_in(settings.home_path, settings.ledger) if is_on_a_server(settings.ledger) else None
    for path in files_in(settings.home_path):
        waiting = Outbox(path, store_text=settings.store_text).count()
        runs = counted(waiting, "run")
        if waiting and path == own:
            fix = "the next run delivers them once the ledger can be reached"
            yield Finding("undelivered", False, f"{runs} in {path} for this ledger", fix)
        elif waiting:
            fix = f"tokmagic ledger deliver {shlex.quote(str(path))} puts them into this one"
            yield Finding("undelivered", False, f"{runs} in {path} for a ledger at another address than today's", fix)


def _prices(settings: TokMagic) -> Iterator[Finding]:
    if settings.prices:
        PriceBook(lambda: settings.prices).check()
        yield Finding("prices", True, settings.prices)


def _counts(settings: TokMagic) -> Iterator[Finding]:
    try:
        ledger = Session(settings).ledger()
    except TokmagicError:
        return  # told already
    with closing(ledger):
        for model in ledger.endpoint_models():
            found = disagreement(ledger.compared(model))
            if found is not None:
                yield Finding(f"tokens of {model}", False, found, "name its own tokenizer with --tokenizer")


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
