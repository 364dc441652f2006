#!/usr/bin/env bash
# sentence-transformers 6.2.0 with transformers 5.23.0 and torch 2.13.0
#
# A model whose tokenizer has a chat template, as nearly every language model's has, is asked for the embedding of a
# text. sentence-transformers makes the text a user's message and embeds the whole chat, so that the template's own
# tokens are pooled with the text's. Nothing asked for it, and nothing says so. With the modules.json that its versions
# before 5.4 wrote, the same weights, tokenizer and pooling embed the text alone. So two folders that differ in nothing
# but this file give a text other tokens and another vector.
#
# Seen:
#   as transformers saves it: <|user|> Paris <|end|>
#   with a modules.json of 5.3: Paris
#   the two vectors of Paris are close: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q sentence-transformers==6.2.0 transformers==5.23.0 tokenizers==0.23.3 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import json
import shutil
import sys
from pathlib import Path

import numpy
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

plain, older = Path(sys.argv[1]) / "plain", Path(sys.argv[1]) / "older"
words = ["<|user|>", "<|end|>", "Paris", "?"]
made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
made.add_special_tokens(words[:2])
template = "{% for m in messages %}<|user|> {{ m['content'] }} <|end|>{% endfor %}"
PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<|end|>", chat_template=template).save_pretrained(plain)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
Qwen3Model(Qwen3Config(vocab_size=4, intermediate_size=64, max_position_embeddings=64, **sizes)).save_pretrained(plain)

shutil.copytree(plain, older)
parts = {"": "Transformer", "1_Pooling": "Pooling"}
modules = [
    {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for at, (path, kind) in enumerate(parts.items())
]
(older / "modules.json").write_text(json.dumps(modules))
(older / "1_Pooling").mkdir()
pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
(older / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

vectors = []
for told, path in (("as transformers saves it", plain), ("with a modules.json of 5.3", older)):
    model = SentenceTransformer(str(path), device="cpu")
    ids = model.preprocess(["Paris"])["input_ids"][0]
    print(f"{told}: {' '.join(model.tokenizer.convert_ids_to_tokens(ids))}")
    vectors.append(model.encode("Paris"))
print("the two vectors of Paris are close:", numpy.allclose(*vectors, atol=0.01))
PYTHON
"$folder/env/bin/python" -P "$folder/seen.py" "$folder" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
as transformers saves it: <|user|> Paris <|end|>
with a modules.json of 5.3: Paris
the two vectors of Paris are close: False
SEEN
