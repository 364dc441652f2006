#!/usr/bin/env bash
# llama.cpp's server as it is in xllamacpp 2026.10.11549, tiktoken 0.14.0, gguf 0.19.0
#
# A GGUF whose vocabulary is OpenAI's o200k names the rules "gpt-4o" in tokenizer.ggml.pre. OpenAI's pattern counts marks
# (\p{M}) among a word's letters. llama.cpp's rules of that name know letters alone, so a vowel sign of Hindi, Tamil or Thai
# or a point of Hebrew begins another part, and no merge goes across it: the model reads more tokens than the vocabulary
# has for the word. Here a small vocabulary has each letter with its mark as one token.
#
# Seen:
#   Hindi नी: by OpenAI's pattern 1, by llama.cpp 2
#   Tamil மி: by OpenAI's pattern 1, by llama.cpp 2
#   Thai นี: by OpenAI's pattern 1, by llama.cpp 2
#   Hebrew שָ: by OpenAI's pattern 1, by llama.cpp 2
#   no mark ab: by OpenAI's pattern 1, by llama.cpp 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q xllamacpp==2026.10.11549 tiktoken==0.14.0 gguf==0.19.0
cat > "$folder/seen.py" <<'PYTHON'
import json, os, socket, sys, urllib.request

import gguf, numpy, tiktoken, xllamacpp

words = {"Hindi": "नी", "Tamil": "மி", "Thai": "นี", "Hebrew": "שָ", "no mark": "ab"}
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes as byte-level vocabularies write them
others = [it for it in range(256) if it not in printable]
letters = {it: chr(it) for it in printable} | {it: chr(256 + at) for at, it in enumerate(others)}
ranks, merges = {bytes([it]): it for it in range(256)}, []
for word in words.values():
    known = b""
    for letter in word:  # each character from its bytes, then the word from its characters
        made = b""
        for byte in letter.encode():
            merges += [(made, bytes([byte]))] if made else []
            made += bytes([byte])
        merges += [(known, made)] if known else []
        known += made
merges = list(dict.fromkeys(merges))
ranks |= {a + b: 256 + at for at, (a, b) in enumerate(merges)}
spell = lambda it: "".join(letters[byte] for byte in it)
out = gguf.GGUFWriter(sys.argv[1], "llama")
for name, value in (("context", 64), ("embedding", 32), ("feed_forward", 32)):
    getattr(out, f"add_{name}_length")(value)
out.add_block_count(1), out.add_head_count(1)
out.add_layer_norm_rms_eps(1e-5)
out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre("gpt-4o")
out.add_token_list([*map(spell, ranks), "<|end|>"]), out.add_token_types([1] * len(ranks) + [3])
out.add_token_merges([f"{spell(a)} {spell(b)}" for a, b in merges])
out.add_bos_token_id(len(ranks)), out.add_eos_token_id(len(ranks)), out.add_add_bos_token(False)
zeros = lambda *shape: numpy.zeros(shape, numpy.float32)
for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    out.add_tensor(f"blk.0.{name}.weight", zeros(32, 32))
for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
    out.add_tensor(f"{name}.weight", zeros(32))
out.add_tensor("token_embd.weight", zeros(len(ranks) + 1, 32))
out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()

upper, lower, end = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
pattern = rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{end}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{end}"
pattern += r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
openai = tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port, params.n_parallel, params.n_ctx = sys.argv[1], ["127.0.0.1"], port, 1, 64
server = xllamacpp.Server(params)
with open(sys.argv[2], "w") as seen:
    for name, word in words.items():
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/tokenize", json.dumps({"content": word}).encode())
        theirs = json.load(urllib.request.urlopen(asked, timeout=60))["tokens"]
        print(f"{name} {word}: by OpenAI's pattern {len(openai.encode(word))}, by llama.cpp {len(theirs)}", file=seen)
os._exit(0)
PYTHON
export PYTHONUTF8=1
"$folder/env/bin/python" -P "$folder/seen.py" "$folder/small.gguf" "$folder/seen" > "$folder/log" 2>&1 || tail -5 "$folder/log"
cat "$folder/seen"
diff "$folder/seen" <(sed -n '/^# Seen:/,/^set/s/^#   //p' "$0")
