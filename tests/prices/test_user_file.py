"""The user's price file: what it means, errors that name file, line and mend, and what stays in force meanwhile."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.probes import ON_CPU
from tokmagic.core.money import Rates, Tier
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EngineInfo
from tokmagic.errors import PriceError
from tokmagic.health import doctor
from tokmagic.prices import PriceBook
from tokmagic.runs.session import Session

DOCS = Path(__file__).parents[2] / "docs" / "prices.md"
LOCAL = EngineInfo("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "local", device="cpu")
H100 = EngineInfo("big", "org/big", "local", device="cuda:0", device_name="NVIDIA H100 80GB HBM3")

GOOD = """\
# What our finance department reckons with.
currency = "USD"

[models.smollm2]
input = "0.15"
output = 0.60
cached = 0.075
cache_write = "$0.19"
tiers = [
    {above_tokens = 200000, input = 0.30, output = 1.2, cached = 0.15, cache_write = 0.38},
    {above_tokens = 128000, input = 0.20, output = 0.8, cached = 0.10, cache_write = 0.25},
]

[models."org/big"]
gpu_hour = 2.50

[models.flat]
per_1k = 0.0015

[devices]
cpu = 0.05
"NVIDIA H100 80GB HBM3" = "2.75"
"""

Write = Callable[[str], Path]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "our prices.toml"


@pytest.fixture
def write(path: Path) -> Write:
    """Write the file, newer each time, so that no clock is needed to see the change."""
    times = iter(range(1_800_000_000, 1_800_001_000))

    def do(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        moment = next(times)
        os.utime(path, (moment, moment))
        return path

    return do


@pytest.fixture
def book(path: Path) -> PriceBook:
    return PriceBook(lambda: str(path))


def said(book: PriceBook, info: EngineInfo = LOCAL) -> str:
    with pytest.raises(PriceError) as raised:
        book.rates(info)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_file_gives_rates_by_name_by_id_and_by_device(write: Write, book: PriceBook) -> None:
    write(GOOD)
    source, version = "file our prices.toml", "2027-01-15 08:00 UTC"
    assert book.rates(LOCAL) == Rates(
        input=Decimal("0.15"),
        output=Decimal("0.60"),
        cached=Decimal("0.075"),
        cache_write=Decimal("0.19"),
        device_hour=Decimal("0.05"),
        source=f"{source}; device {source}: cpu ({version})",
        version=version,
        tiers=(
            Tier(128_000, Decimal("0.2"), Decimal("0.8"), Decimal("0.1"), Decimal("0.25")),
            Tier(200_000, Decimal("0.3"), Decimal("1.2"), Decimal("0.15"), Decimal("0.38")),
        ),
    )
    by_id = book.rates(EngineInfo("mine", "org/big", "local", device="cpu"))
    assert by_id == Rates(device_hour=Decimal("2.5"), source=source, version=version)
    assert book.rates(EngineInfo("flat", "x/y", "endpoint")).input == Decimal("1.5")
    assert book.rates(H100) == Rates(device_hour=Decimal("2.5"), source=source, version=version), "its id comes first"
    on_h100 = EngineInfo("other", "org/other", "local", device="cuda:0", device_name="NVIDIA H100 80GB HBM3")
    assert book.rates(on_h100) == Rates(
        device_hour=Decimal("2.75"), source=f"{source}: NVIDIA H100 80GB HBM3", version=version
    )


def test_amounts_are_read_as_they_stand_there(write: Write, book: PriceBook) -> None:
    """0.1 + 0.2 in binary floating point would be finer than a picodollar."""
    write("[models.smollm2]\ninput = 0.30000000000000004\noutput = 1")
    assert "finer than one picodollar per token" in said(book)
    write("[models.smollm2]\ninput = 0.000001\noutput = 1_000")
    rates = book.rates(LOCAL)
    assert (rates.input, rates.output) == (Decimal("0.000001"), Decimal(1000))


def test_the_example_in_the_documentation_is_a_good_file(write: Write, book: PriceBook) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    write(example)
    assert book.rates(LOCAL).source.startswith("file ")


PLAIN = "[models.m]\ninput = 1\noutput = 2\n"
TIER = "[[models.m.tiers]]\n"
BAD = {
    "unknown key": ("[models.m]\ninput = 1\noutptu = 2", 3, "unknown key 'outptu' (did you mean output?)"),
    "unknown table": ("[model.m]\ninput = 1\noutput = 2", 1, "unknown key 'model' (did you mean models?)"),
    "unit in the key": ("[models.m]\ninput_per_1k = 1\noutput = 2", 2, "unknown key 'input_per_1k'"),
    "unit in the value": ('[models.m]\ninput = "0.15 per 1k"\noutput = 2', 2, "give a number in USD, such as 0.15"),
    "other currency": (
        'currency = "EUR"\n[models.m]\ninput = 1\noutput = 2',
        1,
        "currency is 'EUR'; prices are in USD",
    ),
    "euros": ('[models.m]\ninput = "€1"\noutput = 2', 2, "input is '€1'; give a number in USD"),
    "negative": ("[models.m]\n\ninput = 1\noutput = -2", 4, "output is -2; give a number from 0 to 1,000,000 USD"),
    "nan": ("[models.m]\ninput = nan\noutput = 2", 2, "input is NaN; give a number from 0"),
    "infinite": ("[models.m]\ninput = 1\noutput = inf", 3, "output is Infinity; give a number from 0"),
    "too fine": ('[models.m]\ninput = "1e-30"\noutput = 2', 2, "input 1e-30 is finer than one picodollar"),
    "too large": ("[models.m]\ninput = 1E+400\noutput = 2", 2, "input is 1E+400; give a number from 0"),
    "beyond all bounds": ("[models.m]\ninput = 1e99999999999999999999\noutput = 2", 3, "see docs/prices.md"),
    "odd digits": ('[models.m]\ninput = "１２"\noutput = 2', 2, "input is '１２'; give a number in USD"),
    "a switch": ("[models.m]\ninput = true\noutput = 2", 2, "input is true; give a number in USD"),
    "a date": ("[models.m]\ninput = 2026-11-24\noutput = 2", 2, "input is 2026-11-24; give a number"),
    "no output": ("[models.a]\ngpu_hour = 1\n[models.m]\ninput = 1", 3, "m has no output rate"),
    "no input": ("[models.m]\noutput = 1", 1, "m has no input rate; a bill needs input and output"),
    "cached alone": ("[models.m]\ncached = 1", 1, "m has no input rate"),
    "nothing": ("[models.a]\ngpu_hour = 1\n\n[models.m]\n", 4, "m has no rate; give input and output"),
    "no table": ("[models]\nm = 0.5", 2, 'm is 0.5; give a table, such as [models."m"]'),
    "models no table": ("models = 5", 1, "models is 5; give a table"),
    "both ways": ("[models.m]\ninput = 1\noutput = 2\nper_1k = 3", 4, "per_1k is one rate for input and output"),
    "twice a model": ("[models.m]\ngpu_hour = 1\n[models.m]\ngpu_hour = 2", 3, "keep one of the two"),
    "twice a key": ("[models.m]\ninput = 1\ninput = 2", 3, "cannot overwrite a value; keep one of the two"),
    "no TOML": ("[models.m]\ninput = 1\noutput : 2", 3, "see docs/prices.md"),
    "unclosed": ('[models.m]\ninput = "1', 2, "see docs/prices.md"),
    "twice a device": (
        '[devices]\n"Tesla T4" = 1\n"NVIDIA T4" = 2',
        3,
        "NVIDIA T4 is listed above in another spelling",
    ),
    "device": ('[devices]\ncpu = 1\n"NVIDIA L4" = "dear"', 3, "NVIDIA L4 is 'dear'; give a number in USD"),
    "device table": ("[devices.cpu]\nhour = 1", 1, "cpu is {'hour': 1}; give a number in USD"),
    "tiers alone": ("[models.m]\ngpu_hour = 1\ntiers = [{above_tokens = 5}]", 3, "tiers must be a list of tables"),
    "tier no table": ("[models.m]\ninput = 1\noutput = 2\ntiers = [5]", 4, "a tier must be a table, such as"),
    "tier without rate": (
        f"{PLAIN}tiers = [\n  {{above_tokens = 5, input = 1, output = 1}},\n  {{above_tokens = 9, input = 1}},\n]",
        6,
        "a tier has no output rate",
    ),
    "tier's rate": (
        f'{PLAIN}{TIER}above_tokens = 5\ninput = 1\noutput = 1\n{TIER}above_tokens = 9\ninput = 1\noutput = "x"',
        11,
        "output is 'x'",
    ),
    "tier's key": (
        "[models.m]\ninput = 1\noutput = 2\ntiers = [{above_token = 5, input = 1, output = 1}]",
        4,
        "unknown key 'above_token' (did you mean above_tokens?)",
    ),
    "tier's threshold": (
        '[models.m]\ninput = 1\noutput = 2\ntiers = [\n{above_tokens = "200k", input = 1, output = 1}]',
        5,
        "above_tokens is '200k'; give the input tokens above which it applies, such as 200000",
    ),
    "tier's missing threshold": (
        "[models.m]\ninput = 1\noutput = 2\ntiers = [{input = 1, output = 1}]",
        4,
        "a tier has no above_tokens",
    ),
    "tiers alike": (
        f"{PLAIN}tiers = [{{above_tokens = 5, input = 1, output = 1}},\n{{above_tokens = 5, input = 2, output = 1}}]",
        5,
        "there are two tiers above 5; keep one",
    ),
    "tier's cached": (
        "[models.m]\ninput = 1\noutput = 2\ncached = 0.1\ntiers = [{above_tokens = 5, input = 1, output = 1}]",
        5,
        "cached must be given in the model and in each of its tiers, or in none",
    ),
    "a key in quotes": ('# m\n[models]\n"a=b".input = 1\n"a=b".output = "x"', 4, "output is 'x'"),
    "an inline table": ('[models]\na = {gpu_hour = 1}\nm = {input = 1, output = "x"}', 3, "output is 'x'"),
    "a name that is elsewhere too": (
        '# m input\n[models."m input"]\ninput = 1\noutput = 1\n[models.m]\n# input = 5\ninput = -1\noutput = 1',
        7,
        "input is -1",
    ),
    "a key in a comment": (
        '[models.m]\n# tiers = []\ninput = 1\noutput = 2\ntiers = [{above_tokens = 5, input = 1, output = "x"}]',
        5,
        "output is 'x'",
    ),
    "nested too deeply": (f"a = {'[' * 5000}", 1, "see docs/prices.md"),
}


@pytest.mark.parametrize(("text", "line", "says"), BAD.values(), ids=BAD.keys())
def test_an_error_names_file_line_and_mend(write: Write, book: PriceBook, text: str, line: int, says: str) -> None:
    path = write(text)
    message = said(book)
    assert message.startswith(f"{path}, line {line}: ")
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[models.m]\ninput = 1\noutput = \xe9", ", line 3: this is not UTF-8 text; save the file as UTF-8"),
        ("[models.m]".encode("utf-16"), ", line 1: this is not UTF-8 text"),
        (b"\0", ", line 1: "),
    ],
)
def test_what_is_no_text_is_named(path: Path, book: PriceBook, content: bytes, says: str) -> None:
    path.write_bytes(content)
    assert f"{path}{says}" in said(book)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(path: Path, book: PriceBook) -> None:
    path.write_bytes(b"\xef\xbb\xbf[models.smollm2]\r\ninput = 1\r\noutput = 2\r\n")
    assert book.rates(LOCAL).output == 2
    path.write_bytes(b"\xef\xbb\xbf[models.smollm2]\r\ninput = 1\r\noutput = x22\r\n")
    assert book.rates(LOCAL).output == 2
    assert f"{path}, line 3: " in str(book.problem)


def test_a_file_that_cannot_be_read_is_named(path: Path, tmp_path: Path) -> None:
    assert f"{path} cannot be read: No such file" in said(PriceBook(lambda: str(path)))
    assert f"{tmp_path} is not a file; name your price file" in said(PriceBook(lambda: str(tmp_path)))


def test_the_prices_that_were_good_stay_in_force_until_the_file_is_good_again(
    write: Write, path: Path, book: PriceBook
) -> None:
    write(GOOD)
    good = book.rates(LOCAL)
    assert book.problem is None
    write(GOOD.replace("0.60", "-0.60"))
    assert book.rates(LOCAL) == good
    assert str(book.problem).startswith(f"{path}, line 6: output is -0.60")
    path.unlink()
    assert book.rates(LOCAL) == good
    assert "cannot be read" in str(book.problem)
    for output in ("0.70", "0.80"):
        write(GOOD.replace("0.60", output))
        assert book.rates(LOCAL).output == Decimal(output)
        assert book.problem is None


def test_a_file_that_was_never_good_is_refused_until_it_is(write: Write, book: PriceBook) -> None:
    write("[models.smollm2]\ninput = 1")
    assert "has no output rate" in said(book)
    assert "has no output rate" in said(book), "also when it is asked for again"
    write("[models.smollm2]\ninput = 1\noutput = 2")
    assert book.rates(LOCAL).input == 1


def test_a_bad_file_stops_a_run_before_anything_else(
    make_session: Callable[..., Session], write: Write, path: Path
) -> None:
    write("[models.smollm2]\ninput = 1")
    session = make_session(model="scripted", prices=str(path))
    with pytest.raises(PriceError, match="line 1: smollm2 has no output rate"):
        session.generate(Prompt((Message("user", "Hi"),)), "scripted:/no/such/script")
    assert session.ledger().runs() == []
    (finding,) = [it for it in doctor(session.settings, ON_CPU).findings if it.name == "prices"]
    assert (finding.ok, finding.vital) == (False, False)
    assert "line 1: smollm2 has no output rate" in finding.message
    write("[models.scripted]\ninput = 1\noutput = 2")
    assert session.generate(Prompt((Message("user", "Hi"),))).record.rates.source == "file our prices.toml"
    assert ("prices", True, str(path)) in [
        (it.name, it.ok, it.message) for it in doctor(session.settings, ON_CPU).findings
    ]
    assert "prices" not in [it.name for it in doctor(make_session(model="scripted").settings, ON_CPU).findings]


def test_another_file_begins_anew(write: Write, tmp_path: Path) -> None:
    setting = [str(write(GOOD))]
    book = PriceBook(lambda: setting[0])
    assert book.rates(LOCAL).input == Decimal("0.15")
    setting[0] = str(tmp_path / "none.toml")
    assert "none.toml cannot be read" in said(book)
    setting[0] = ""
    assert book.rates(LOCAL).source.startswith("list price: ")
    assert book.problem is None


def test_a_device_that_is_not_here_does_no_harm(write: Write, book: PriceBook) -> None:
    write('[devices]\n"Abacus 9000" = 7')
    assert book.rates(H100).source.startswith("list price: H100")
