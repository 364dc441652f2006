"""The user's own prices: a TOML file (docs/prices.md), read again whenever it changes.

An error names the file, the line and the mend; the prices that were good before stay in force.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tokmagic.errors import PriceError, nearest
from tokmagic.events import EngineInfo, Rates, Tier
from tokmagic.prices.money import hourly, rate

_RATES = ("input", "output", "cached", "cache_write")
_MODEL_KEYS = (*_RATES, "per_1k", "gpu_hour", "tiers")
_TIER_KEYS = ("above_tokens", *_RATES)
_TOP_KEYS = ("models", "devices", "currency")


@dataclass(frozen=True, slots=True)
class UserPrices:
    """What a file says: rates by model name or id, and hourly rates by device name (``cpu`` for the CPU)."""

    models: Mapping[str, Rates] = field(default_factory=dict)
    devices: Mapping[str, Rates] = field(default_factory=dict)

    def rates(self, info: EngineInfo, gpu_name: str | None) -> Rates | None:
        """The rates for a model: by its name in the session, its id, or the device it runs on; None for neither."""
        for name in (info.name, info.model_id):
            if name in self.models:
                return self.models[name]
        device = "cpu" if info.device == "cpu" else gpu_name
        return self.devices.get(device or "") if info.engine == "local" else None


class PriceFile:
    """The file named by TOKMAGIC_PRICES."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stamp: tuple[float, int] | None = None
        self._good: UserPrices | None = None
        self.problem: str | None = None
        """What is wrong with the file now, while the prices that were good before are in force."""

    def read(self, setting: str) -> UserPrices:
        """Return the prices of the file. Raises PriceError where it was never good."""
        if not setting:
            return UserPrices()
        path = Path(setting).expanduser()
        if path != self._path:
            self._path, self._stamp, self._good, self.problem = path, None, None, None
        try:
            found = path.stat()
            stamp = (found.st_mtime, found.st_size)
            if stamp != self._stamp or self._good is None:
                self._good, self.problem = parse(path), None
                self._stamp = stamp
        except (OSError, PriceError) as error:
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"{path} cannot be read: {error.strerror or error}; mend TOKMAGIC_PRICES"
            if self._good is None:
                raise PriceError(reason) from None
            self.problem = reason
        return self._good


def parse(path: Path) -> UserPrices:
    """Read a price file. Raises PriceError that names file, line and mend, and OSError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PriceError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    try:
        data = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise PriceError(f"{path}: {error}; see docs/prices.md for the format") from None
    stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return _Reader(path, text, f"{stamp:%Y-%m-%d %H:%M} UTC").prices(data)


class _Reader:
    """One reading of a file, which knows in which line a key stands."""

    def __init__(self, path: Path, text: str, version: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._version = version

    def prices(self, data: dict[str, Any]) -> UserPrices:
        self._known(data, _TOP_KEYS, ())
        if data.get("currency", "USD") != "USD":
            self._fail(("currency",), f"currency is {data['currency']!r}; prices are in USD")
        models = self._table(data, "models")
        devices = self._table(data, "devices")
        return UserPrices(
            {name: self._model(name, given) for name, given in models.items()},
            {name: self._device(name, given) for name, given in devices.items()},
        )

    def _model(self, name: str, given: Any) -> Rates:
        where = ("models", name)
        if not isinstance(given, dict):
            self._fail(where, f'{name} is {given!r}; give a table, such as [models."{name}"] with input and output')
        self._known(given, _MODEL_KEYS, where)
        values: dict[str, Any] = {key: self._rate(given[key], (*where, key)) for key in _RATES if key in given}
        if "per_1k" in given:
            if "input" in given or "output" in given:
                self._fail((*where, "per_1k"), "per_1k is one rate for input and output; leave these out, or per_1k")
            both = self._rate(given["per_1k"], (*where, "per_1k"), per=1_000)
            values |= {"input": both, "output": both}
        if ("input" in values) != ("output" in values):
            missing = "output" if "input" in values else "input"
            self._fail(where, f"{name} has no {missing} rate; a bill needs both (0 if it is free)")
        hour = self._hour(given["gpu_hour"], (*where, "gpu_hour")) if "gpu_hour" in given else None
        if not values and hour is None:
            self._fail(where, f"{name} has no rate; give input and output, per_1k or gpu_hour")
        tiers = given.get("tiers", [])
        if not isinstance(tiers, list) or (tiers and "input" not in values):
            self._fail((*where, "tiers"), "tiers is a list beside input and output")
        return Rates(
            **values,
            device_hour=hour,
            source=f"file {self._path.name}",
            version=self._version,
            tiers=tuple(self._tier(tier, (*where, "tiers")) for tier in tiers),
        )

    def _tier(self, given: Any, where: tuple[str, ...]) -> Tier:
        if not isinstance(given, dict):
            self._fail(where, "a tier is a table, such as {above_tokens = 200000, input = 2.50, output = 15}")
        self._known(given, _TIER_KEYS, where)
        above = given.get("above_tokens")
        if isinstance(above, bool) or not isinstance(above, int) or above < 1:
            self._fail(where, f"above_tokens is {above!r}; give the tokens of input above which the tier holds")
        missing = [key for key in ("input", "output") if key not in given]
        if missing:
            self._fail(where, f"a tier has no {missing[0]} rate; a bill needs both")
        return Tier(above, **{key: self._rate(given[key], (*where, key)) for key in _RATES if key in given})

    def _device(self, name: str, given: Any) -> Rates:
        hour = self._hour(given, ("devices", name))
        return Rates(device_hour=hour, source=f"file {self._path.name}: {name}", version=self._version)

    def _rate(self, given: Any, where: tuple[str, ...], *, per: int = 1_000_000) -> Decimal:
        return self._amount(given, where, lambda text: rate(text, what=where[-1], per=per))

    def _hour(self, given: Any, where: tuple[str, ...]) -> Decimal:
        return self._amount(given, where, lambda text: hourly(text, what=where[-1]))

    def _amount(self, given: Any, where: tuple[str, ...], parse_amount: Any) -> Decimal:
        if isinstance(given, bool) or not isinstance(given, str | int | Decimal):
            self._fail(where, f"{where[-1]} is {given!r}; give a number in USD, such as 0.15")
        try:
            return Decimal(parse_amount(given))
        except PriceError as error:
            self._fail(where, str(error))
            raise

    def _table(self, data: dict[str, Any], name: str) -> dict[str, Any]:
        table = data.get(name, {})
        if not isinstance(table, dict):
            self._fail((name,), f"{name} is {table!r}; give a table")
        return dict(table)

    def _known(self, given: dict[str, Any], known: tuple[str, ...], where: tuple[str, ...]) -> None:
        for key in given:
            if key not in known:
                self._fail((*where, key), f"unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")

    def _fail(self, where: tuple[str, ...], problem: str) -> None:
        raise PriceError(f"{self._path}, line {self._line(where)}: {problem}")

    def _line(self, where: tuple[str, ...]) -> int:
        """The line of the innermost key that can be found, looked for from outside in."""
        at = 0
        for key in where:
            word = re.compile(rf"(?<![\w-]){re.escape(key)}(?![\w-])")
            found = next((number for number in range(at, len(self._lines)) if word.search(self._lines[number])), None)
            at = at if found is None else found
        return at + 1
