"""tokmagic: see what every prompt costs, while you write it.

``%load_ext tokmagic`` in a notebook, or from Python::

    import tokmagic
    answer = tokmagic.generate("Name three rivers.", max_tokens=40)
    print(answer.text, answer.usage, answer.cost)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokmagic.core.version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from tokmagic.comparisons.api import compare as compare
    from tokmagic.runs.api import count as count
    from tokmagic.runs.api import generate as generate
    from tokmagic.runs.api import generate_many as generate_many
    from tokmagic.runs.api import ledger as ledger
    from tokmagic.runs.api import panel as panel
    from tokmagic.runs.generation import Generation as Generation

__all__ = ["Generation", "__version__", "compare", "count", "generate", "generate_many", "ledger", "panel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tokmagic' has no attribute {name!r}")
    room = {"Generation": "runs.generation", "compare": "comparisons.api"}.get(name, "runs.api")
    return getattr(import_module(f"tokmagic.{room}"), name)  # start-up: %load_ext and --version need none of these


def load_ipython_extension(shell: InteractiveShell) -> None:
    """``%load_ext tokmagic``."""
    from tokmagic.magics.magics import load  # start-up: IPython

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """``%unload_ext tokmagic``."""
    from tokmagic.magics.magics import unload  # start-up: IPython

    unload(shell)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "tokmagic"}]
