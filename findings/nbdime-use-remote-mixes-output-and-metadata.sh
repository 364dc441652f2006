#!/usr/bin/env bash
# nbdime 4.0.4 with nbformat 5.11.1
#
# One cell was run three times: base, local and remote notebooks differ in the last word of its output's text and in the
# metadata of that output, {"run": {"id": …, "tokens": …}}: base/5, local/2, remote/5. nbmerge with
# --output-strategy use-remote gives the text of the remote one with metadata that belongs to no run: the id of base
# beside the number of local. Whatever reads figures from an output's metadata then has them under another answer.
#
# Seen:
#   status 1
#   text ends with: remote
#   metadata: {"id": "base", "tokens": 2}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q nbdime==4.0.4 nbformat==5.11.1
cat > "$folder/make.py" <<'PYTHON'
import sys
from pathlib import Path

import nbformat
from nbformat import v4

for name, tokens in (("base", 5), ("local", 2), ("remote", 5)):
    text = f"The sky is blue.\nThe sea is wide.\nThe answer is {name}"
    output = v4.new_output("display_data", {"text/plain": text}, metadata={"run": {"id": name, "tokens": tokens}})
    cell = v4.new_code_cell("ask()", id="one", outputs=[output], execution_count=1)
    nbformat.write(v4.new_notebook(cells=[cell]), Path(sys.argv[1]) / f"{name}.ipynb")
PYTHON
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

(output,) = json.loads(Path(sys.argv[1]).read_text())["cells"][0]["outputs"]
print("text ends with:", "".join(output["data"]["text/plain"]).split()[-1])
print("metadata:", json.dumps(output["metadata"]["run"]))
PYTHON
"$folder/env/bin/python" "$folder/make.py" "$folder"
cd "$folder"
status=0
env/bin/nbmerge base.ipynb local.ipynb remote.ipynb --output-strategy use-remote --out merged.ipynb > log 2>&1 || status=$?
{ echo "status $status"; env/bin/python show.py merged.ipynb; } | tee seen
diff seen - <<'SEEN'
status 1
text ends with: remote
metadata: {"id": "base", "tokens": 2}
SEEN
