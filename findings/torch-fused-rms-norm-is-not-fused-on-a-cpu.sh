#!/usr/bin/env bash
# torch 2.13.0
#
# On a CPU rms_norm calls an operation named _fused_rms_norm, which is not fused: squares, their mean, a sum with eps,
# the root and two products are kernels of their own, each with memory for its result, where layer_norm is one kernel.
# In bf16 it rounds once, after the weights. The norms of Llama in transformers round before them as well, so that
# putting rms_norm with its weights in their place changes numbers; without weights, which are multiplied afterwards, it
# gives the same ones.
#
# Seen:
#   rms_norm calls _fused_rms_norm, and in it: pow mean add_ rsqrt mul mul
#   layer_norm calls native_layer_norm, and in it: nothing that computes
#   bf16, 64 rows of 576: with weights as rounded before them: False; weights afterwards: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import torch
from torch.nn.functional import layer_norm, rms_norm
from torch.profiler import ProfilerActivity, profile

COMPUTES = {"pow", "mean", "add_", "rsqrt", "mul", "sub", "div", "var_mean"}
WIDTH, EPS = (576,), 1e-5


def told(norm):
    norm()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        norm()
    events = sorted(seen.events(), key=lambda event: event.time_range.start)
    called = [event.name.removeprefix("aten::") for event in events]
    inside = " ".join(it for it in called[2:] if it in COMPUTES) or "nothing that computes"
    print(f"{called[0]} calls {called[1]}, and in it: {inside}")


with torch.inference_mode():
    torch.manual_seed(0)
    wide, weights = torch.randn(64, *WIDTH), torch.randn(WIDTH)
    told(lambda: rms_norm(wide, WIDTH, weights, EPS))
    told(lambda: layer_norm(wide, WIDTH, weights, None, EPS))
    given, by = wide.bfloat16(), weights.bfloat16()
    scaled = given.float() * torch.rsqrt(given.float().pow(2).mean(-1, keepdim=True) + EPS)
    rounded_before = by * scaled.bfloat16()
    with_weights = torch.equal(rms_norm(given, WIDTH, by, EPS), rounded_before)
    afterwards = torch.equal(rms_norm(given, WIDTH, None, EPS) * by, rounded_before)
    print(f"bf16, 64 rows of 576: with weights as rounded before them: {with_weights}; weights afterwards: {afterwards}")
PYTHON
"$folder/env/bin/python" "$folder/seen.py" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
rms_norm calls _fused_rms_norm, and in it: pow mean add_ rsqrt mul mul
layer_norm calls native_layer_norm, and in it: nothing that computes
bf16, 64 rows of 576: with weights as rounded before them: False; weights afterwards: True
SEEN
