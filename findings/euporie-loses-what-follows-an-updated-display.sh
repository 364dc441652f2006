#!/usr/bin/env bash
# euporie 2.10.4 with ipykernel 7.4.0 and nbformat 5.11.1
#
# euporie-preview --run --save runs a notebook and writes its outputs into the file. One cell shows something and then
# updates it (display_id), as progress bars do. In the file that cell keeps what it showed first, and every cell below it,
# whatever it prints or returns, has no output at all, though it has run and has its number. The status is 0. With the
# update taken out of that one cell all outputs are there.
#
# Seen:
#   updated, status 0: c1 ['before'], c2 ['first'], c3 [], c4 []
#   shown once, status 0: c1 ['before'], c2 ['first'], c3 ['after'], c4 ['2']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q euporie==2.10.4 ipykernel==7.4.0 nbformat==5.11.1
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import nbformat

UPDATE = "; shown.update({'text/plain': 'last'}, raw=True)"
ONCE = "from IPython.display import display; shown = display({'text/plain': 'first'}, raw=True, display_id=True)"
PREVIEW = [str(Path(sys.executable).parent / "euporie-preview"), "--run", "--save"]


def texts(cell):
    return [(it.get("text") or it["data"]["text/plain"]).strip() for it in cell.outputs]


for how, source in (("updated", ONCE + UPDATE), ("shown once", ONCE)):
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python"}
    for number, text in enumerate(("print('before')", source, "print('after')", "1 + 1"), 1):
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=f"c{number}"))
    nbformat.write(notebook, "notebook.ipynb")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    status = subprocess.run([*PREVIEW, "notebook.ipynb"], timeout=120, check=False, **quiet).returncode
    cells = nbformat.read("notebook.ipynb", 4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    print(f"{how}, status {status}: " + ", ".join(f"{cell.id} {texts(cell)}" for cell in cells))
PYTHON
cd "$folder"
HOME="$folder" PATH="$folder/env/bin:$PATH" env/bin/python -P seen.py | tee seen
diff seen - <<'SEEN'
updated, status 0: c1 ['before'], c2 ['first'], c3 [], c4 []
shown once, status 0: c1 ['before'], c2 ['first'], c3 ['after'], c4 ['2']
SEEN
