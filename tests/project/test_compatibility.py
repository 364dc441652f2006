"""What an earlier version left is honoured: its ledger, notebooks and files, and every name that people use.

What is in fixtures/before was written by that version alone; make_fixtures.py there says how, and export.jsonl which
one it was. No test changes it: each works on a copy.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import sqlite3
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import platformdirs
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import tokmagic
from tests.documented import PARSERS
from tests.examples import first
from tests.kernels import Kernel, running_kernel
from tests.small_tokenizers import split_as_gpt2
from tokmagic import errors, events, ledgers, prices
from tokmagic.cli import main
from tokmagic.cli.command import parser
from tokmagic.core import config
from tokmagic.runs import api

generations = sys.modules[tokmagic.Generation.__module__]

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "tests" / "fixtures" / "before"
WIRE = ROOT / "tests" / "fixtures" / "wire"
HERE = "/notebooks/notebook.ipynb"
"""The notebook's path as the ledger has it; there is no such folder."""
PRICED_AT = 1_790_000_000
"""When the price file was last changed, which prices name."""


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Desk:
    """A folder of its own with settings of its own, where somebody called tester works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LOGNAME": "tester",
            "TZ": "UTC",
            "HF_HUB_OFFLINE": "1",
            "TOKMAGIC_CONFIG": os.devnull,
            "TOKMAGIC_HOME": str(self.folder / "home"),
            "TOKMAGIC_LEDGER": f"sqlite:///{self.folder}/ledger.sqlite",
            "TOKMAGIC_PRICES": str(self.folder / "prices.toml"),
        }

    @contextmanager
    def settled(self, **more: str) -> Iterator[None]:
        """Be there, with these settings and no others, in a process that has not worked with tokmagic yet."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TOKMAGIC_")}
        with (
            patch.dict(os.environ, {**ours, **self.environment, **more}, clear=True),
            patch.object(api, "_session", None),
            chdir(self.folder),
        ):
            time.tzset()
            try:
                yield
            finally:
                if api._session is not None:
                    api._session.close()
        time.tzset()

    def run(self, *words: str, text: str = "", **more: str) -> Done:
        """Run the command."""
        out, err = io.StringIO(), io.StringIO()
        given = patch.object(sys, "stdin", io.StringIO(text))
        with self.settled(**more), given, redirect_stdout(out), redirect_stderr(err):
            try:
                status = main(words)
            except SystemExit as leaving:
                status = int(leaving.code or 0)
        return Done(status, out.getvalue(), err.getvalue())

    def export(self, **more: str) -> list[str]:
        """The lines of the ledger's export."""
        done = self.run("export", **more)
        assert (done.status, done.err) == (0, "")
        return done.out.splitlines()


def kept(name: str) -> str:
    """What the earlier version wrote."""
    return (BEFORE / name).read_text(encoding="utf-8")


ADDED = {
    ', "key": null, "team": null, "client_run_id": null, "duplicate": false}': "}",
    ",key,team,client_run_id,duplicate": "",
    ",,,,false": "",
}
"""What lines of an export end with since, if there was no shared engine, and what they ended with before."""


def as_exported(lines: list[str]) -> list[str]:
    """Lines of an export as the earlier version wrote them."""
    ends = [next((end for end in ADDED if line.endswith(end)), "") for line in lines]
    return [line.removesuffix(end) + ADDED.get(end, "") for line, end in zip(lines, ends, strict=True)]


SENTENCES = ("problems", "missing")
"""Fields for people to read: they may be put in other words, but not come or go."""


def lost(before: Any, now: Any, at: str = "", *, names: bool = False) -> list[str]:
    """What of ``before`` is not in ``now`` any more; there may be more fields, and in lists of ``names`` more names."""
    if isinstance(before, dict) and isinstance(now, dict):
        gone = [f"{at}/{key} is gone" for key in before if key not in now]
        there = [key for key in before if key in now]
        told = [key for key in there if key not in SENTENCES or not before[key] or not now[key]]
        return gone + [it for key in told for it in lost(before[key], now[key], f"{at}/{key}", names=names)]
    if isinstance(before, list) and isinstance(now, list):
        if names and before and all(isinstance(it, str) for it in before):
            rest = iter(now)
            return [f"{at} has no {it} in its place" for it in before if it not in rest]
        if len(before) == len(now):
            pairs = enumerate(zip(before, now, strict=True))
            return [it for place, (one, other) in pairs for it in lost(one, other, f"{at}/{place}", names=names)]
    same = type(before) is type(now) and before == now
    return [] if same else [f"{at} was {json.dumps(before)[:200]} and is {json.dumps(now, default=str)[:200]}"]


def copied(source: Path, folder: Path) -> Desk:
    """A desk with a copy of all that the earlier version left."""
    shutil.copytree(source, folder)
    os.utime(folder / "prices.toml", (PRICED_AT, PRICED_AT))
    return Desk(folder)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return copied(BEFORE, tmp_path / "desk")


# The ledger


REPORTS = {
    **{f"report-by-{by}": f"--by {by}" for by in ("cell", "run", "model", "notebook", "day", "tag", "user", "status")},
    "report-of-notebook": f"--by cell --notebook {HERE}",
    "report-selected": "--by tag --month 2026-10 --user tester --model s --tag guide",
    "report-since": "--by day --since 2026-10-06 --until 2026-10-07",
    "report-waste": "--waste",
    "report-project": f"--project 1e6/day --notebook {HERE} --cell greedy",
    "report-reprice": "--reprice",
}
COMMANDS: dict[str, tuple[int, str]] = {
    "export.jsonl": (0, "export"),
    "export.csv": (0, "export --format csv"),
    **{f"{name}.json": (0, f"report --json {words}") for name, words in REPORTS.items()},
    "check.json": (0, "check notebook.ipynb --max-cost 0.10 --max-tokens 2000 --json"),
    "check-limits.json": (1, "check notebook.ipynb earlier.ipynb --max-cost 0.00001 --max-tokens 50 --json"),
    "check-growth.json": (1, "check notebook.ipynb --against earlier.ipynb --max-increase 10% --json"),
    "check-beside.json": (0, "check earlier.ipynb --against notebook.ipynb --json"),
}
"""What is asked of a desk, by the name of the file that holds the answer."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_tell_the_same_of_what_was_left(desk: Desk, name: str) -> None:
    status, words = COMMANDS[name]
    done = desk.run(*words.split())
    assert (done.status, done.err) == (status, "")
    if name.endswith(".json"):
        assert lost(json.loads(kept(name)), json.loads(done.out)) == []
    else:
        assert as_exported(done.out.splitlines()) == kept(name).splitlines()


def texts() -> dict[str, Any]:
    """The prompts and answers in this process's ledger."""
    found = ((record.run_id, tokmagic.ledger().texts(record.run_id)) for record in tokmagic.ledger().runs())
    return {
        run_id: text and {"prompt": [[it.role, it.content] for it in text[0]], "answer": text[1]}
        for run_id, text in found
    }


def caps() -> list[dict[str, Any]]:
    """The budgets that hold for tester in the notebook that has some, and those of anybody else elsewhere."""
    ledger = tokmagic.ledger()
    found = [*ledger.budgets("tester", "/notebooks/budgets.ipynb"), *ledger.budgets("other", None)]
    return [json.loads(json.dumps(dataclasses.asdict(it), default=str)) for it in found]


def test_prompts_answers_and_budgets_are_there(desk: Desk) -> None:
    with desk.settled():
        assert texts() == json.loads(kept("texts.json"))
        assert lost(json.loads(kept("budgets.json")), caps()) == []


RUN = "run -m scripted --max-tokens 5 --input 0.15 --output 0.60 --as openai/gpt-5-mini --tag later --json"


def own(generation: Mapping[str, Any]) -> dict[str, Any]:
    """A run's JSON without what is another for each: its key."""
    return {name: value for name, value in generation.items() if name not in ("run_id", "shadow_usd")}


def test_a_new_run_goes_into_the_ledger_beside_the_earlier_ones(desk: Desk) -> None:
    done = desk.run(*RUN.split(), text="A later run.")
    assert (done.status, done.err) == (0, "")
    assert lost(json.loads(kept("run.json")), own(json.loads(done.out))) == []
    *before, new = desk.export()
    assert as_exported(before) == kept("export.jsonl").splitlines()
    assert json.loads(new)["run_id"] == json.loads(done.out)["run_id"]
    with closing(sqlite3.connect(desk.folder / "ledger.sqlite")) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("SELECT count(*) FROM runs WHERE status = 'running'").fetchall() == [(0,)]


REPLAYS = {
    "replay-scripted.json": "run -m scripted --temperature 0 --gpu-hour 2.5 --json",
    "replay-endpoint.json": "run -m small --api-base {server} --temperature 0 --max-tokens 20 --json",
}


def server() -> str:
    """The endpoint that answered the earlier version, and that is gone."""
    found = (json.loads(line)["env"].get("server") for line in kept("export.jsonl").splitlines())
    return next(it for it in found if it)


@pytest.mark.parametrize("name", REPLAYS)
def test_a_cached_answer_is_replayed(desk: Desk, name: str) -> None:
    words = REPLAYS[name].format(server=server()).split()
    done = desk.run(*words, text="Once more.")
    assert (done.status, done.err) == (0, "")
    found = json.loads(done.out)
    assert lost(json.loads(kept(name)), own(found)) == []
    assert found["status"] == "cached"
    earlier = [json.loads(line) for line in kept("export.jsonl").splitlines()]
    replayed = json.loads(desk.export()[-1])["replay_of"]
    assert [it["status"] for it in earlier if it["run_id"] == replayed] == ["ok"]


@pytest.fixture
def as_before(model_home: Path, tmp_path: Path) -> Path:
    """A data folder whose default model counts as it did when the answers were cached."""
    (folder,) = (model_home / "models").glob("*Instruct")
    copied = tmp_path / "models" / folder.name
    copied.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix == ".safetensors":
            (copied / file.name).symlink_to(file)
        else:
            shutil.copy(file, copied)
    split_as_gpt2(copied)
    return tmp_path


@pytest.mark.model
@pytest.mark.parametrize("counts_as_before", [True, False])
def test_a_cached_answer_of_a_real_model_is_replayed_while_its_tokenizer_is_the_same(
    desk: Desk, model_home: Path, as_before: Path, counts_as_before: bool
) -> None:
    """The default model's counted too much, so what it was fed then is not what it is fed now."""
    before = json.loads(kept("replay-model.json"))
    ran = next(it for it in map(json.loads, kept("export.jsonl").splitlines()) if it["engine"] == "local")
    import torch

    if torch.cuda.is_available():
        pytest.skip("what was cached was answered on a CPU")
    words = "run -m smollm2 --temperature 0 --max-tokens 8 --json"
    home = as_before if counts_as_before else model_home
    done = desk.run(*words.split(), text="Name a river.", TOKMAGIC_HOME=str(home))
    assert (done.status, done.err) == (0, "")
    row = json.loads(desk.export()[-1])
    assert ran["revision"] == row["revision"]
    assert row["status"] == ("cached" if counts_as_before else "ok")
    assert (row["env"]["tokenizer_sha256"] == ran["env"]["tokenizer_sha256"]) is counts_as_before
    if counts_as_before:
        assert lost(before, own(json.loads(done.out))) == []


def test_the_budgets_still_bind(desk: Desk) -> None:
    done = desk.run("run", "-m", "scripted", text="No price, and the day's budget is strict.")
    assert (done.status, done.out.strip()) == (1, "")
    priced = ("run", "-m", "scripted", "--input", "1", "--output", "1", "--yes", "--max-tokens")
    done = desk.run(*priced, "300000", text="Too long.", LOGNAME="other")
    assert (done.status, done.out.strip()) == (1, "")
    assert desk.run(*priced, "3", text="Short.", LOGNAME="other").status == 0
    assert [json.loads(line)["status"] for line in desk.export()[-3:]] == ["refused", "refused", "ok"]


def test_the_ledger_can_be_moved_as_a_whole(desk: Desk) -> None:
    other = {"TOKMAGIC_LEDGER": f"sqlite:///{desk.folder}/other.sqlite"}
    done = desk.run("ledger", "move", other["TOKMAGIC_LEDGER"])
    assert done.status == 0, done.err
    assert as_exported(desk.export(**other)) == kept("export.jsonl").splitlines()
    with desk.settled(**other):
        assert texts() == json.loads(kept("texts.json"))
        assert lost(json.loads(kept("budgets.json")), caps()) == []
    again = desk.run(*REPLAYS["replay-scripted.json"].split(), text="Once more.", **other)
    assert json.loads(again.out)["status"] == "cached"


def test_runs_that_were_not_delivered_still_are(desk: Desk) -> None:
    with desk.settled():
        outbox = ledgers.Outbox(desk.folder / "undelivered.sqlite", store_text=True)
        assert outbox
        assert outbox.deliver(tokmagic.ledger()) == 1
        assert not outbox
    *before, delivered = desk.export()
    assert as_exported(before) == kept("export.jsonl").splitlines()
    assert as_exported([delivered]) == kept("delivered.jsonl").splitlines()


# Notebooks


@contextmanager
def kernel_of(desk: Desk, notebook: str = HERE) -> Iterator[Kernel]:
    """A kernel of a notebook, which Jupyter says is in a folder that is not here, with tokmagic loaded."""
    with desk.settled(TOKMAGIC_MODEL="scripted", JPY_SESSION_NAME=notebook), running_kernel() as kernel:
        assert kernel.run("%load_ext tokmagic").ok
        yield kernel


def snapshot(kernel: Kernel, path: str) -> dict[str, Any]:
    """What the sidebar gets as it opens a notebook, without what is another in each session and on each day."""
    ran = kernel.run("")
    kernel.send_comm(kernel.open_comm("tokmagic.control"), {"v": 1, "type": "hello", "path": path, "widgets": False})
    deadline = time.monotonic() + 60
    while not (found := [it for it in ran.snapshots if it["complete"]]):
        assert time.monotonic() < deadline, "the snapshot never came"
        ran.messages += kernel.drain(0.2)
    told = {name: value for name, value in found[-1].items() if name not in ("session", "seq")}
    return {**told, "totals": {"notebook": told["totals"]["notebook"]}}


def frozen(text: str) -> dict[str, Any]:
    """A frozen file's content, without the version that wrote it."""
    return {name: value for name, value in json.loads(text).items() if name != "tokmagic"}


def test_the_sidebar_shows_it_and_it_is_frozen_as_before(desk: Desk) -> None:
    with kernel_of(desk) as kernel:
        assert lost(json.loads(kept("snapshot-notebook.json")), snapshot(kernel, "notebook.ipynb")) == []
        assert kernel.run("%tokmagic freeze again.tokmagic.json").ok
        assert kernel.run("%tokmagic freeze again-texts.tokmagic.json --texts").ok
        assert kernel.run("%cost export again.jsonl").ok
    with kernel_of(desk, "/notebooks/budgets.ipynb") as kernel:
        assert lost(json.loads(kept("snapshot-budgets.json")), snapshot(kernel, "budgets.ipynb")) == []
    for name, again in (("notebook", "again"), ("notebook-texts", "again-texts")):
        new = (desk.folder / f"{again}.tokmagic.json").read_text(encoding="utf-8")
        assert lost(frozen(kept(f"{name}.tokmagic.json")), frozen(new)) == []
    exported = as_exported((desk.folder / "again.jsonl").read_text(encoding="utf-8").splitlines())
    assert exported == [line for line in kept("export.jsonl").splitlines() if json.loads(line)["notebook"] == HERE]


CHANGED = {"pieces": ["In ", "autumn ", "the ", "maples ", "glow ", "red."], "input_tokens": 9}


def compared(text: str, *, changed: bool = False) -> dict[str, Any]:
    """A reproduction's JSON without what is another each time, and what other packages explain of a change."""
    found = json.loads(text)
    for run in found["runs"]:
        if run["now"] is not None:
            run["now"].pop("run_id")
        if changed:
            run.pop("why")
            run.pop("differences")
    return dict(found)


def reproduced(desk: Desk, name: str) -> Done:
    """Run the notebook again, against what the name of the answer's file says."""
    if name == "reproduce-outputs.json":
        (desk.folder / "notebook.tokmagic.json").unlink()
        return desk.run("reproduce", "notebook.ipynb", "--json")
    if name == "reproduce.json":
        return desk.run("reproduce", "notebook.ipynb", "--json")
    (desk.folder / "answer.json").write_text(json.dumps(CHANGED), encoding="utf-8")
    # Its texts are in the frozen file, not in this ledger.
    words = ("reproduce", "notebook.ipynb", "--frozen", "notebook-texts.tokmagic.json", "--allow", "cost", "--json")
    return desk.run(*words, TOKMAGIC_LEDGER=f"sqlite:///{desk.folder}/none.sqlite")


@pytest.mark.parametrize(
    ("name", "status"), first(1, [("reproduce.json", 0), ("reproduce-outputs.json", 0), ("reproduce-changed.json", 1)])
)
def test_a_notebook_is_compared_with_what_was_kept_of_it(desk: Desk, name: str, status: int) -> None:
    done = reproduced(desk, name)
    assert (done.status, done.err) == (status, "")
    assert lost(json.loads(kept(name)), compared(done.out, changed=status == 1)) == []


# Names


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    return value if value is None or isinstance(value, bool | int | float | str | list) else repr(value)


def _signature(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's parameters by name, and those that must be given."""
    found = {}
    for place, it in enumerate(inspect.signature(function).parameters.values()):
        given = it.default is not it.empty
        found[it.name] = {"kind": it.kind.name, **({"default": _plain(it.default)} if given else {})}
        if it.kind is it.POSITIONAL_OR_KEYWORD:
            found[it.name]["place"] = place
    starred = ("VAR_POSITIONAL", "VAR_KEYWORD")
    needed = [name for name, it in found.items() if "default" not in it and it["kind"] not in starred]
    return {"parameters": found, "needed": " ".join(needed)}


def _attributes(kind: type) -> list[str]:
    """What an object of this class has, methods included."""
    return sorted(name for name in dir(kind) if not name.startswith("_"))


WORDS = ("3", "-1", "1_000", "1e3", "0.5", "many")


def _reads(kind: Any, word: str) -> Any:
    try:
        return _plain(kind(word))
    except (ValueError, TypeError, ArithmeticError, argparse.ArgumentTypeError, errors.TokmagicError):
        return "refused"


def _option(action: argparse.Action) -> dict[str, Any]:
    """How an option, or a word, is taken."""
    choices = None if action.choices is None else sorted(map(str, action.choices))
    found = {
        "action": type(action).__name__.strip("_"),
        "values": _plain(action.nargs),
        "default": _plain(action.default),
        "required": action.required,
        **({"choices": choices} if choices is not None else {}),
    }
    if action.type is not None:
        found["reads"] = {word: _reads(action.type, word) for word in WORDS}
    return found


def _parser(of: argparse.ArgumentParser) -> dict[str, Any]:
    """What a command or a magic takes."""
    words = [it for it in of._actions if not it.option_strings and it.dest != "verb"]
    return {
        "options": {option: _option(it) for it in of._actions for option in it.option_strings},
        "words": {str(place): _option(it) for place, it in enumerate(words, 1)},
        "needed": " ".join(it.option_strings[0] if it.option_strings else "WORD" for it in of._actions if it.required),
    }


def _verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = [it for it in parser()._actions if it.dest == "verb"]
    return dict(found.choices or {})


SAMPLES = {
    **dict.fromkeys(("home", "prices"), "/given"),
    "ledger": "sqlite:////given/ledger.sqlite",
    **dict.fromkeys(("model", "api_base", "api_key_name", "server", "tokenizer", "engine_url"), "given"),
    "model_source": "hub",
    **dict.fromkeys(("store_text", "cache", "notebook_metadata"), "off"),
    **dict.fromkeys(("cache_bytes", "attempts", "budget_day"), "5"),
    **dict.fromkeys(("connect_timeout_s", "first_token_timeout_s", "silence_timeout_s"), "2.5"),
}
"""A value of each setting, as an environment variable gives it."""


def _settings(folder: Path) -> dict[str, Any]:
    """Each setting: its type, its value where nothing is set, what its variable gives, what the file gives."""
    traits = config.TokMagic.class_own_traits(config=True)
    found = {}
    for name, trait in traits.items():
        variable = f"TOKMAGIC_{name.upper()}"
        here = Desk(folder)
        nothing = {it: "" for it in here.environment if it.startswith("TOKMAGIC_") and it != "TOKMAGIC_CONFIG"}
        with here.settled(**{**nothing, "TOKMAGIC_HOME": "/data"}):
            default = getattr(config.TokMagic(), name)
        with here.settled(**{**nothing, "TOKMAGIC_HOME": "/data", variable: SAMPLES.get(name, "")}):
            given = getattr(config.TokMagic(), name)
        with here.settled(**{**nothing, "TOKMAGIC_CONFIG": str(folder / "config.toml")}):
            filed = getattr(config.TokMagic(), name)
        found[name] = {
            "type": type(trait).__name__,
            "default": default,
            "variable": {variable: given},
            "file": filed,
            **({"choices": sorted(trait.values)} if hasattr(trait, "values") else {}),
        }
    return found


def _magics() -> dict[str, Any]:
    """Each magic that the extension registers, and the options of those that have any."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    before = {kind: set(found) for kind, found in shell.magics_manager.magics.items()}
    shell.extension_manager.load_extension("tokmagic")
    new = {kind: sorted(set(found) - before[kind]) for kind, found in shell.magics_manager.magics.items()}
    shell.extension_manager.unload_extension("tokmagic")
    found = {name: _parser(make()) for name, make in PARSERS.items()}
    # What was a parser of its own takes the same words behind "freeze".
    freeze = found.pop("tokmagic")
    found["tokmagic freeze"] = {**freeze, "words": {"1": freeze["words"]["2"]}}
    return {**new, "options": found}


def _keys(value: Any, at: str = "") -> set[str]:
    """The path of each field of a message; of several messages by their types."""
    if isinstance(value, dict):
        return {at}.union(*(_keys(it, f"{at}.{name}") for name, it in value.items())) - {""}
    if isinstance(value, list):
        types = [it.get("type", "") if isinstance(it, dict) else "" for it in value]
        return {at}.union(*(_keys(it, f"{at}[{kind}]") for kind, it in zip(types, value, strict=True))) - {""}
    return {at} - {""}


def _error(kind: type) -> dict[str, Any]:
    return {"bases": [it.__name__ for it in kind.__mro__[1:-1]]}


def _handed_out() -> dict[str, Any]:
    """What else others rely on: the script, the extras, the hook, where the extension for the browser is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    return {
        "name": project["name"],
        "scripts": project["scripts"],
        "extras": sorted(project["optional-dependencies"]),
        "hooks": {it["id"]: it["entry"] for it in hooks},
        "labextensions": tokmagic._jupyter_labextension_paths(),
    }


MADE = ("Message", "Prompt", "Rates", "Sampling", "Tier", "Usage")
"""Types that people make themselves, for generate and for bill."""
READ = ("Cost", "EngineInfo", "Logprob", "Reading", "RunRecord")
"""Types of what a Generation holds."""


def surface(folder: Path) -> dict[str, Any]:
    """All names that people may use; ``folder`` has a config.toml."""
    columns = Desk(folder).run("export", "--format", "csv").out.splitlines()[0]
    with Desk(folder).settled():
        magics = _magics()
    return {
        "tokmagic": sorted(tokmagic.__all__),
        "functions": {name: _signature(getattr(tokmagic, name)) for name in ("generate", "generate_many", "count")},
        "ledger": {name: _signature(getattr(ledgers.Ledger, name)) for name in ("runs", "run", "texts", "totals")},
        "attributes": {
            **{it.__name__: _attributes(it) for it in (tokmagic.Generation, generations.Choice)},
            **{name: _attributes(getattr(events, name)) for name in (*MADE, *READ)},
        },
        "events": {name: _signature(getattr(events, name)) for name in MADE},
        "prices": {name: _signature(getattr(prices, name)) for name in ("bill", "hourly", "rate")},
        "errors": {
            name: _error(it)
            for name, it in sorted(vars(errors).items())
            if isinstance(it, type) and issubclass(it, BaseException)
        },
        "command": _parser(parser()),
        "commands": {name: _parser(it) for name, it in _verbs().items()},
        "magics": magics,
        "settings": _settings(folder),
        "export": columns.split(","),
        "wire": {it.stem: sorted(_keys(json.loads(it.read_text(encoding="utf-8")))) for it in sorted(WIRE.iterdir())},
        "handed out": _handed_out(),
    }


NO_LOSS = re.compile(
    r"/options/(-h|--help)/(action|default) was"  # shown all the same: tests/prompts/test_options.py
    r'|/reads/\S+ was "refused" and is'  # more is read than was
    r"|/tokens/options/(-m|--model)/default was null and is \[\]$"  # no model is named either way
    r'|/budget/words/1/default was null and is "list"$'  # %budget alone lists either way
    r'|/ledger/\S+/default was "Selection\(.* once=False\)"$'  # where nothing is said, all runs are selected
)


def test_every_name_that_people_use_is_there_and_means_the_same(desk: Desk) -> None:
    now = json.loads(json.dumps(surface(desk.folder)))
    found = lost(json.loads(kept("surface.json")), now, names=True)
    assert [it for it in found if not NO_LOSS.search(it)] == []


def test_each_command_tells_of_the_options_that_it_had(desk: Desk) -> None:
    for name, it in json.loads(kept("surface.json"))["commands"].items():
        done = desk.run(name, "--help")
        assert done.status == 0
        assert [option for option in it["options"] if option not in done.out] == []


def test_where_nothing_is_set_data_and_settings_are_where_they_were(desk: Desk) -> None:
    with desk.settled(TOKMAGIC_HOME="", TOKMAGIC_CONFIG="", TOKMAGIC_LEDGER=""):
        home = platformdirs.user_data_path("tokmagic")
        assert config.config_file() == platformdirs.user_config_path("tokmagic") / "config.toml"
        assert config.TokMagic().home == str(home)
        assert config.TokMagic().ledger == f"sqlite:///{home / 'ledger.sqlite'}"
