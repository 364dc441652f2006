"""What an answer is worth: 1 or 0 for pass or fail, or any number.

An answer that cannot be scored is marked, and the rest goes on.
Each maker gives a :class:`Score`; :func:`read` also takes text such as ``exact(answer)``, and any function.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tokmagic.comparisons.judges import Judge, judge
from tokmagic.comparisons.ratings import Human, human
from tokmagic.core.files import expanded
from tokmagic.errors import UsageError, nearest

Item = Mapping[str, Any]
_FENCE = re.compile(r"\A```[\w-]*\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
# What joins two numbers, as in a range or a date, is no sign of the second.
# A comma groups digits only where three follow the last one (1,250 or 1,00,000): in (3,4) are two numbers.
_DIGITS = r"(?:\d{1,3}(?:,\d{2,3}){0,9},\d{3}(?!\d)|\d+)"
_NUMBER = re.compile(rf"(?:(?<!\w)[-+−])?(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Score:
    """How one answer is scored: ``of(answer, item)``. ``column`` is what it reads of the item.

    ``passes``: 1 and 0 are all that it gives; None: the values will tell.
    """

    name: str
    of: Callable[[str, Item], Any]
    column: str | None = None
    passes: bool | None = True
    many: Callable[[Sequence[tuple[str, Item]]], Sequence[Any]] | None = None
    """Scores so many answers at once, where that is quicker than one after another."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A score, or what is wrong with it."""

    value: float | None
    problem: str | None = None


def apply(score: Score, answer: str, item: Item) -> Scored:
    """Score an answer. Whatever goes wrong is told in one line and marks this answer alone."""
    try:
        given = score.of(answer, item)
    except Exception as error:
        return Scored(None, f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": "))
    return _read_value(given)


def _read_value(given: Any) -> Scored:
    try:
        value = float(given)
    except Exception:  # whatever it is, it says itself what becomes of it as a number
        return Scored(None, f"it returned {given!r:.60}; return a number, or True or False")
    if not math.isfinite(value):
        return Scored(None, f"it returned {value}; return a finite number")
    return Scored(value)


def apply_many(score: Score, answers: Sequence[tuple[str, Item]]) -> list[Scored]:
    """Score answers together, if the score can; where that goes wrong each alone, so that only a bad one is marked."""
    if score.many is not None:
        try:
            given = list(score.many(answers))
        except Exception:
            given = []
        if len(given) == len(answers):
            return list(map(_read_value, given))
    return [apply(score, *it) for it in answers]


def exact(column: str) -> Score:
    """Whether the answer, without space around it, is what stands in the column; a list there names alternatives."""
    return _matching("exact", column, str.strip, lambda answer, wanted: answer == wanted)


def normalised(column: str) -> Score:
    """As :func:`exact`, with case, punctuation, width of characters and runs of spaces left out of account."""
    return _matching("normalised", column, _normal, lambda answer, wanted: answer == wanted)


def contains(column: str) -> Score:
    """Whether what stands in the column occurs in the answer, whatever its case."""
    return _matching("contains", column, str.casefold, lambda answer, wanted: wanted in answer)


def regex(pattern: str) -> Score:
    """Whether the pattern is found in the answer, by ``re.search``. Raises UsageError."""
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UsageError(f"regex({pattern!r}) is no pattern: {error}; fix it") from None
    return Score(f"regex({pattern!r})", lambda answer, _item: compiled.search(answer) is not None)


def numeric(column: str, tolerance: float = 1e-9, *, relative: float = 0.0) -> Score:
    """Whether the last number in the answer is the column's, within a tolerance: absolute, or a share of it.

    An answer without a number does not pass; a column without one is an error of that item. Raises UsageError.
    """
    for what, value in (("tolerance", tolerance), ("relative", relative)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"numeric's {what} is {value!r}; give a number of 0 or more")

    def of(answer: str, item: Item) -> bool:
        wanted, found = _wanted(item[column]), _NUMBER.findall(answer)
        # math.isclose takes its share of the larger of the two, and the wrong answer may be that.
        return bool(found) and abs(_number(found[-1]) - wanted) <= max(tolerance, relative * abs(wanted))

    return Score(f"numeric({column})", of, column)


def _wanted(given: Any) -> float:
    """A column's number, which may be written as one in an answer."""
    text = given.strip() if isinstance(given, str) else ""
    wanted = _number(text) if _NUMBER.fullmatch(text) else float(given)
    if not math.isfinite(wanted):
        raise ValueError(f"{given!r:.60} is no number that an answer can give")
    return wanted


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def json_schema(schema: Mapping[str, Any] | str) -> Score:
    """Whether the answer is JSON, in a fence or not, that fits the schema: a dict, or JSON text. Raises UsageError."""
    try:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise UsageError(f"json_schema needs the package {error.name}; run: pip install 'tokmagic[compare]'") from None
    try:
        read = json.loads(schema) if isinstance(schema, str) else schema
        kind = validator_for(read)
        kind.check_schema(read)
    except (ValueError, TypeError, AttributeError, SchemaError) as error:
        said = getattr(error, "message", str(error))
        raise UsageError(f"json_schema was given no JSON schema: {said}; give a dict, or JSON text") from None
    valid = kind(read).is_valid

    def of(answer: str, _item: Item) -> bool:
        fenced = _FENCE.match(answer.strip())
        try:
            return bool(valid(json.loads(fenced[1] if fenced else answer)))
        except ValueError:
            return False

    return Score("json_schema", of)


def similarity(column: str, model: str) -> Score:
    """How close the answer's meaning is to what stands in the column: the cosine of their embeddings, −1 to 1.

    ``model`` is the folder of a text encoder. Of alternatives in a list the closest counts. Raises UsageError where it
    is no folder of a model, and ModelError where that cannot be loaded.
    """
    folder = expanded(str(model))
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise UsageError(f"similarity needs the package {package}; run: pip install 'tokmagic[local]'")
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"similarity needs the folder of a text encoder, and {folder} is none; download one, such as "
            "sentence-transformers/all-MiniLM-L6-v2, and give its folder, as in similarity(answer, 'models/MiniLM')"
        )
    from tokmagic.engines.local.encoder import Encoder  # start-up: torch and transformers, for this score alone

    encoder = Encoder(folder)

    def many(answers: Sequence[tuple[str, Item]]) -> list[float]:
        return [max(it) for it in encoder.similarities([(text, _texts(item[column])) for text, item in answers])]

    def of(answer: str, item: Item) -> float:
        return many([(answer, item)])[0]

    return Score(f"similarity({column})", of, column, passes=False, many=many)


def function(of: Callable[..., Any]) -> Score:
    """Any function of the answer, or of the answer and its item, that returns a number, or True or False.

    Raises UsageError for one that takes neither.
    """
    name = getattr(of, "__name__", type(of).__name__)
    try:
        signature = inspect.signature(of)
    except (TypeError, ValueError):  # written in C: float, for one
        return Score(name, lambda answer, _item: of(answer), passes=None)
    both: tuple[Any, ...] = ("", {})
    for taken in (both, both[:1]):
        try:
            signature.bind(*taken)
        except TypeError:
            continue
        return Score(name, of if taken == both else lambda answer, _item: of(answer), passes=None)
    raise UsageError(f"the score {name}{signature} cannot be called; write it as {name}(answer, item)")


_MAKERS: dict[str, Callable[..., Score | Judge | Human]] = {
    "exact": exact,
    "normalised": normalised,
    "contains": contains,
    "regex": regex,
    "numeric": numeric,
    "json_schema": json_schema,
    "similarity": similarity,
    "judge": judge,
    "human": human,
}


def read(given: object) -> Score | Judge | Human:
    """What ``score=`` means: a Score, a Judge, a Human, a function, or text such as ``numeric(answer, 0.01)``.

    In text a bare word is a column's or a model's name. Raises UsageError.
    """
    if isinstance(given, Score | Judge | Human):
        return given
    if callable(given):
        return function(given)
    known = ", ".join(_MAKERS)
    if not isinstance(given, str):
        raise UsageError(f"score is {given!r}; give a function, or one of: {known}")
    try:
        call = ast.parse(given.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        words = [_word(it) for it in call.args]
        named = {str(it.arg): _word(it.value) for it in call.keywords}
    except (SyntaxError, ValueError):
        raise UsageError(
            f"score is {given!r}; write it as exact(answer), and one with quotes or spaces of its own within quotes, "
            f"as \"regex('yes|no')\"; known: {known}"
        ) from None
    maker = _MAKERS.get(call.func.id)
    if maker is None:
        raise UsageError(f"score {call.func.id!r} is unknown{nearest(call.func.id, _MAKERS)}; known: {known}")
    try:
        inspect.signature(maker).bind(*words, **named)
    except TypeError as error:
        raise UsageError(f"score {given!r}: {error}; it is {call.func.id}{_parameters(maker)}") from None
    return maker(*words, **named)


def _parameters(maker: Callable[..., Any]) -> str:
    return f"({', '.join(inspect.signature(maker).parameters)})"


def _word(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _matching(name: str, column: str, normal: Callable[[str], str], matches: Callable[[str, str], bool]) -> Score:
    def of(answer: str, item: Item) -> bool:
        said = normal(answer)
        return any(matches(said, normal(it)) for it in _texts(item[column]))

    return Score(f"{name}({column})", of, column)


def _texts(wanted: Any) -> list[str]:
    """What a column holds: a list there names alternatives."""
    return [str(it) for it in (wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted])]


def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(" " if unicodedata.category(it)[0] in "PZC" else it for it in folded).split())
