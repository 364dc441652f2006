"""Showing a run: streamed into the cell's output, or printed in a terminal."""

from __future__ import annotations

import json
import time
from typing import Any

import IPython.display

from tokmagic.formatting import terminal
from tokmagic.formatting.markdown import code_block, is_long, note, plain_text, safe_markdown
from tokmagic.magics.shell import Shell
from tokmagic.runs.generation import Generation
from tokmagic.runs.live import of_cell, row_wire

_UPDATE_S = 0.15
# Each update renders the whole answer again, so a long one is updated after it has grown by a share of itself.
_GROWTH = 0.02

Bundle = dict[str, str]

# IPython's functions have no types.
_display: Any = IPython.display.display
_update_display: Any = IPython.display.update_display


def bundle(generation: Generation) -> Bundle:
    """A Generation as a mimebundle: safe Markdown (or plain text alone) with its footer."""
    texts = [choice.text for choice in generation.choices] or [""]
    plain = "\n\n".join(plain_text(text) for text in texts)
    footer = generation.footer
    shown = {"text/plain": f"{plain}\n\n{footer}"}
    if generation.format == "text":
        return shown
    # Several answers are one output, which is formatted within the time of one.
    as_text = generation.format == "markdown" and is_long(*texts)
    parts = [code_block(text) if as_text else _formatted(text, generation.format) for text in texts]
    if len(parts) > 1:
        parts = [f"**{index} of {len(parts)}**\n\n{part}" for index, part in enumerate(parts, 1)]
    return {"text/markdown": "\n\n".join([*parts, note(footer)]), **shown}


def _formatted(text: str, form: str) -> str:
    if form == "code":
        return code_block(_unfenced(text))
    if form == "json":
        try:
            return code_block(json.dumps(json.loads(_unfenced(text)), indent=2, ensure_ascii=False))
        except ValueError:
            return f"{code_block(text)}\n\n{note('this answer is not JSON')}"
    return safe_markdown(text)


def _unfenced(text: str) -> str:
    """Text without the fence that models like to put around code."""
    lines = text.strip().split("\n")
    fenced = len(lines) > 1 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1]) if fenced else text


def metadata(generation: Generation, execution: str | None, *, wanted: bool) -> dict[str, Any]:
    """What a finished cell's output keeps: the numbers of its run, and which execution of the cell shows them."""
    if not wanted:
        return {}
    return {"tokmagic": row_wire(generation.record) | of_cell(None, execution)}


def publish(data: Any, meta: dict[str, Any] | None = None, display_id: str | None = None) -> str:
    """Display a mimebundle or a widget, or replace what was displayed under ``display_id``; return that id."""
    is_bundle = isinstance(data, dict)
    if display_id is not None:
        _update_display(data, raw=is_bundle, metadata=meta or {}, display_id=display_id)
        return display_id
    return str(_display(data, raw=is_bundle, metadata=meta or {}, display_id=True).display_id)


def show(at: Shell, generation: Generation) -> None:
    """Display a Generation, unless it is the value of the very cell that streamed it."""
    shown_at, generation.shown_at = generation.shown_at, None
    if shown_at == at.ipython.execution_count:
        return
    # The numbers belong to the cell that ran the prompt, not to one that shows its answer again.
    own = generation.record.cell_id == at.cell_id()
    if at.terminal:
        print(bundle(generation)["text/plain"])  # noqa: T201
    else:
        publish(
            bundle(generation),
            metadata(generation, at.execution(), wanted=own and at.session.settings.notebook_metadata),
        )


class View:
    """Shows nothing: what ``--quiet`` asks for, and what the others begin with."""

    def progress(self, doing: str, share: float | None) -> None:
        """Show how far the model's loading is."""

    def token(self, text: str) -> None:
        """Add to the answer."""

    def finish(self, generation: Generation) -> None:
        """Show the final answer with its footer."""

    def clear(self) -> None:
        """Empty the output: what it told of is over."""


class NotebookView(View):
    """One output that first tells of the model's loading, then grows with the answer, then is final."""

    def __init__(
        self, *, form: str, stream: bool, widgets: bool, keep_metadata: bool, execution: str | None = None
    ) -> None:
        self._form = form
        self._stream = stream
        self._keep_metadata = keep_metadata
        self._execution = execution
        self._widgets = widgets
        self._bar: Any = None
        self._id: str | None = None
        self._text = ""
        self._shown_length = 0
        self._due = 0.0

    def progress(self, doing: str, share: float | None) -> None:
        """Show how far the model's loading is."""
        if share == 1.0:
            self._show({"text/plain": doing})
            return
        if self._widgets and self._bar is None:
            self._bar = _progress_bar()
        if self._bar is not None:
            self._bar.description = doing
            self._bar.bar_style = "" if share is not None else "info"
            self._bar.value = share or 0.0
            if self._id is None:
                self._id = publish(self._bar)
            return
        percent = "" if share is None else f" {share:.0%}"
        self._show({"text/plain": f"loading: {doing}{percent}"})

    def token(self, text: str) -> None:
        """Add to the answer; the output follows six times a second at most."""
        self._text += text
        now = time.monotonic()
        grown = len(self._text) - self._shown_length >= max(1.0, _GROWTH * len(self._text))
        if self._stream and now >= self._due and grown:
            shown = {"text/plain": plain_text(self._text)}
            if self._form == "markdown":
                shown["text/markdown"] = safe_markdown(self._text)
            self._show(shown)
            self._shown_length = len(self._text)
            self._due = time.monotonic() + _UPDATE_S

    def finish(self, generation: Generation) -> None:
        """Show the final answer with its footer and write the numbers into the output's metadata."""
        self._show(bundle(generation), metadata(generation, self._execution, wanted=self._keep_metadata))

    def clear(self) -> None:
        """Empty the output: what it told of is over."""
        if self._id is not None:
            self._show({"text/plain": ""})

    def _show(self, data: Bundle, meta: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._id is None:
            self._id = publish(data, meta)
        else:
            publish(data, meta, self._id)


class FinalView(NotebookView):
    """One output that is final from the start: for what renders no updates."""

    def progress(self, doing: str, share: float | None) -> None:
        """Show nothing yet."""

    def token(self, text: str) -> None:
        """Show nothing yet."""


class TerminalView(View):
    """Prints the answer as it comes."""

    def __init__(self, *, stream: bool) -> None:
        self._printer = terminal.Printer(stream=stream)

    def token(self, text: str) -> None:
        """Print more of the answer."""
        self._printer.token(text)

    def progress(self, doing: str, share: float | None) -> None:
        """Tell on stderr what is being loaded."""
        terminal.progress(f"loading: {doing}", share)

    def finish(self, generation: Generation) -> None:
        """Print what was not streamed, and the footer."""
        self._printer.rest([choice.text for choice in generation.choices])
        print(generation.footer, flush=True)  # noqa: T201


def view(at: Shell, form: str = "text", *, stream: bool = False, keep_metadata: bool = False) -> View:
    """What shows an answer in this shell, and before it how far the model's loading is."""
    if at.shows == "printed":
        return TerminalView(stream=stream)
    widgets, execution = at.session.widgets, at.execution()
    kind = FinalView if at.shows == "once" else NotebookView
    return kind(form=form, stream=stream, widgets=widgets, keep_metadata=keep_metadata, execution=execution)


def _progress_bar() -> Any:
    try:
        from ipywidgets import FloatProgress
    except ImportError:
        return None
    return FloatProgress(min=0.0, max=1.0, style={"description_width": "initial"}, layout={"width": "auto"})
