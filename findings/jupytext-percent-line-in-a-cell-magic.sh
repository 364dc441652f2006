#!/usr/bin/env bash
# jupytext 1.19.6 with nbformat 5.11.1
#
# A code cell is one cell magic with a text below it, and one line of that text begins with "# %%". Written as
# py:percent and read again it is two cells, and that line is gone from both.
#
# Seen:
#   before: ['%%ask\nA comment:\n# %% in a prompt\nend']
#   after: ['%%ask\nA comment:', 'end']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q jupytext==1.19.6 nbformat==5.11.1
cat > "$folder/seen.py" <<'PYTHON'
import jupytext
from nbformat import v4

notebook = v4.new_notebook(cells=[v4.new_code_cell("%%ask\nA comment:\n# %% in a prompt\nend")])
again = jupytext.reads(jupytext.writes(notebook, "py:percent"), "py:percent")
print("before:", [cell.source for cell in notebook.cells])
print("after:", [cell.source for cell in again.cells])
PYTHON
"$folder/env/bin/python" "$folder/seen.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
before: ['%%ask\nA comment:\n# %% in a prompt\nend']
after: ['%%ask\nA comment:', 'end']
SEEN
