#!/usr/bin/env bash
# transformers 5.23.0 with tokenizers 0.23.3, and sentencepiece 0.2.3
#
# A SentencePiece model carries a table by which text is normalised before it is split. sentencepiece applies it to the
# longest match at each place. tokenizers, in its normalizer Precompiled, looks up what a reader sees as one character,
# and where the table does not have that as a whole it takes what the table has for a beginning of it and drops the
# rest. So of text in which letters and marks are apart (NFD, as macOS writes file names) it leaves marks out: the
# Vietnamese word Việt becomes Viẹt, another word, without any unknown token. Korean syllables are not put together, so
# that two known ones are a single unknown token, and a Japanese letter is two tokens. With whole letters (NFC) both
# agree, and sentencepiece gives the same tokens for either. So a count, and what the model reads, depend on which of the
# two packages a server uses.
#
# Seen:
#   NFC, sentencepiece: ▁ V i ệ t | ▁ 각 각 | ▁ ガ ス
#   NFC, transformers: ▁ V i ệ t | ▁ 각 각 | ▁ ガ ス
#   NFD, sentencepiece: ▁ V i ệ t | ▁ 각 각 | ▁ ガ ス
#   NFD, transformers: ▁ V i ẹ t | ▁ <unk> | ▁ カ <unk> ス
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2
cat > "$folder/seen.py" <<'PYTHON'
import json
import sys
from pathlib import Path
from unicodedata import normalize

import sentencepiece
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
folder.mkdir()
learnt = ["một Việt Nam hẹn gặp", "각각 한국", "ガス カス", "the quick brown fox"] * 50
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(learnt), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
    character_coverage=1.0, max_sentencepiece_length=1, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
)
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
fast = AutoTokenizer.from_pretrained(str(folder))
ways = {
    "sentencepiece": lambda text: [pieces.id_to_piece(it) for it in pieces.encode(text)],
    "transformers": lambda text: fast.convert_ids_to_tokens(fast.encode(text, add_special_tokens=False)),
}
for form in ("NFC", "NFD"):
    for name, split in ways.items():
        print(f"{form}, {name}: {' | '.join(' '.join(split(normalize(form, it))) for it in ('Việt', '각각', 'ガス'))}")
PYTHON
export PYTHONUTF8=1
"$folder/env/bin/python" -P "$folder/seen.py" "$folder/model" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
NFC, sentencepiece: ▁ V i ệ t | ▁ 각 각 | ▁ ガ ス
NFC, transformers: ▁ V i ệ t | ▁ 각 각 | ▁ ガ ス
NFD, sentencepiece: ▁ V i ệ t | ▁ 각 각 | ▁ ガ ス
NFD, transformers: ▁ V i ẹ t | ▁ <unk> | ▁ カ <unk> ス
SEEN
