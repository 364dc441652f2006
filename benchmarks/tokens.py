"""How long ``%%tokens`` takes on five models over a text of 10,000 tokens, once their tokenizers have been read.

``python -m benchmarks.tokens [ROUNDS]``: the default model must have been pulled. The five are its tokenizer in five
folders, each read by itself: 49,000 entries, byte-level. The cell is a chat with a system message, an example and a
variable that holds the text, which repeats itself and has runs of blanks, so that everything there is to find is looked
for and counted anew. The time is that of the whole cell, from its source to the HTML of its output.

- ``cell_ms``: the text another one in each round.
- ``cpu_ms``: what of it this process computed; on a busy machine the rest is waiting for a processor.
- ``count_ms``: for comparison, the bare tokenizers over the same chats, one after the other.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from benchmarks import report, spread
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local.store import locate
from tokmagic.runs import api

MODELS = ("a", "b", "c", "d", "e")
TOKENS = 10_000
CELL = """\
%%tokens -m {models}
--- system
You answer questions about the text that you are given.
--- user
The sea was calm. What was calm?
--- assistant
The sea.
--- user
{{{{ text }}}}
What happened?
"""


def prose(seed: int) -> str:
    """More than 10,000 tokens, some of them said before, with blank lines and blanks at line ends."""
    words = [
        f"{first}{second}" for first in ("light", "sea", "storm", "har") for second in ("house", "man", "bour", "s")
    ]
    said = " ".join(words[(seed + at * at) % len(words)] for at in range(200))
    lines = []
    for line in range(600):
        written = " ".join(words[(seed + line * 7 + at * at * (line + 3)) % len(words)] for at in range(12))
        lines.append(f"{line}: {written}. {'  ' if line % 9 == 0 else ''}")
        lines += ["", "", ""] if line % 20 == 0 else []
        lines += [said] if line % 120 == 0 else []
    return "\n".join(lines)


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Run the cell over and over, and beside it the bare tokenizers."""
    from transformers import AutoTokenizer

    shell: Any = InteractiveShell.instance()  # its functions have no types
    shell.run_line_magic("load_ext", "tokmagic")
    found = locate(ModelSpec("smollm2"), TokMagic())
    assert found is not None, "pull the default model first"
    for name in MODELS:
        shutil.copytree(found.folder, folder / name, ignore=shutil.ignore_patterns("*.safetensors", "tokmagic.json"))
        api.session().models.add(name, ModelSpec(str(folder / name)))
    bare = [AutoTokenizer.from_pretrained(str(folder / name)) for name in MODELS]
    cell = CELL.format(models=",".join(MODELS))

    def once(seed: int) -> tuple[float, float, float]:
        shell.user_ns["text"] = bare[0].decode(bare[0](prose(seed))["input_ids"][:TOKENS])
        began, computed = time.perf_counter(), time.process_time()
        with capture_output():
            ran = shell.run_cell(cell)
            html = ran.result._repr_html_()
        cell_ms, cpu_ms = (time.perf_counter() - began) * 1e3, (time.process_time() - computed) * 1e3
        assert "said before" in html
        assert "blank lines" in html
        assert all(TOKENS <= it.tokens < 1.02 * TOKENS for it in ran.result.models), ran.result.counts()
        chat = [{"role": it.role, "content": it.content} for it in ran.result.prompt.messages]
        began = time.perf_counter()
        for tokenizer in bare:
            tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        return cell_ms, cpu_ms, (time.perf_counter() - began) * 1e3

    once(0)
    cells, cpus, counts = zip(*(once(seed) for seed in range(1, rounds + 1)), strict=True)
    return {
        "rounds": rounds,
        "models": len(MODELS),
        "cell_ms": spread(cells),
        "cpu_ms": spread(cpus),
        "count_ms": spread(counts),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TOKMAGIC_LEDGER"] = f"sqlite:///{scratch}/ledger.sqlite"
        report("tokens", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(scratch)))
