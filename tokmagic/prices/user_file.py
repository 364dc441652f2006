"""The user's own prices: a TOML file (docs/prices.md), read again whenever it changes.

An error names the file, the line and the fix; the prices that were good before stay in force.
"""

from __future__ import annotations

import re
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tokmagic.core.files import expanded
from tokmagic.core.forks import in_child
from tokmagic.core.money import Rates, Tier
from tokmagic.core.record import EngineInfo
from tokmagic.errors import PriceError, UsageError, nearest
from tokmagic.prices import lines
from tokmagic.prices.devices import DeviceKey, device_key
from tokmagic.prices.money import hourly, rate

_RATES = ("input", "output", "cached", "cache_write")
_MODEL_KEYS = (*_RATES, "per_1k", "gpu_hour", "tiers")
_TIER_KEYS = ("above_tokens", *_RATES)
_TOP_KEYS = ("models", "devices", "currency")


@dataclass(frozen=True, slots=True)
class UserPrices:
    """What a file says: rates by model name or id, and hourly rates by device."""

    models: Mapping[str, Rates] = field(default_factory=dict)
    devices: Mapping[DeviceKey, Rates] = field(default_factory=dict)

    def rates(self, info: EngineInfo) -> Rates | None:
        """The rates for a model by its name in the session or its id; None where there are none."""
        found = (self.models.get(name) for name in (info.name, *info.listed_as))
        return next(filter(None, found), None)


class PriceFile:
    """The file named by TOKMAGIC_PRICES."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stamp: tuple[int, ...] | None = None
        self._good: UserPrices | None = None
        self._lock = threading.Lock()
        in_child(self._renew)
        self.problem: str | None = None
        """What is wrong with the file now, while the prices that were good before are in force."""

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def read(self, setting: str) -> UserPrices:
        """Return the prices of the file. Raises PriceError where it was never good."""
        with self._lock:  # of several threads that ask first each waits for the one that reads
            return self._read(setting)

    def _read(self, setting: str) -> UserPrices:
        try:
            path = expanded(setting) if setting else None
        except UsageError as error:
            raise PriceError(f"TOKMAGIC_PRICES is {error}") from None
        if path != self._path:
            self._path, self._stamp, self._good, self.problem = path, None, None, None
        if path is None:
            return UserPrices()
        stamp = _stamp(path)
        if stamp != self._stamp or stamp is None:
            self._stamp = stamp
            try:
                self._good, self.problem = parse(path), None
            except PriceError as error:
                self.problem = str(error)
        if self._good is None:
            raise PriceError(self.problem)
        return self._good


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def parse(path: Path) -> UserPrices:
    """Read a price file. Raises PriceError that names file, line and fix."""
    try:
        if path.exists() and not path.is_file():
            raise PriceError(f"{path} is not a file; name your price file in TOKMAGIC_PRICES")
        content = path.read_bytes()
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise PriceError(f"{path} cannot be read: {error.strerror or error}; fix TOKMAGIC_PRICES") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PriceError(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None
    return _Reader(path, text, f"{written:%Y-%m-%d %H:%M} UTC").prices(_loaded(path, text))


def _loaded(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError, ArithmeticError) as error:
        reason = str(error).partition(" (at ")[0]
        found = re.search(r"at line (\d+), column \d+\)$", str(error))
        line = found[1] if found else len(text.splitlines()) or 1
        fix = "keep one of the two" if re.search("twice|overwrite|mutate|redefine", reason) else "see docs/prices.md"
        raise PriceError(f"{path}, line {line}: {reason[:1].lower()}{reason[1:]}; {fix}") from None


class _Reader:
    """One reading of a file, which knows in which line a key stands."""

    def __init__(self, path: Path, text: str, version: str) -> None:
        self._path = path
        self._text = text
        self._version = version

    def prices(self, data: dict[str, Any]) -> UserPrices:
        self._known(data, _TOP_KEYS, ())
        if data.get("currency", "USD") != "USD":
            self._fail(("currency",), f"currency is {data['currency']!r}; prices are in USD, convert them")
        models = self._table(data, "models")
        devices: dict[DeviceKey, Rates] = {}
        for name, given in self._table(data, "devices").items():
            if device_key(name) in devices:
                self._fail(("devices", name), f"{name} is listed above in another spelling; keep one of the two")
            hour = self._amount(given, ("devices", name), hourly)
            source = f"file {self._path.name}: {name}"
            devices[device_key(name)] = Rates(device_hour=hour, source=source, version=self._version)
        return UserPrices({name: self._model(name, given) for name, given in models.items()}, devices)

    def _model(self, name: str, given: Any) -> Rates:
        where = ("models", name)
        if not isinstance(given, dict):
            self._fail(where, f'{name} is {_shown(given)}; give a table, such as [models."{name}"] with its rates')
        self._known(given, _MODEL_KEYS, where)
        values: dict[str, Any] = self._rates(given, where)
        if "per_1k" in given:
            if "input" in given or "output" in given:
                self._fail((*where, "per_1k"), "per_1k is one rate for input and output; remove them, or remove per_1k")
            both = self._amount(given["per_1k"], (*where, "per_1k"), partial(rate, per=1_000))
            values |= {"input": both, "output": both}
        hour = self._amount(given["gpu_hour"], (*where, "gpu_hour"), hourly) if "gpu_hour" in given else None
        if not values and hour is None:
            self._fail(where, f"{name} has no rate; give input and output, per_1k or gpu_hour")
        if values:
            self._both(values, where, name)
        return Rates(
            **values,
            device_hour=hour,
            source=f"file {self._path.name}",
            version=self._version,
            tiers=self._tiers(given.get("tiers", []), values, (*where, "tiers")),
        )

    def _tiers(self, given: Any, base: Mapping[str, Decimal], where: lines.Path) -> tuple[Tier, ...]:
        if not isinstance(given, list) or (given and not base):
            self._fail(where, "tiers must be a list of tables, next to input and output")
        tiers: dict[int, Tier] = {}
        for index, table in enumerate(given):
            tier = self._tier(table, base, (*where, index))
            if tier.above_tokens in tiers:
                self._fail((*where, index), f"there are two tiers above {tier.above_tokens}; keep one of the two")
            tiers[tier.above_tokens] = tier
        return tuple(tiers[above] for above in sorted(tiers))

    def _tier(self, given: Any, base: Mapping[str, Decimal], where: lines.Path) -> Tier:
        if not isinstance(given, dict):
            self._fail(where, "a tier must be a table, such as {above_tokens = 200000, input = 2.50, output = 15}")
        self._known(given, _TIER_KEYS, where)
        above = given.get("above_tokens")
        if isinstance(above, bool) or not isinstance(above, int) or not 0 < above < 2**53:
            said = "a tier has no above_tokens" if above is None else f"above_tokens is {_shown(above)}"
            self._fail(
                (*where, *(["above_tokens"] if above is not None else [])),
                f"{said}; give the input tokens above which it applies, such as 200000",
            )
        values = self._rates(given, where)
        self._both(values, where, "a tier")
        for name in ("cached", "cache_write"):
            if (name in values) != (name in base):
                self._fail(where, f"{name} must be given in the model and in each of its tiers, or in none")
        return Tier(above, **values)

    def _rates(self, given: Mapping[str, Any], where: lines.Path) -> dict[str, Decimal]:
        return {name: self._amount(given[name], (*where, name), rate) for name in _RATES if name in given}

    def _both(self, values: Mapping[str, Decimal], where: lines.Path, what: str) -> None:
        for name in ("input", "output"):
            if name not in values:
                self._fail(where, f"{what} has no {name} rate; a bill needs input and output (0 if it is free)")

    def _amount(self, given: Any, where: lines.Path, read: Callable[..., Decimal]) -> Decimal:
        if isinstance(given, bool) or not isinstance(given, str | int | Decimal):
            self._fail(where, f"{where[-1]} is {_shown(given)}; give a number in USD, such as 0.15")
        try:
            return read(given, what=str(where[-1]))
        except PriceError as error:
            self._fail(where, str(error))

    def _table(self, data: Mapping[str, Any], name: str) -> dict[str, Any]:
        table = data.get(name, {})
        if not isinstance(table, dict):
            self._fail((name,), f"{name} is {_shown(table)}; give a table, such as [{name}]")
        return dict(table)

    def _known(self, given: Mapping[str, Any], known: tuple[str, ...], where: lines.Path) -> None:
        for key in given:
            if key not in known:
                self._fail((*where, key), f"unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")

    def _fail(self, where: lines.Path, problem: str) -> NoReturn:
        raise PriceError(f"{self._path}, line {lines.line_of(self._text, where)}: {problem}")


def _shown(value: Any) -> str:
    """A value as the file writes it, nearly: ``true``, ``"text"``, ``0.15``; longer ones cut."""
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
