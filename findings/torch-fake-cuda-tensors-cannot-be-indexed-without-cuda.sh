#!/usr/bin/env bash
# torch 2.13.0 (the build for CPUs)
#
# FakeTensorMode lets code for a GPU run without one: its tensors have shapes, dtypes and a device, and nothing else. In a
# build of torch without CUDA most of it works with tensors that say they are on cuda:0, also what mixes devices is told.
# But x[0] is not: the brackets switch to the tensor's device before anything looks at what kind of tensor it is, and fail
# as if the build had been asked for a kernel. The same row by select() or by iterating is given. So code that was never
# at fault fails where it is checked without a GPU, and passes where there is one.
#
# Seen:
#   x + x: cuda:0
#   x @ x.T: cuda:0
#   attention: cuda:0
#   x + a CPU tensor: RuntimeError
#   x.select(0, 0): cuda:0
#   next(iter(x)): cuda:0
#   x[0]: RuntimeError: PyTorch is not linked with support for cuda devices
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q torch==2.13.0 numpy==2.4.0
cat > "$folder/seen.py" <<'PYTHON'
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention as attend

assert torch.version.cuda is None, "only a build without CUDA shows it"
with FakeTensorMode():
    x = torch.ones(4, 8, device="cuda")
    heads = x.view(1, 1, 4, 8)
    ways = {
        "x + x": lambda: x + x,
        "x @ x.T": lambda: x @ x.T,
        "attention": lambda: attend(heads, heads, heads),
        "x + a CPU tensor": lambda: x + torch.ones(4, 8),
        "x.select(0, 0)": lambda: x.select(0, 0),
        "next(iter(x))": lambda: next(iter(x)),
        "x[0]": lambda: x[0],
    }
    for name, way in ways.items():
        try:
            print(f"{name}: {way().device}")
        except RuntimeError as error:
            linked = "PyTorch is not linked with support for cuda devices"
            print(f"{name}: RuntimeError" + (f": {linked}" if linked in str(error) else ""))
PYTHON
"$folder/env/bin/python" "$folder/seen.py" 2> /dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
x + x: cuda:0
x @ x.T: cuda:0
attention: cuda:0
x + a CPU tensor: RuntimeError
x.select(0, 0): cuda:0
next(iter(x)): cuda:0
x[0]: RuntimeError: PyTorch is not linked with support for cuda devices
SEEN
