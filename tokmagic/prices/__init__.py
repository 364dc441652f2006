"""What tokens and device time cost. Rates are USD per 1,000,000 tokens, and USD per hour for a device.

What is not known is ``None`` and stays so: a run without a price has no cost, never a cost of 0. Prices are read here
and nowhere else: what ``%price`` set, the user's file, the price package for hosted models, list prices of devices.
"""

from tokmagic.core.money import plain, rates_dict, rates_of
from tokmagic.prices.bills import at_input, at_rates, bill, bound_usd, input_usd, loaded_usd, replay, reprice, span
from tokmagic.prices.book import PriceBook
from tokmagic.prices.hosted import provider_of
from tokmagic.prices.money import PICODOLLARS, from_picodollars, hourly, rate, to_picodollars, usd

__all__ = [
    "PICODOLLARS",
    "PriceBook",
    "at_input",
    "at_rates",
    "bill",
    "bound_usd",
    "from_picodollars",
    "hourly",
    "input_usd",
    "loaded_usd",
    "plain",
    "provider_of",
    "rate",
    "rates_dict",
    "rates_of",
    "replay",
    "reprice",
    "span",
    "to_picodollars",
    "usd",
]
