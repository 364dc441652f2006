"""Where a GGUF file is, and what belongs to it: the tokenizer's folder, how it is known in the ledger."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tokmagic.core.config import TokMagic
from tokmagic.core.files import expanded
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.llamacpp import header
from tokmagic.engines.llamacpp.header import Header
from tokmagic.engines.local.splitting import SMOLLM
from tokmagic.engines.local.store import DEFAULT_MODEL_ID, NAMED, Carried, carried, locate, pull_carried, pull_tokenizer
from tokmagic.errors import ModelError
from tokmagic.tokens import vocabularies

SUFFIX = ".gguf"
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class Found:
    """A GGUF file on this machine. ``beside`` is the folder of its tokenizer and generation config, if it has one."""

    header: Header
    model_id: str
    revision: str | None
    beside: Path | None

    @property
    def fingerprint(self) -> str:
        """Stands for the revision of a file that has none: another one as soon as it was written anew."""
        stamps = [(part.name, (stat := part.stat()).st_size, stat.st_mtime_ns) for part in self.header.parts]
        return hashlib.sha256(repr((stamps, self.header.sha256)).encode()).hexdigest()


def find(spec: ModelSpec, settings: TokMagic) -> Found | None:
    """The file of ``spec``; None where the default model's must be fetched first. Raises ModelError."""
    path = expanded(spec.source)
    if path.suffix.lower() == SUFFIX:
        if not path.is_file():
            raise ModelError(f"{path} does not exist; give the path of a GGUF file")
        return Found(header.read(path), str(path), None, _with_tokenizer(path.parent))
    if _is_default(spec):
        found = carried(settings)
        return None if found is None else _of_default(found, spec, settings)
    located = locate(spec, settings)
    if located is None:
        raise ModelError(f"{spec.source} is not on this machine as a GGUF file; give the path of one")
    file = _only(located.folder)
    return Found(header.read(file), located.model_id, located.revision, _with_tokenizer(located.folder))


def fetch(spec: ModelSpec, settings: TokMagic, progress: Progress) -> Found:
    """The file of ``spec``, fetched if it is the default model's. Raises ModelError."""
    found = find(spec, settings)
    if found is not None:
        return found
    pull_tokenizer(ModelSpec(spec.source), settings, progress)
    return _of_default(pull_carried(settings, progress), spec, settings)


def tokenizer_folder(found: Found, settings: TokMagic) -> Path:
    """The folder that a file's tokenizer can be read from; its own is taken out of the file once. Raises ModelError."""
    if found.beside is not None:
        return found.beside
    head = found.header
    kept = settings.home_path / "models" / "tokenizers" / head.sha256[:32]
    if kept.is_dir():
        return kept
    advice = "put the model's tokenizer.json and tokenizer_config.json beside the file"
    if head.splitting != SMOLLM:
        raise ModelError(
            f"{head.file} has no tokenizer beside it, and its own splits text by the rules {head.splitting!r}, which "
            f"are not known here; {advice}"
        )
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            made = Path(scratch) / "made"
            command = [sys.executable, "-m", "tokmagic.engines.local.convert", "--tokenizer", str(head.file), str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                raise ModelError(f"the tokenizer in {head.file} cannot be read: {reason}; {advice}")
            made.replace(kept)
    except OSError as error:
        if not kept.is_dir():  # else another kernel was quicker
            raise ModelError(f"{kept} cannot be written: {error.strerror or error}; {advice}") from error
    return kept


def _is_default(spec: ModelSpec) -> bool:
    return NAMED.get(spec.source, spec.source) == DEFAULT_MODEL_ID and spec.revision is None


def _of_default(file: Carried, spec: ModelSpec, settings: TokMagic) -> Found:
    located = locate(ModelSpec(spec.source), settings)
    return Found(header.read(file.path), DEFAULT_MODEL_ID, file.revision, located.folder if located else None)


def _only(folder: Path) -> Path:
    files = [file for file in sorted(folder.glob(f"*{SUFFIX}")) if not _LATER_PART.search(file.name)]
    if not files:
        raise ModelError(f"{folder} holds no GGUF file; give the path of one")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{folder} holds several GGUF files ({names}); give the path of one")
    return files[0]


def _with_tokenizer(folder: Path) -> Path | None:
    return folder if any(any(folder.glob(name)) for name in vocabularies.FILES) else None
