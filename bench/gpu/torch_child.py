"""PyTorch beside Octavo on the same card: transformers' LlamaForCausalLM of the same shape with random weights, in fp16 or
through bitsandbytes in int8 or NF4. Called by main.mjs with a JSON argument; every result is a line of JSON on stdout the
moment it is there. With "device": "cpu" it runs there in fp32, to be tried without a GPU."""

import json
import statistics
import sys
import time


def put(**line):
    print(json.dumps(line), flush=True)


def say(text):
    print(f"    {text}", file=sys.stderr, flush=True)


job = json.loads(sys.argv[1])
try:
    import torch
    import transformers
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
except ImportError as error:
    put(missing=str(error))
    sys.exit(0)
device = torch.device(job["device"])
if device.type == "cuda" and not torch.cuda.is_available():
    put(missing="torch sees no CUDA device")
    sys.exit(0)
dtype = torch.float32 if device.type == "cpu" else torch.float16
quantization = job["storage"] if job["storage"].startswith("bnb-") else None
if quantization:
    try:
        import bitsandbytes as bnb
    except Exception as error:  # where its library does not load, it is not always an ImportError
        put(missing=f"bitsandbytes: {error}")
        sys.exit(0)

torch.set_grad_enabled(False)


def quantized(linear, storage):
    bias = linear.bias is not None
    if storage == "bnb-int8":
        new = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias, has_fp16_weights=False, threshold=6.0)
        new.weight = bnb.nn.Int8Params(linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        new = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, bias, compute_dtype=dtype, quant_type="nf4"
        )
        new.weight = bnb.nn.Params4bit(linear.weight.data.cpu(), requires_grad=False, quant_type="nf4")
    return new.to(device)  # the move quantizes


def quantize(module, storage):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear) and name != "lm_head":
            setattr(module, name, quantized(child, storage))
        else:
            quantize(child, storage)


fields = {key: value for key, value in job["config"].items() if key != "model_type"}
say("random weights")
torch.set_default_dtype(dtype)
with device:
    model = LlamaForCausalLM(LlamaConfig(**fields)).eval()
torch.set_default_dtype(torch.float32)
if quantization:
    quantize(model, quantization)
title = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads of the CPU"
put(adapter={"description": f"PyTorch {torch.__version__}, transformers {transformers.__version__}, {title}"})
vocab = fields["vocab_size"]


def feed(cache, ids):
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)


def decode(batch, steps):
    """Milliseconds of each greedy step; the token comes back to the host, as a user would have it."""
    cache, ids = feed(DynamicCache(), torch.full((batch, 1), 13, device=device))
    times = []
    for step in range(steps + 3):
        start = time.perf_counter()
        cache, ids = feed(cache, ids)
        ids.cpu()
        if step >= 3:
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def prefill(tokens, runs):
    ids = (torch.arange(tokens, device=device) * 7919 + 13).remainder(vocab).unsqueeze(0)
    times = []
    for run in range(runs + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        feed(DynamicCache(), ids)[1].cpu()
        if run > 0:
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


for batch in job["batches"]:
    say(f"decode, batch {batch}")
    put(decode={"batch": batch, "ms": decode(batch, job["steps"])})
for tokens in job["prompts"]:
    say(f"prefill of {tokens} tokens")
    ms = prefill(tokens, job["runs"])
    put(prefill={"tokens": tokens, "ms": ms, "tokens_per_s": 1000 * tokens / ms})
put(done=True)
