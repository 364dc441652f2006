"""What is to be run: variants × models × items × repeats, in an order that a seed decides, with ids to find it again.

A comparison is known by its variants, models, items, repeats, sampling and seed. Its runs carry tags, by which the
ledger gives back those that are finished: ``compare:…`` for the question, ``data:…`` for the items, ``variant:NAME@…``
for the version of the prompt.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokmagic.comparisons.inputs import Items
from tokmagic.core.compared import DATA, QUESTION, VARIANT
from tokmagic.core.prompt import Prompt, Sampling, spelled
from tokmagic.errors import PromptError, UsageError
from tokmagic.prompts.template import build, parse, read

if TYPE_CHECKING:
    from jinja2 import nodes

_LITERAL = re.compile(r"(; define it|; fix the template)?, or use --literal .*", re.DOTALL)


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Variant:
    """A prompt under a name: a template over an item's columns, with role lines as in a cell."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """The first twelve digits of its text's SHA-256."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def tag(self) -> str:
        return spelled(f"{VARIANT}{self.name}@{self.version}")

    def variables(self) -> list[str]:
        """The columns that it uses. Raises PromptError for a template that cannot be read."""
        from jinja2 import meta

        found: set[str] = set()

        def note(tree: nodes.Template) -> None:
            found.update(meta.find_undeclared_variables(tree))
            tree.body = []  # it is not filled in here

        parse(self.text, {}, rewrite=note)
        return sorted(found)

    def prompt(self, item: Mapping[str, Any], sampling: Sampling) -> Prompt:
        """The prompt for an item. Raises PromptError."""
        return build(read(self.text)(item), sampling)


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant at a model: what is compared."""

    variant: Variant
    model: str
    label: str
    identity: str = ""
    """What the model's name stands for: another model of the same name is another comparison."""


@dataclass(frozen=True, slots=True)
class Block:
    """One item and one repeat: the arms in the order in which they run."""

    item: int
    repeat: int
    arms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A comparison before it runs. The first of ``arms`` is the baseline."""

    arms: tuple[Arm, ...]
    items: Items
    repeat: int
    seed: int
    sampling: Sampling

    @property
    def runs(self) -> int:
        """How many runs there are in all, a judge's not among them."""
        return len(self.arms) * len(self.items.rows) * self.repeat

    @property
    def question_tag(self) -> str:
        """The same for everything but what stands in the items, whichever arm is the baseline."""
        arms = sorted([arm.variant.name, arm.variant.text, arm.model, arm.identity] for arm in self.arms)
        # Python's 0 is the 0.0 of an option line.
        sampling = {
            name: int(it) if isinstance(it, float) and it.is_integer() else it
            for name, it in asdict(self.sampling).items()
        }
        return f"{QUESTION}{_digest([arms, self.repeat, self.seed, sampling, self.items.source])}"

    @property
    def data_tag(self) -> str:
        """The items' digest, and how many runs they take."""
        return f"{DATA}{self.items.sha256[:12]}/{self.runs}"

    def blocks(self) -> Iterator[Block]:
        """Every item in random order, the arms of each shuffled too: what drifts meets all alike.

        A repeat begins when all items have had the one before, since items tell more than repeats where it ends early.
        """
        order = random.Random(self.seed)
        for repeat in range(self.repeat):
            items = list(range(len(self.items.rows)))
            order.shuffle(items)
            for item in items:
                arms = list(range(len(self.arms)))
                order.shuffle(arms)
                yield Block(item, repeat, tuple(arms))

    def prompt(self, arm: int, item: int) -> Prompt:
        """The prompt of an arm for an item. Raises PromptError that names the item."""
        variant = self.arms[arm].variant
        try:
            return variant.prompt(self.items.rows[item], self.sampling)
        except PromptError as error:
            raise PromptError(f"variant {variant.name}, item {item + 1}: {_here(error)}") from None


def make(
    variants: object,
    items: Items,
    models: Sequence[str],
    *,
    repeat: int,
    seed: int,
    sampling: Sampling,
    baseline: str | None,
    identities: Mapping[str, str] | None = None,
) -> Plan:
    """Put a plan together; the variant that ``baseline`` names comes first. Raises UsageError, PromptError."""
    found = read_variants(variants)
    _whole("repeat", repeat, 1)
    _whole("seed", seed, 0)
    if sampling.n != 1:
        raise UsageError(f"n is {sampling.n}; use repeat to ask each variant more than once")
    names = [it.name for it in found]
    if baseline is not None and baseline not in names:
        raise UsageError(f"the baseline {baseline!r} is no variant; there are {', '.join(names)}")
    found.sort(key=lambda it: it.name != (baseline or names[0]))
    if len(set(models)) != len(models):
        raise UsageError(f"a model is named twice: {', '.join(models)}; name each once")
    many = len(models) > 1
    known = identities or {}
    arms = [
        Arm(it, model, f"{it.name} · {model}" if many else it.name, known.get(model, ""))
        for model in models
        for it in found
    ]
    if len(arms) < 2:
        raise UsageError("there is one variant and one model, so nothing to compare; give another of either")
    for it in found:
        for column in _variables(it):
            items.check(column, f"the variant {it.name}")
    return Plan(tuple(arms), items, repeat, seed, sampling)


def read_variants(given: object) -> list[Variant]:
    """The variants of a dict from names to texts, or of a list of such pairs. Raises UsageError."""
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise UsageError("variants are a dict from names to prompts, such as {'terse': '…', 'reasoned': '…'}")
    found = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise UsageError(f"{pair!r:.60} is no variant; give a name and a text")
        name, text = pair
        if not isinstance(name, str) or not name.strip() or not isinstance(text, str):
            raise UsageError(f"the variant {name!r} is {text!r:.60}; give a name and a text")
        if not text.strip():
            raise UsageError(f"the variant {name.strip()!r} is empty; write its prompt below the line with its name")
        found.append(Variant(name.strip(), text))
    if not found:
        raise UsageError("there are no variants; give at least two prompts, each with a name")
    names = [it.name for it in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two variants are called {name!r}; give each its own name")
    return found


def _variables(variant: Variant) -> list[str]:
    try:
        return variant.variables()
    except PromptError as error:
        raise PromptError(f"variant {variant.name}: {_here(error)}") from None


def _here(error: PromptError) -> str:
    """What is wrong with a prompt, with advice that holds for variants: these have no options."""
    says = _LITERAL.sub("""; write {{ '{{' }} for two braces that mean themselves""", str(error))
    return "the prompt is empty for this item" if says.startswith("the prompt is empty") else says


def _whole(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{what} is {value!r}; give a whole number of {least} or more")
