"""``%%generate``, ``%%tokens``, ``%model``, ``%price``, ``%cost`` and ``%tokmagic``."""

from __future__ import annotations

import argparse
import json
import keyword
from dataclasses import replace
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.version import __version__
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import NotBuiltError, TokmagicError, UsageError, nearest
from tokmagic.explain import TokenView
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.health import doctor
from tokmagic.magics import budgets, costs, counts, freezing
from tokmagic.magics import cache as answers
from tokmagic.magics.display import NotebookView, QuietView, TerminalView, View, bundle, metadata, publish
from tokmagic.magics.settings import has_rates, rate_cells, rates_from, spec_from
from tokmagic.prices import span
from tokmagic.prompts.options import (
    Parser,
    budget_parser,
    cache_parser,
    cost_parser,
    generate_parser,
    model_parser,
    price_parser,
    sampling,
    split,
    tokens_parser,
    tokmagic_freeze_parser,
)
from tokmagic.prompts.template import build, check_sampling, json_schema, parse
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session


@magics_class
class TokMagics(Magics):
    """tokmagic's magics over one session."""

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        super().__init__(shell)
        # The base class says that there may be no shell; these magics always have one.
        self._shell: Any = shell
        self._session = session
        self._terminal = not hasattr(shell, "kernel")

    @no_var_expand
    @line_cell_magic
    def generate(self, line: str, cell: str | None = None) -> Generation | Table | None:
        """Run the cell as a prompt, stream the answer and meter it; ``%generate --help`` lists the options."""
        options = self._parse(generate_parser(), line)
        if options is None:
            return None
        if cell is None:
            raise UsageError(
                "%%generate takes the cell as its prompt: begin the cell with %%generate (two percent signs)"
            )
        _check_variable(options.into)
        prompt = self._prompt(options, cell)
        if options.dry_run:
            return self._dry_run(prompt, options.model)
        view = self._view(options)
        try:
            generation = self._session.generate(
                prompt,
                options.model,
                tags=options.tag,
                budget=options.budget,
                confirm=(lambda _question: True) if options.yes else budgets.ask,
                cache=answers.wanted(options),
                refresh=options.refresh,
                watcher=view,
                progress=view.progress,
            )
        except BaseException:
            view.clear()
            raise
        generation.format = options.format
        generation.shown_at = self._shell.execution_count
        view.finish(generation)
        if options.into:
            self._shell.user_ns[options.into] = generation
        generation.raise_for_status()
        if options.chat:
            self._session.chats[options.chat] = [*prompt.messages, Message("assistant", generation.text)]
        return generation

    @no_var_expand
    @line_cell_magic
    def tokens(self, line: str, cell: str | None = None) -> TokenView | None:
        """Count a prompt for one or several models and take it apart; ``%tokens --help``."""
        parser = tokens_parser()
        words, expression = parser.leading(line) if cell is None else (line, "")
        options = self._parse(parser, words)
        if options is None:
            return None
        if cell is not None:
            return counts.of_cell(self._session, options, cell, self._shell.user_ns)
        return counts.of_value(self._session, options, counts.evaluated(expression, self._shell.ev))

    @no_var_expand
    @line_magic
    def model(self, line: str) -> Any:
        """List, add, use, load, unload or describe models; ``%model --help``."""
        options = self._parse(model_parser(), line)
        return None if options is None else self._model(options)

    @no_var_expand
    @line_magic
    def price(self, line: str) -> Any:
        """List the rates, or set those of a model; ``%price --help``."""
        options = self._parse(price_parser(), line)
        if options is None:
            return None
        if options.model is None:
            return self._price_table()
        name = self._session.models.resolve(options.model)
        book = self._session.prices
        if options.off and (options.shadow or has_rates(options)):
            raise UsageError("off removes all rates set for a model; give no other options with it")
        if options.off:
            book.reset(name)
            return self._price_table()
        # Everything is read before anything is changed.
        rates = rates_from(options, book.get(name)) if has_rates(options) or not options.shadow else None
        if options.shadow:
            book.shadow(name, None if options.shadow == "off" else options.shadow)
        if rates is not None:
            book.set(name, rates)
        return self._price_table()

    @no_var_expand
    @line_magic
    def budget(self, line: str) -> Table | None:
        """List the budgets and how they stand, or set one; ``%budget --help``."""
        options = self._parse(budget_parser(), line)
        if options is None:
            return None
        if options.scope not in (None, "list"):
            budgets.change(self._session, options)
            self._session.refresh_totals()
            self._session.channel.touch()
        return budgets.table(self._session)

    @no_var_expand
    @line_magic
    def cache(self, line: str) -> Table | None:
        """What the answer cache holds and saved; ``on``, ``off``, ``clear``."""
        options = self._parse(cache_parser(), line)
        if options is None:
            return None
        answers.change(self._session, options.action)
        return answers.table(self._session)

    @no_var_expand
    @line_magic
    def cost(self, line: str) -> Any:
        """What this notebook's runs cost, cell by cell; ``%cost --help`` tells what else there is."""
        options = self._parse(cost_parser(), line)
        if options is None:
            return None
        return costs.cost(self._session, options)

    @no_var_expand
    @line_magic
    def tokmagic(self, line: str) -> Any:
        """``doctor`` tells what works here, ``freeze`` keeps what this notebook ran with, ``version`` the version."""
        action, _, rest = (line.strip() or "doctor").partition(" ")
        if action in ("-h", "--help"):
            print("%tokmagic [doctor|freeze|version]: what works here; keep what ran; which version this is")  # noqa: T201
            return None
        if action == "freeze":
            options = self._parse(tokmagic_freeze_parser(), rest)
            return None if options is None else freezing.freeze(self._session, options)
        action = f"{action} {rest}".rstrip()  # no other one takes words
        if action == "version":
            return __version__
        if action == "doctor":
            return doctor(self._session.settings).table()
        if action == "panel":
            raise NotBuiltError(f"%tokmagic {action} is not built yet")
        raise UsageError(
            f"%tokmagic {action!r} is unknown{nearest(action, ['doctor', 'freeze', 'version'])}; "
            "use doctor, freeze or version"
        )

    def show(self, generation: Generation) -> None:
        """Display a Generation, unless it is the value of the very cell that streamed it."""
        shown_at, generation.shown_at = generation.shown_at, None
        if shown_at == self._shell.execution_count:
            return
        # The numbers belong to the cell that ran the prompt, not to one that shows its answer again.
        own = generation.record.cell_id == self.cell_id()
        keep = own and self._session.settings.notebook_metadata
        if self._terminal:
            print(bundle(generation)["text/plain"])  # noqa: T201
        else:
            publish(bundle(generation), metadata(generation, wanted=keep))

    # Reading the line and the cell

    def _parse(self, parser: Parser, line: str) -> argparse.Namespace | None:
        options = parser.parse_words(split(line, lambda word: self._shell.var_expand(word, depth=3)))
        if options.help:
            print(parser.format_help())  # noqa: T201
            return None
        return options

    def _prompt(self, options: argparse.Namespace, cell: str) -> Prompt:
        drawn = sampling(options, self._schema(options.json_schema))
        if options.reset and not options.chat:
            raise UsageError("--reset starts a conversation again; name it with --chat NAME")
        prompt = build(
            parse(cell, self._shell.user_ns, literal=options.literal),
            drawn,
            system=options.system,
            history=self._history(options),
            completion=options.completion,
        )
        return replace(prompt, stream=not options.no_stream)

    def _schema(self, expression: str | None) -> str | None:
        """The schema that an expression gives, as JSON text. Raises UsageError."""
        if expression is None:
            return None
        try:
            value = json.loads(expression)
        except ValueError:
            try:
                value = self._shell.ev(expression)
            except Exception as error:
                raise UsageError(
                    f"--json-schema {expression!r} gives no schema: {type(error).__name__}: {error}; "
                    "give a dict, or JSON text in quotes"
                ) from None
        return json_schema(value)

    def _history(self, options: argparse.Namespace) -> list[Message]:
        if not options.chat or options.reset:
            return []
        return self._session.chats.get(options.chat, [])

    def cell_id(self) -> str | None:
        """The id of the cell that runs now; nbclient sends none, so there the request itself is the cell."""
        return self._named_cell() or self.execution()

    def in_front_end(self) -> bool:
        """Whether the request that runs now names its cell, as JupyterLab's do."""
        return self._named_cell() is not None

    def announce(self) -> None:
        """Let the sidebar hear of the runs, where one may be there; called before each cell."""
        if self.in_front_end():
            self._session.channel.announce()

    def execution(self) -> str | None:
        """The id of the request that runs now; None in a terminal."""
        request = self._request().get("header", {}).get("msg_id")
        return str(request) if request else None

    def _named_cell(self) -> str | None:
        cell_id = self._request().get("metadata", {}).get("cellId")
        return str(cell_id) if cell_id else None

    def _request(self) -> dict[str, Any]:
        get_parent = getattr(self._shell, "get_parent", None)
        return get_parent() or {} if get_parent is not None else {}

    # Showing

    def _view(self, options: argparse.Namespace) -> View:
        if options.quiet:
            return QuietView()
        if self._terminal:
            return TerminalView(stream=not options.no_stream and options.n == 1)
        return NotebookView(
            form=options.format,
            stream=not options.no_stream,
            widgets=self._session.widgets,
            keep_metadata=self._session.settings.notebook_metadata,
        )

    def _dry_run(self, prompt: Prompt, model: str | None) -> Table:
        """Count and price the prompt: the least an answer costs, and the most."""
        check_sampling(prompt.sampling)
        engine = self._session.models.engine(model)
        input_tokens, source = engine.estimate(prompt)
        rates = self._session.rates(engine.info)

        most = prompt.sampling.max_tokens * prompt.sampling.n
        low, high = span(input_tokens, source, most, rates)
        row = (
            engine.info.name,
            numbers.tokens(input_tokens, source),
            f"≤ {most:,}",
            numbers.cost(low),
            numbers.cost(high),
        )
        note = "nothing was run" if high.usd is not None else "nothing was run; no token rates are set: %price"
        return Table(("model", "in", "out", "least", "most"), (row,), note)

    def _price_table(self) -> Table:
        rows = []
        for name, spec in self._session.models:
            rates = self._session.rates(self._session.info(name))
            opened = name in self._session.models.opened()
            waits = rates.source == "unknown" and not opened and spec.traits.billed_by_device
            source = "its device's list price, once it is loaded" if waits else rates.source
            rows.append((name, *rate_cells(rates), source, rates.version or numbers.UNKNOWN))
            rows += [(f"  above {tier.above_tokens:,} in", *rate_cells(tier), "", "") for tier in rates.tiers]
            if rates.shadow is not None:
                shadow = rates.shadow
                rows.append((f"  as {rates.shadow_model}", *rate_cells(shadow), shadow.source, shadow.version or ""))
        columns = ("model", "input /1M", "output /1M", "cached /1M", "cache-write /1M", "device /h", "source", "as of")
        note = self._session.prices.problem or "set rates with %price MODEL --input 0.15 --output 0.60"
        return Table(columns, tuple(rows), note)

    # %model

    def _model(self, options: argparse.Namespace) -> Table | None:
        models = self._session.models
        action = options.action
        if action in ("add", "use", "load", "info") and not options.name:
            raise UsageError(f"%model {action} needs a name; known: {', '.join(name for name, _ in models)}")
        if action == "add":
            if not options.spec:
                raise UsageError("%model add NAME SPEC: give a Hugging Face id, a folder or scripted")
            self._add(options.name, spec_from(options))
        elif action == "use":
            self._session.use(options.name)
        elif action == "load":
            view = self._loading_view()
            self._session.load(options.name, view.progress, keep_others=options.keep)
            view.clear()
        elif action == "unload":
            self._unload(options)
        elif action == "info":
            return self._model_info(options.name)
        elif action != "list":
            known = ["list", "add", "use", "load", "unload", "info"]
            raise UsageError(f"%model {action!r} is unknown{nearest(action, known)}; use {', '.join(known)}")
        self._session.channel.touch()
        return self._model_table()

    def _add(self, name: str, spec: ModelSpec) -> None:
        models = self._session.models
        before = dict(models).get(name)
        models.add(name, spec)
        if before is not None and before != dict(models)[name]:
            # What was set for the one is no price of the other.
            self._session.prices.reset(name)

    def _loading_view(self) -> View:
        if self._terminal:
            return TerminalView(stream=False)
        return NotebookView(form="text", stream=False, widgets=self._session.widgets, keep_metadata=False)

    def _unload(self, options: argparse.Namespace) -> None:
        models = self._session.models
        if not options.all and not options.name:
            raise UsageError("%model unload needs a name, or --all")
        for name in models.loaded() if options.all else [models.resolve(options.name)]:
            models.unload(name)

    def _model_table(self) -> Table:
        models = self._session.models
        loaded = models.loaded()
        try:
            current: str | None = models.current
        except TokmagicError:
            current = None
        rows = tuple(
            (
                f"{'* ' if name == current else ''}{name}",
                spec.source,
                spec.kind,
                self._session.info(name).server or spec.quant or spec.dtype or "auto",
                "loaded" if name in loaded and not spec.traits.remote else "—",
            )
            for name, spec in models
        )
        return Table(("model", "source", "engine", "as", "state"), rows, figures=False)

    def _model_info(self, name: str) -> Table:
        engine = self._session.models.engine(name)
        info = engine.info
        fields = (
            "name",
            "model_id",
            "revision",
            "engine",
            "device",
            "dtype",
            "quant",
            "context_tokens",
            "tokenizer_sha256",
            "server",
            "provider",
        )
        rows = [(field, str(getattr(info, field) or numbers.UNKNOWN)) for field in fields]
        return Table(("", "value"), (*rows, ("state", engine.state)), figures=False)


def _check_variable(name: str | None) -> None:
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise UsageError(f"--into {name!r} is not a variable name; use letters, digits and underscores")
