"""The widget in which a person rates answers: one at a time, without a word on which variant it is of."""

from __future__ import annotations

from typing import Any

from tokmagic.comparisons.ratings import Rating
from tokmagic.errors import UsageError
from tokmagic.formatting.markdown import plain_text
from tokmagic.formatting.tables import escape

_CHARACTERS = 20_000


class RatingWidget:
    """Shows what is to be rated, with buttons. ``widget`` is what is displayed."""

    def __init__(self, rating: Rating) -> None:
        """Raises UsageError where ipywidgets is missing."""
        try:
            import ipywidgets
        except ImportError:
            raise UsageError("rating answers needs the package ipywidgets; run: pip install 'tokmagic[lab]'") from None
        self._rating = rating
        self._shown = ipywidgets.HTML()
        self._buttons: dict[str, Any] = {}
        for name, what, style in (
            ("Yes", lambda: rating.give(True), "success"),
            ("No", lambda: rating.give(False), "danger"),
            ("Later", rating.skip, ""),
            ("Undo", rating.undo, ""),
        ):
            button = self._buttons[name] = ipywidgets.Button(description=name, button_style=style)
            button.on_click(lambda _button, what=what: self._act(what))
        self.widget = ipywidgets.VBox([self._shown, ipywidgets.HBox(list(self._buttons.values()))])
        self._show()

    def press(self, name: str) -> None:
        """As a click on Yes, No, Later or Undo."""
        self._buttons[name].click()

    @property
    def html(self) -> str:
        """What is shown now."""
        return str(self._shown.value)

    def _act(self, what: Any) -> None:
        problem = ""
        try:
            what()
        except Exception as error:  # in a front end's callback it would be lost
            problem = f"<p><b>{escape(f'{type(error).__name__}: {error}')}</b></p>"
        self._show(problem)

    def _show(self, problem: str = "") -> None:
        now, done = self._rating.now, self._rating.done
        count = f"<p>{done:,} of {done + self._rating.left:,} answers rated</p>"
        possible = {
            "Yes": now is not None,
            "No": now is not None,
            "Later": self._rating.left > 1,
            "Undo": self._rating.can_undo,
        }
        for name, can in possible.items():
            self._buttons[name].disabled = not can
        if now is None:
            self._shown.value = f"{problem}{count}<p>All are rated: the comparison has their scores.</p>"
            return
        columns = "".join(
            f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in now.item.items()
        )
        box = f'<div style="white-space:pre-wrap;border:1px solid;padding:0.5em">{_text(now.text)}</div>'
        question = f"<p><b>{escape(now.question)}</b></p>"
        self._shown.value = f'{problem}{count}<table style="text-align:left">{columns}</table>{box}{question}'


def _text(value: object) -> str:
    return escape(plain_text(str(value))[:_CHARACTERS])
