"""Which rates hold for a model in a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from tokmagic.core.money import Rates
from tokmagic.core.record import EngineInfo
from tokmagic.errors import PriceError
from tokmagic.prices.devices import device_of, list_rates
from tokmagic.prices.hosted import hosted_rates, tariff_of
from tokmagic.prices.user_file import PriceFile


class PriceBook:
    """Rates by model: what ``%price`` set, else what its shared engine says, else the user's file, else a provider's
    price, else the device's.

    Only an endpoint whose provider is known has a hosted price: a local model, or one at an endpoint of somebody
    else's, never matches one, however it is called.
    """

    def __init__(
        self, file: Callable[[], str] = lambda: "", told: Callable[[str], Rates | None] = lambda _model: None
    ) -> None:
        """``file`` tells the path of the user's own prices; empty is none. ``told`` what a model's server says."""
        self._set: dict[str, Rates] = {}
        self._shadows: dict[str, str] = {}
        self._setting = file
        self._told = told
        self._file = PriceFile()

    def set(self, model: str, rates: Rates) -> None:
        """Set the rates used for ``model`` from now on. Finished runs keep the rates they ran with.

        Raises PriceError for a rate below 0, or one that is not a number.
        """
        for name in ("input", "output", "cached", "cache_write", "device_hour"):
            value = getattr(rates, name)
            if value is not None and not (value.is_finite() and value >= 0):
                raise PriceError(f"{name} is {value}; give a number of 0 or more")
        self._set[model] = rates

    def get(self, model: str) -> Rates:
        """Return what was set for ``model``; all unknown where nothing was."""
        return self._set.get(model, Rates())

    def reset(self, model: str) -> None:
        """Forget what was set for ``model``, its shadow too."""
        self._set.pop(model, None)
        self._shadows.pop(model, None)

    def shadow(self, model: str, hosted: str | None) -> None:
        """From now on calculate, next to ``model``'s own cost, what the hosted model ``PROVIDER/MODEL`` would cost.

        Raises PriceError where its price is not known.
        """
        if hosted is None:
            self._shadows.pop(model, None)
        else:
            hosted_rates(hosted, datetime.now(UTC))
            self._shadows[model] = hosted

    def rates(self, info: EngineInfo, at: datetime | None = None) -> Rates:
        """Return the rates for a run of the model, to be frozen into its row. Raises PriceError.

        ``at`` is when, for dated prices (default: now).
        """
        moment = at or datetime.now(UTC)
        file = self._file.read(self._setting())
        key = device_of(info)
        device = Rates() if key is None else file.devices.get(key) or list_rates(key)
        own = self._set.get(info.name) or self._told(info.name) or file.rates(info)
        rates = own or _hosted(info, moment)[0] or device
        if rates.input is not None and rates.device_hour is None and device.device_hour is not None:
            # Beside the token cost stands what the machine's time is worth, and the source says whose rate that is.
            source = f"{rates.source}; device {device.source} ({device.version})"
            rates = replace(rates, device_hour=device.device_hour, source=source)
        hosted = self._shadows.get(info.name)
        if hosted is not None:
            # A price that was there when it was asked for can be gone, and a run does not depend on it.
            with suppress(PriceError):
                rates = replace(rates, shadow_model=hosted, shadow=hosted_rates(hosted, moment))
        return rates

    def at_tier(self, rates: Rates, info: EngineInfo, at: datetime) -> tuple[Rates, str | None]:
        """The rates of a run that go with the service tier at which its server answers, ``info``'s.

        Only a provider's price depends on it; other rates stay as they are. Beside them: what is wrong, where the price
        at that tier is not known.
        """
        standard, _ = _hosted(replace(info, service_tier=None), at)
        hosted, missing = _hosted(info, at)
        if standard is None or hosted is None or standard.source != rates.source:
            return rates, None
        return replace(hosted, shadow_model=rates.shadow_model, shadow=rates.shadow), missing

    def as_metered(self, rates: Rates, model: str, told: Rates) -> Rates:
        """The rates of a run that its server metered: those that it ``told``, or the run's where %price set them."""
        if model in self._set:
            return rates
        return told if rates.shadow is None else replace(told, shadow_model=rates.shadow_model, shadow=rates.shadow)

    def check(self) -> None:
        """Read the user's file, if there is one. Raises PriceError where it was never good."""
        self._file.read(self._setting())

    @property
    def problem(self) -> str | None:
        """What is wrong with the user's file, while the prices that were good before are in force."""
        return self._file.problem

    def __iter__(self) -> Iterator[tuple[str, Rates]]:
        """What was set, by model."""
        return iter(sorted(self._set.items()))


def _hosted(info: EngineInfo, moment: datetime) -> tuple[Rates | None, str | None]:
    """The provider's price at the service tier that ``info`` names, None where the provider or the model has none.

    Where that tier has no price it is the standard one, and beside it stands what is missing.
    """
    if not info.traits.remote or info.provider is None:
        return None, None
    for name in info.listed_as:
        model = f"{info.provider}/{name}"
        with suppress(PriceError):
            standard = hosted_rates(model, moment)
            try:
                tariff = tariff_of(model, info.service_tier, moment)
                return (hosted_rates(f"{model}?{tariff}", moment) if tariff else standard), None
            except PriceError as error:
                return standard, str(error)
    return None, None
