#!/usr/bin/env bash
# ploomber-engine 0.0.33 with nbformat 5.11.1 and ipython 9.18.1
#
# ploomber-engine runs a notebook as papermill does, but in one process. What display() shows is written without its
# metadata, while the value of a cell's last line keeps it; so figures kept there, or an image's width and height, depend on
# how the same object was shown. And an update of a display is written as one more output below what it replaces. With
# nbclient (papermill's and nbconvert's way) both are as a front end shows them.
#
# Seen:
#   nbclient: shown [('one', {'run': 1})], returned [('two', {'run': 2})], updated [('last', {'run': 3})]
#   ploomber-engine: shown [('one', {})], returned [('two', {'run': 2})], updated [('draft', {}), ('last', {})]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q ploomber-engine==0.0.33 nbformat==5.11.1 nbclient==0.11.0 ipykernel==7.4.0 \
    ipython==9.18.1 setuptools==80.9.0
cat > "$folder/seen.py" <<'PYTHON'
from copy import deepcopy

import nbformat
from nbclient import NotebookClient
from ploomber_engine.ipython import PloomberClient

OBJECT = """from IPython.display import display
class Shown:
    def __init__(self, text, run):
        self.text, self.run = text, run
    def _repr_mimebundle_(self, **_):
        return {"text/plain": self.text}, {"run": self.run}
"""
CELLS = {
    "shown": OBJECT + "display(Shown('one', 1))",
    "returned": "Shown('two', 2)",
    "updated": "place = display(Shown('draft', 3), display_id=True)\nplace.update(Shown('last', 3))",
}
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}


def show(engine, run):
    outputs = [[(it.data["text/plain"], dict(it.metadata)) for it in cell.outputs] for cell in run.cells]
    print(f"{engine}: " + ", ".join(f"{name} {seen}" for name, seen in zip(CELLS, outputs, strict=True)))


show("nbclient", NotebookClient(deepcopy(notebook)).execute())
show("ploomber-engine", PloomberClient(deepcopy(notebook)).execute())
PYTHON
cd "$folder"
HOME="$folder" PATH="$folder/env/bin:$PATH" env/bin/python -P seen.py 2> errors | tee seen
diff seen - <<'SEEN'
nbclient: shown [('one', {'run': 1})], returned [('two', {'run': 2})], updated [('last', {'run': 3})]
ploomber-engine: shown [('one', {})], returned [('two', {'run': 2})], updated [('draft', {}), ('last', {})]
SEEN
