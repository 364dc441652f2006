"""Small tables that show themselves in a notebook, in a terminal and as JSON."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """A small table that shows itself in a notebook, a terminal and as JSON."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    figures: bool = True
    """Whether the columns after the first hold figures, which stand to the right."""
    exact: tuple[dict[str, Any], ...] = ()
    """The rows unrounded, for ``--json``: money as decimal strings, unknown as None. Empty: as they are shown."""
    words: tuple[str, ...] = ()
    """Those of them that hold words all the same."""

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        text = "\n".join(
            "  ".join(
                cell.rjust(width) if self._to_the_right(index) else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return f"{text}\n{self.note}" if self.note else text

    def _repr_html_(self) -> str:
        def line(cells: Iterable[str], tag: str) -> str:
            inner = "".join(
                f'<{tag} style="text-align:{"right" if self._to_the_right(index) else "left"}">{escape(cell)}</{tag}>'
                for index, cell in enumerate(cells)
            )
            return f"<tr>{inner}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        note = f"<p>{'<br>'.join(escape(line) for line in self.note.splitlines())}</p>" if self.note else ""
        # The class keeps MathJax from reading "$0.01 … $0.02" as a formula.
        return (
            '<div class="tex2jax_ignore mathjax_ignore"><table>'
            f"<thead>{line(self.columns, 'th')}</thead><tbody>{body}</tbody></table>{note}</div>"
        )

    def _to_the_right(self, index: int) -> bool:
        return index > 0 and self.figures and self.columns[index] not in self.words

    def as_dicts(self) -> list[dict[str, Any]]:
        """Rows as dictionaries, for ``--json``."""
        return list(self.exact) or [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def escape(text: str) -> str:
    """Text as HTML, with dollars in elements of their own, so that no front end takes them for math."""
    return html.escape(text).replace("$", "<span>&#36;</span>")
