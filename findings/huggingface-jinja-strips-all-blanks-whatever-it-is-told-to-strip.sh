#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 (which fills in chat templates for transformers.js), Jinja2 3.1.6
#
# Many chat templates take line ends alone off a text: Qwen's and SmolLM's write content.lstrip('\n') behind a thought.
# In Python, where templates are written for, strip, lstrip and rstrip take off the characters that they are given.
# @huggingface/jinja leaves the argument out of account without a word and takes off all white space: code that begins
# with an indentation loses it, so a conversation is another prompt in JavaScript, and has other tokens, than in Python.
# Characters that are no white space, such as asterisks, stay where Python takes them off.
#
# Seen:
#   content.lstrip('\n'): Python '    return 1  ', JavaScript 'return 1  '
#   content.rstrip('\n'): Python '\n    return 1  ', JavaScript '\n    return 1'
#   content.strip('*\n'): Python '    return 1  ', JavaScript 'return 1'
#   '**yes**'.strip('*'): Python 'yes', JavaScript '**yes**'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q Jinja2==3.1.6 2> "$folder/log"
(cd "$folder" && npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/jinja@0.5.11)
cat > "$folder/asked.json" <<'JSON'
["content.lstrip('\\n')", "content.rstrip('\\n')", "content.strip('*\\n')", "'**yes**'.strip('*')"]
JSON
cat > "$folder/filled.mjs" <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";

const asked = JSON.parse(readFileSync("asked.json", "utf8"));
const content = "\n    return 1  ";
const filled = asked.map((it) => new Template(`{{ ${it} }}`).render({ content }));
console.log(JSON.stringify(filled));
JAVASCRIPT
cat > "$folder/seen.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from jinja2 import Environment

theirs = json.loads(sys.stdin.read())
for asked, filled in zip(json.loads(Path("asked.json").read_text()), theirs, strict=True):
    here = Environment().from_string("{{ " + asked + " }}").render(content="\n    return 1  ")
    print(f"{asked}: Python {here!r}, JavaScript {filled!r}")
PYTHON
cd "$folder"
node filled.mjs | env/bin/python -P seen.py | tee seen
diff seen - <<'SEEN'
content.lstrip('\n'): Python '    return 1  ', JavaScript 'return 1  '
content.rstrip('\n'): Python '\n    return 1  ', JavaScript '\n    return 1'
content.strip('*\n'): Python '    return 1  ', JavaScript 'return 1'
'**yes**'.strip('*'): Python 'yes', JavaScript '**yes**'
SEEN
