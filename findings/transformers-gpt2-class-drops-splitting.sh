#!/usr/bin/env bash
# transformers 5.23.0 with tokenizers 0.23.3
#
# A folder has a tokenizer.json whose rules split each digit from the next, and a tokenizer_config.json that names the
# class GPT2Tokenizer. AutoTokenizer takes vocabulary and merges from tokenizer.json, and splits text as GPT-2 does: the
# file's own rules are dropped without a word, so a number is other tokens than the file says. The class
# PreTrainedTokenizerFast, named in the same folder, keeps the rules.
#
# Seen:
#   the file's rules: ['1', '2', '3']
#   GPT2Tokenizer: ['123']
#   PreTrainedTokenizerFast: ['1', '2', '3']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q transformers==5.23.0 tokenizers==0.23.3
cat > "$folder/seen.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
folder.mkdir()
vocabulary = {token: number for number, token in enumerate(["1", "2", "3", "12", "123"])}
made = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("12", "3")]))
made.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
made.save(str(folder / "tokenizer.json"))
print("the file's rules:", Tokenizer.from_file(str(folder / "tokenizer.json")).encode("123").tokens)
for name in ("GPT2Tokenizer", "PreTrainedTokenizerFast"):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    print(f"{name}:", AutoTokenizer.from_pretrained(str(folder)).tokenize("123"))
PYTHON
"$folder/env/bin/python" "$folder/seen.py" "$folder/model" 2> /dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
the file's rules: ['1', '2', '3']
GPT2Tokenizer: ['123']
PreTrainedTokenizerFast: ['1', '2', '3']
SEEN
