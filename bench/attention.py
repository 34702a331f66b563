# PyTorch's side of bench/attention.mjs: for each line of JSON on stdin, the milliseconds of causal attention by its fused kernel.
import json
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.set_num_threads(int(sys.argv[1]))
torch.set_grad_enabled(False)
print(json.dumps({"info": f"PyTorch {torch.__version__}"}), flush=True)
inputs = {}
for line in sys.stdin:
    job = json.loads(line)
    if line not in inputs:
        inputs.clear()
        shape = (1, job["heads"], job["length"], job["size"])
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
        inputs[line] = [torch.randn(shape).to(dtype) for _ in range(3)]
    q, k, v = inputs[line]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        begin = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        print(json.dumps({"ms": 1000 * (time.perf_counter() - begin)}), flush=True)
