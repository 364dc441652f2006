"""``tokmagic doctor``: the problems it finds, and that nothing hides the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import pre_tokenizers

from tests.conftest import ROOT
from tests.ledgers.test_store import run
from tests.probes import ON_CPU
from tests.small_tokenizers import byte_level, save
from tokmagic import health
from tokmagic.cli import main
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message
from tokmagic.engines import gpu
from tokmagic.formatting.numbers import counted
from tokmagic.health import Diagnosis, Finding, Probe, doctor
from tokmagic.ledgers import Ledger, Outbox
from tokmagic.ledgers.outbox import kept_in
from tokmagic.prices.devices import cpus
from tokmagic.runs import api

ALWAYS = ["torch", "transformers", "bitsandbytes", "gpu", "attention", "model", "ledger", "disk", "sidebar"]
Look = Callable[..., Diagnosis]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Look at a fresh data folder, on a machine without a GPU; settings by keyword."""
    monkeypatch.setattr(gpu, "look", lambda: gpu.Gpus(absence="no library"))
    monkeypatch.setattr(gpu, "host_has_driver", lambda: False)

    def run(tried: Probe = ON_CPU, **settings: str) -> Diagnosis:
        return doctor(TokMagic(**{"home": str(tmp_path / "home"), **settings}), tried)

    return run


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    (found,) = [found for found in diagnosis.findings if found.name == name]
    return found


def test_everything_is_looked_at_in_order(look: Look) -> None:
    diagnosis = look()
    assert [found.name for found in diagnosis.findings] == ALWAYS
    assert [found.name for found in diagnosis.findings if found.vital] == ["torch", "transformers"]
    assert finding(diagnosis, "bitsandbytes").message.endswith(", nf4 on cpu")
    assert finding(diagnosis, "attention").message == "flash, math on cpu"
    assert diagnosis.can_generate
    for found in diagnosis.findings:
        assert found.ok or found.fix, found


def test_a_model_that_is_not_here_yet_can_be_fetched(look: Look, tmp_path: Path) -> None:
    diagnosis = look()
    model = finding(diagnosis, "model")
    assert (model.ok, model.fix, model.vital) == (False, "tokmagic pull", False)
    assert model.message == "smollm2 is not here yet; it is fetched at first use"
    assert diagnosis.can_generate
    assert not (tmp_path / "home" / "models").exists()


@pytest.mark.slow
def test_a_model_that_is_here_is_told_with_its_place(look: Look, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}", encoding="utf-8")
    model = finding(look(model=str(folder)), "model")
    assert (model.ok, model.message) == (True, f"{folder} (folder) in {folder}")
    scripted = finding(look(model="scripted"), "model")
    assert (scripted.ok, scripted.message) == (True, "scripted, which plays back a fixed answer")


def a_model(folder: Path, tokenizer_class: str = "PreTrainedTokenizerFast") -> Path:
    """A folder that holds a model by name, and a tokenizer with rules of its own."""
    made = byte_level(["1 22 333 one two three " * 20], size=500)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    save(folder, made)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("settings", "kind", "agrees"),
    [
        ({"model": "{folder}"}, "PreTrainedTokenizerFast", True),
        ({"model": "{folder}"}, "GPT2Tokenizer", False),
        ({"model": "m", "api_base": "http://localhost:9/v1", "tokenizer": "{folder}"}, "GPT2Tokenizer", False),
    ],
)
def test_a_tokenizer_is_told_with_whether_transformers_would_count_alike(
    look: Look, tmp_path: Path, settings: dict[str, str], kind: str, agrees: bool
) -> None:
    folder = str(a_model(tmp_path / "mine", kind))
    diagnosis = look(**{name: value.format(folder=folder) for name, value in settings.items()})
    found = finding(diagnosis, "tokenizer")
    assert found.message.startswith("tokenizer.json, read by tokenizers; transformers ")
    assert ("makes the same ids" if agrees else "makes other ids of") in found.message
    assert (found.ok, bool(found.fix), found.vital) == (agrees, not agrees, False)
    assert diagnosis.can_generate


def test_a_tokenizer_that_cannot_be_read_is_vital(look: Look, tmp_path: Path) -> None:
    folder = a_model(tmp_path / "mine")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    found = finding(look(model=str(folder)), "tokenizer")
    assert (found.ok, found.vital) == (False, True)
    assert found.message.startswith(f"{folder} has no readable tokenizer: ")


def test_without_transformers_nothing_is_compared(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package == "transformers":
            raise importlib.metadata.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = finding(look(model=str(a_model(tmp_path / "mine"))), "tokenizer")
    assert (found.ok, found.message) == (True, "tokenizer.json, read by tokenizers")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smolm2", "did you mean smollm2"),
        ("{folder}/gone", "does not exist"),
        ("{folder}/file", "is a file"),
        ("{folder}", "has no config.json"),
        ("{folder}/bare", "has no weights"),
        ("{folder}/pickled", "--allow-pickle"),
        ("scripted:{folder}/gone", "is not a script"),
        ("x/y@", "is not a model"),
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
    assert (found.ok, found.vital, found.fix) == (False, True, "set TOKMAGIC_MODEL")
    assert says in found.message
    assert not diagnosis.can_generate
    assert [found.name for found in diagnosis.findings] == ALWAYS
    assert "FAILS" in repr(diagnosis.table())
    assert diagnosis.table().note == "generation cannot work here; fix what FAILS"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api_base": "nowhere"}, "TOKMAGIC_API_BASE: 'nowhere' is not a server URL; give one such as"),
        (
            {"api_base": "http://localhost:9/v1", "server": "vlm"},
            "TOKMAGIC_SERVER 'vlm' is unknown (did you mean vllm?)",
        ),
        ({"api_key_name": "NO_SUCH_KEY"}, "m needs a key, and NO_SUCH_KEY is not set"),
    ],
)
def test_a_server_that_cannot_be_asked_is_told_by_its_settings(look: Look, settings: dict[str, str], says: str) -> None:
    diagnosis = look(model="m", **settings)
    found = finding(diagnosis, "model")
    assert (found.ok, found.vital) == (False, True)
    assert found.message.startswith(says)
    assert "TOKMAGIC_MODEL" not in found.fix, "which is right"
    assert not diagnosis.can_generate


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
    assert (found.ok, found.vital, found.fix) == (False, vital, "pip install 'tokmagic[local]'")
    assert found.message.startswith("not installed")
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


def page_lost(path: Path, page: int) -> None:
    data = bytearray(path.read_bytes())
    data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        *(partial(page_lost, page=page) for page in (3, 6, 9, 12, 15)),
        lambda path: path.write_bytes(path.read_bytes()[:-20_000]),
        lambda path: path.write_bytes(path.read_bytes()[:-8192] + b"\xff" * 8192),
    ],
)
def test_damage_anywhere_in_a_ledger_is_found(look: Look, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(f"sqlite:///{path}")) as ledger:
        for _ in range(60):
            ledger.settle(run(), [Message("user", "many words " * 100)], "an answer")
    assert finding(look(ledger=f"sqlite:///{path}"), "ledger").ok
    spoil(path)
    found = finding(look(ledger=f"sqlite:///{path}"), "ledger")
    assert not found.ok
    assert f"{path} is damaged" in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize("spoil", [broken, newer, a_folder])
def test_a_broken_ledger_is_told_and_left_as_it_is(look: Look, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "ledger.sqlite"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    diagnosis = look(ledger=f"sqlite:///{path}")
    found = finding(diagnosis, "ledger")
    assert (found.ok, found.fix) == (False, "runs are not recorded until this is fixed")
    assert "\n" not in found.message
    assert before is None or path.read_bytes() == before
    assert diagnosis.can_generate, "generation works without a ledger"
    assert finding(diagnosis, "sidebar").message


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@127.0.0.1:1/d"])
def test_a_ledger_that_cannot_be_reached_shows_no_password(look: Look, url: str) -> None:
    diagnosis = look(ledger=url)
    assert not finding(diagnosis, "ledger").ok
    assert "hunter2" not in repr(diagnosis)
    assert diagnosis.can_generate


def test_runs_that_wait_for_a_ledger_at_another_address_are_told(look: Look, tmp_path: Path) -> None:
    """As a pooler's and then the server's own."""
    home, pooler = tmp_path / "home", "postgresql://127.0.0.1:9/books"
    assert not [it for it in look().findings if it.name == "undelivered"]
    Outbox.of(home, pooler, store_text=True).keep(run("waits"), (), None)
    kept = kept_in(home, pooler)
    found = finding(look(), "undelivered")
    assert (found.ok, found.vital) == (False, False)
    assert found.message == f"1 run in {kept} for a ledger at another address than today's"
    assert found.fix == f"tokmagic ledger deliver {kept} puts them into this one"
    own = finding(look(ledger=pooler), "undelivered")
    assert own.message == f"1 run in {kept} for this ledger"
    assert own.fix == "the next run delivers them once the ledger can be reached"


def test_a_data_folder_that_cannot_be_made(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    diagnosis = look(home=str(tmp_path / "file" / "home"))
    assert not finding(diagnosis, "ledger").ok
    assert finding(diagnosis, "sidebar").message


@pytest.mark.parametrize(("free", "ok"), [(5 * 2**30, True), (2**30, False), (0, False)])
def test_a_full_disk(look: Look, monkeypatch: pytest.MonkeyPatch, free: int, ok: bool) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(free, 0, free))
    disk = finding(look(), "disk")
    assert (disk.ok, disk.fix) == (ok, "" if ok else "free some space")
    assert disk.message.startswith(f"{free / 2**30:.1f} GiB free for ")


PAIR = (
    gpu.Gpu(0, "A", 24 * 2**30, 2**30, "550.1"),
    gpu.Gpu(1, "B", 8 * 2**30, 8 * 2**30, "550.1"),
)
BUSY = gpu.Gpu(
    1,
    "A MIG 1g",
    16 * 2**30,
    5 * 2**30,
    "580.1",
    instance=2,
    load=gpu.Load(0.37, 0.1, 250.5, 700.0, 41, 1980, 3201),
    processes={17: 4 * 2**30},
)
ON_GPU = Probe(
    cuda="12.8",
    devices=("A", "B"),
    device="cuda",
    attention=("flash", "cuDNN", "memory-efficient", "math"),
    bitsandbytes={"nf4": None, "int8": None},
)


def test_gpus_that_torch_can_use(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "look", lambda: gpu.Gpus(PAIR, "550.1", "12.4"))
    diagnosis = look(ON_GPU, model="scripted")
    assert finding(diagnosis, "gpu 0").message == "A, 23.0 GiB free, driver 550.1"
    assert finding(diagnosis, "gpu 1").message == "B, 0.0 GiB free, driver 550.1"
    assert finding(diagnosis, "cuda").message == "torch is built for 12.8, the driver runs up to 12.4"
    assert finding(diagnosis, "attention").message == "flash, cuDNN, memory-efficient, math on cuda"
    assert list(diagnosis.problems()) == []


def test_how_busy_a_gpu_is_and_what_it_draws(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "look", lambda: gpu.Gpus((PAIR[0], BUSY), "580.1", "13.0"))
    diagnosis = look(ON_GPU, model="scripted")
    assert finding(diagnosis, "gpu 1:2").message == (
        "A MIG 1g, 11.0 GiB free, driver 580.1, 4.0 GiB held by processes, 37% busy, 250 of 700 W, 41 °C, 1,980 MHz"
    )
    assert finding(diagnosis, "gpu 0").message == "A, 23.0 GiB free, driver 550.1", "what is unknown is not there"


@pytest.mark.parametrize(
    ("seen", "tried", "says", "mend"),
    [
        (gpu.Gpus(PAIR, "550.1", "12.4"), ON_CPU, "built for CPUs only", "built for CUDA"),
        (
            gpu.Gpus(PAIR, "470.82.01", "11.4"),
            replace(ON_CPU, cuda="12.8", cuda_says="The NVIDIA driver on your system is too old"),
            "driver 470.82.01 runs CUDA up to 11.4, and torch needs 12.8",
            "update NVIDIA's driver",
        ),
        (
            gpu.Gpus(PAIR, "580.1", "13.0"),
            replace(ON_CPU, cuda="12.8", cuda_says="CUDA error: no kernel image is available for execution"),
            "torch cannot use the GPU: CUDA error: no kernel image is available",
            "this GPU's generation",
        ),
        (
            gpu.Gpus(PAIR, "580.1", "13.0"),
            replace(ON_CPU, cuda="12.8", cuda_says="CUDA error: out of memory"),
            "the GPU's memory is full: CUDA error: out of memory",
            "nvidia-smi",
        ),
    ],
)
def test_gpus_that_torch_cannot_use(
    look: Look, monkeypatch: pytest.MonkeyPatch, seen: gpu.Gpus, tried: Probe, says: str, mend: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu, "look", lambda: seen)
    diagnosis = look(tried, model="scripted")
    found = finding(diagnosis, "cuda")
    assert (found.ok, found.vital) == (False, False)
    assert says in found.message
    assert mend in found.fix
    assert list(diagnosis.problems()) == [f"cuda: {found.message}; {found.fix}"]


def test_hidden_gpus(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "look", lambda: gpu.Gpus(PAIR, "550.1", "12.4"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = finding(look(replace(ON_CPU, cuda="12.8")), "cuda")
    assert found.message.startswith("CUDA_VISIBLE_DEVICES='' hides every GPU")
    assert found.fix == "unset it"


def test_kernels_that_do_not_run(look: Look) -> None:
    slow = finding(look(replace(ON_CPU, attention=("math",))), "attention")
    assert (slow.ok, slow.vital) == (False, False)
    assert slow.message.startswith("only math on cpu")
    none = look(replace(ON_CPU, attention=()))
    assert not none.can_generate
    half = finding(look(replace(ON_CPU, bitsandbytes={"nf4": "no library for CUDA 12.8"})), "bitsandbytes")
    assert (half.ok, half.vital) == (False, False)
    assert half.message.endswith(", but --quant nf4 will not work on cpu: no library for CUDA 12.8")


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokmagic.cli", "doctor", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOKMAGIC_MODEL": "scripted", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_what_torch_really_does_here(tmp_path: Path) -> None:
    done = command("--json", TOKMAGIC_HOME=str(tmp_path))
    found = {it["name"]: it for it in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0
    assert found["attention"]["ok"]
    assert "math" in found["attention"]["says"]
    assert found["bitsandbytes"]["says"].partition(", ")[2].startswith(("nf4 on cpu", "nf4 and int8 on "))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('libcudnn.so.9: cannot open shared object file')", "libcudnn.so.9: cannot open shared"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process ended with status -11"),
        ("raise SystemExit(0)", "its process ended with status 0"),
        ("import os; os.write(2, b'libx\\xff\\n'); os._exit(1)", "libx\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_vital(tmp_path: Path, code: str, says: str) -> None:
    package = tmp_path / "first" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code, encoding="utf-8")
    done = command("--brief", TOKMAGIC_HOME=str(tmp_path), PYTHONPATH=f"{package.parent}:{ROOT}")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("torch: ")]
    assert says in line
    assert line.endswith("reinstall it: pip install --force-reinstall torch")


@pytest.mark.slow
def test_what_libraries_write_to_stdout_does_not_hide_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    shadow = "import os; os.write(1, b'initialised\\n'); raise ImportError('none')"
    (tmp_path / "first" / "bitsandbytes.py").write_text(shadow, encoding="utf-8")
    done = command("--brief", TOKMAGIC_HOME=str(tmp_path), PYTHONPATH=f"{tmp_path / 'first'}:{ROOT}")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("bitsandbytes: ")]
    assert re.search(r", but --quant nf4( and int8)? will not work on ", line)


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnvidia-ml.so.1 that answers as the environment says."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to build a stand-in for NVIDIA's library with")
    folder = tmp_path_factory.mktemp("nvml")
    source = ROOT / "tests" / "fixtures" / "nvml.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def asked(folder: Path, code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_what_nvidias_library_says_is_stamped_on_every_row(nvml: Path) -> None:
    code = "from tokmagic.runs.environment import environment as e; import json; print(json.dumps(dict(e())))"
    answers = {"NVML_DEVICES": "2", "NVML_DRIVER": "550.54.15", "NVML_CUDA": "12040"}
    image = {"TOKMAGIC_IMAGE": "tokmagic:1@abc", "TOKMAGIC_IMAGE_BASE": "pytorch:2"}
    stamps = json.loads(asked(nvml, code, **answers, **image))
    assert (stamps["driver"], stamps["gpu"]) == ("550.54.15", "NVIDIA Test 0")
    assert (stamps["image"], stamps["image_base"]) == ("tokmagic:1@abc", "pytorch:2")
    assert stamps["torch"] == importlib.metadata.version("torch")
    bare = json.loads(asked(nvml, code, NVML_FAILS="12"))
    assert not {"driver", "gpu", "image", "image_base"} & set(bare)


def test_what_nvidias_library_says_is_found(nvml: Path) -> None:
    shown = "g.absence, g.driver, g.cuda, *(d.name for d in g.devices)"
    code = f"from tokmagic.engines import gpu; g = gpu.look(); print({shown})"
    answers = {"NVML_DEVICES": "1", "NVML_DRIVER": "550.54.15", "NVML_CUDA": "12040"}
    assert asked(nvml, code, **answers) == "None 550.54.15 12.4 NVIDIA Test 0"
    assert asked(nvml, code, **answers | {"NVML_DEVICES": "0"}) == "no device 550.54.15 12.4"
    for fails, absence in {"4": "no permission", "9": "no driver", "18": "mismatch", "999": "error"}.items():
        assert asked(nvml, code, NVML_FAILS=fails) == f"{absence} None None"


FULL = {"NVML_DEVICES": "2", "NVML_DRIVER": "580.1", "NVML_CUDA": "13000", "NVML_FULL": "1"}


def test_the_real_binding_reads_all_that_is_asked(nvml: Path) -> None:
    """By its own structures, as the driver's library fills them."""
    code = """
from tokmagic.engines import gpu
from tokmagic.engines.energy import energy_meter
for it in gpu.look().devices:
    print(it.label, it.uuid, it.used_bytes, it.reserved_bytes, it.load, it.processes, sep="|")
meter = energy_meter("cuda:1")
print(meter.name, meter.joules(), meter.is_shared())
"""
    first, second, meter = asked(nvml, code, **FULL, CUDA_DEVICE_ORDER="PCI_BUS_ID").splitlines()
    load = str(gpu.Load(0.37, 0.12, 250.5, 700.0, 41, 1980, 3201))
    told = ["1", "GPU-00000001-aaaa-bbbb-cccc-000000000000", str(2**30), str(2**29), load, str({17: 2**29})]
    assert second.split("|") == told
    assert first.startswith("0|GPU-00000000-")
    # 64 bits of millijoules; the one process that is listed must be this one.
    assert meter == "NVML energy counter 6000000001.236 False"


def test_the_real_binding_reads_mig_instances(nvml: Path) -> None:
    code = "from tokmagic.engines import gpu; print(*((it.label, it.name) for it in gpu.look().devices), sep='|')"
    names = ["('0:0', 'NVIDIA Test 100')", "('0:1', 'NVIDIA Test 200')"]
    assert asked(nvml, code, **FULL | {"NVML_DEVICES": "1", "NVML_INSTANCES": "2"}).split("|") == names


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("18", "the driver's library does not match the version that the host's kernel has loaded"),
        ("9", "NVIDIA's driver is not loaded on the host"),
        ("4", "this user may not open the GPU's device files"),
        ("999", "the driver does not answer: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_work_is_one_line(
    look: Look, monkeypatch: pytest.MonkeyPatch, nvml: Path, fails: str, line: str
) -> None:
    code = "from tokmagic.engines import gpu; g = gpu.look(); print(g.absence, g.says, sep='|')"
    absence, _, says = asked(nvml, code, NVML_FAILS=fails).partition("|")
    monkeypatch.setattr(gpu, "look", lambda: gpu.Gpus(absence=absence, says=says))  # type: ignore[arg-type]
    (brief,) = look(model="scripted").problems()
    assert brief.startswith(f"gpu: none: {line}; models run on ")
    assert brief.count("; ") >= 2


def test_the_cores_are_those_that_the_container_may_use(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 999)  # the host's
    assert f"models run on {counted(cpus(), 'CPU core')}" in finding(look(), "gpu").message


def test_a_container_without_its_hosts_gpu(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "host_has_driver", lambda: True)
    found = finding(look(), "gpu")
    assert found.message.startswith("none: the host has NVIDIA's driver, but no GPU was given to this container")
    assert "--gpus all" in found.fix


def test_a_model_that_cannot_be_fetched_without_a_network(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "has_network", lambda: False)
    found = finding(look(), "model")
    assert (found.ok, found.vital) == (False, True)
    assert "there is no network to fetch it" in found.message


def test_the_sidebar_is_looked_for_where_jupyter_looks(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *parts: [str(tmp_path.joinpath(*parts))])
    assert finding(look(), "sidebar").message == "the extension is not installed"
    package = tmp_path / "labextensions" / "tokmagic" / "package.json"
    package.parent.mkdir(parents=True)
    package.touch()
    assert (finding(look(), "sidebar").ok, finding(look(), "sidebar").message) == (True, str(package.parent))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert finding(look(), "sidebar").fix == "pip install 'tokmagic[lab]'"


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
    monkeypatch.setattr(health, "probe", lambda: ON_CPU)
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
