"""Which rates hold for a model in a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from tokmagic.events import EngineInfo, Rates
from tokmagic.prices.devices import list_rates
from tokmagic.prices.hosted import hosted_rates
from tokmagic.prices.user_file import PriceFile


class PriceBook:
    """Rates by model. What ``%price`` set comes first, then the user's file, then the list price of a local device.

    A local model never matches a hosted one's price, however it is called.
    """

    def __init__(self, file: Callable[[], str] = lambda: "") -> None:
        """``file`` tells the path of the user's own prices; empty is none."""
        self._set: dict[str, Rates] = {}
        self._shadows: dict[str, str] = {}
        self._setting = file
        self._file = PriceFile()

    def set(self, model: str, rates: Rates) -> None:
        """Set the rates used for ``model`` from now on. Finished runs keep the rates they ran with."""
        self._set[model] = rates

    def get(self, model: str) -> Rates:
        """Return what was set for ``model``; all unknown where nothing was."""
        return self._set.get(model, Rates())

    def reset(self, model: str) -> None:
        """Forget what was set for ``model``, its shadow too."""
        self._set.pop(model, None)
        self._shadows.pop(model, None)

    def shadow(self, model: str, hosted: str | None) -> None:
        """From now on reckon beside ``model``'s own cost what the hosted model ``PROVIDER/MODEL`` would cost.

        Raises PriceError where its price is not known.
        """
        if hosted is None:
            self._shadows.pop(model, None)
        else:
            hosted_rates(hosted, datetime.now(UTC))
            self._shadows[model] = hosted

    def rates(self, info: EngineInfo, gpu_name: str | None = None, at: datetime | None = None) -> Rates:
        """Return the rates for a run of the model, to be frozen into its row. Raises PriceError.

        ``gpu_name`` is the name of the GPU it runs on, if any; ``at`` is when, for dated prices (default: now).
        """
        rates = self._set.get(info.name) or self._file.read(self._setting()).rates(info, gpu_name)
        if rates is None:
            rates = list_rates(info.device, gpu_name) if info.engine == "local" else Rates()
        hosted = self._shadows.get(info.name)
        if hosted is not None:
            rates = replace(rates, shadow_model=hosted, shadow=hosted_rates(hosted, at or datetime.now(UTC)))
        return rates

    @property
    def problem(self) -> str | None:
        """What is wrong with the user's file, while the prices that were good before are in force."""
        return self._file.problem

    def __iter__(self) -> Iterator[tuple[str, Rates]]:
        """What was set, by model."""
        return iter(sorted(self._set.items()))
