#!/usr/bin/env bash
# jupytext 1.19.6 with nbformat 5.11.1
#
# A code cell is one cell magic whose text speaks of """ once; below it are a Markdown cell and a code cell. The text is no
# Python, but jupytext looks for Python's strings in it, finds one that never ends, and passes over the marks of all cells
# that follow, in Markdown over the end of the fence too. Written and read again the notebook is one cell: where the magic
# sends its text to a model, the rest of the notebook now goes there. A second """ further down the file ends it; with
# ''' it is the same. MyST's Markdown is read by another parser and keeps the three cells.
#
# Seen:
#   py:percent: 1 cell, the last line of the first: x = 1
#   py:light: 1 cell, the last line of the first: x = 1
#   md: 1 cell, the last line of the first: ```
#   md:myst: 3 cells, the last line of the first: What does """ mean?
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q jupytext==1.19.6 nbformat==5.11.1
cat > "$folder/seen.py" <<'PYTHON'
import jupytext
from nbformat import v4

cells = [v4.new_code_cell('%%ask\nWhat does """ mean?'), v4.new_markdown_cell("Then"), v4.new_code_cell("x = 1")]
kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
for form in ("py:percent", "py:light", "md", "md:myst"):
    again = jupytext.reads(jupytext.writes(notebook, form), form).cells
    last = again[0].source.splitlines()[-1]
    print(f"{form}: {len(again)} cell{'s'[: len(again) - 1]}, the last line of the first: {last}")
PYTHON
"$folder/env/bin/python" "$folder/seen.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
py:percent: 1 cell, the last line of the first: x = 1
py:light: 1 cell, the last line of the first: x = 1
md: 1 cell, the last line of the first: ```
md:myst: 3 cells, the last line of the first: What does """ mean?
SEEN
