"""PyTorch beside the others: the same protocol as protocol.mjs on transformers' LlamaForCausalLM, loaded from the same
bf16 checkpoint. Called by main.mjs with a JSON argument; prints one line of JSON."""

import json
import re
import sys
import time

job = json.loads(sys.argv[1])
plan = job["plan"]
LONG = 2048

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, DynamicCache  # noqa: E402

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(job["threads"])
torch.set_grad_enabled(False)


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def peak_rss():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) * 1024


def load(variant):
    options = {}
    if variant.startswith("bnb"):
        from transformers import BitsAndBytesConfig

        eight = variant == "bnb-int8"
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=eight,
            load_in_4bit=not eight,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = "cpu"
    dtype = torch.float32 if variant in ("f32", "int8-dynamic") else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(job["file"], dtype=dtype, **options).eval()
    if variant == "int8-dynamic":
        import warnings

        warnings.filterwarnings("ignore")
        quantize = torch.ao.quantization.quantize_dynamic
        model = quantize(model, {torch.nn.Linear}, dtype=torch.qint8)
    return model


class Session:
    def __init__(self, model, rows):
        self.model, self.rows = model, rows
        self.vocab = model.config.vocab_size
        self.reset()

    def reset(self):
        self.cache = DynamicCache()
        self.length = 0

    def feed(self, count):
        ids = [
            [300 + (((self.length + i) * 7919 + row * 104729) % (self.vocab - 300)) for i in range(count)]
            for row in range(self.rows)
        ]
        out = self.model(
            input_ids=torch.tensor(ids), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.cache, self.length = out.past_key_values, self.length + count
        self.logits = out.logits[:, -1]

    def steps(self, count):
        for _ in range(count):
            self.feed(1)


def check(logits):
    if not torch.isfinite(logits).all() or logits.max() <= logits.min():
        raise RuntimeError("Error: the logits are not finite or all the same")


rates = {}


def timed(name, tokens, run):
    start = time.perf_counter()
    run()
    rate = tokens / (time.perf_counter() - start)
    rates.setdefault(name, []).append(rate)
    say(f"{name} {rate:.1f} tok/s")


start = time.perf_counter()
model = load(job["variant"])
load_ms = (time.perf_counter() - start) * 1000
say(f"loaded in {load_ms / 1000:.2f} s")
steps = plan["steps"]
one = Session(model, 1)
one.feed(64)
one.steps(3)
check(one.logits)
for rep in range(max(plan["reps"], plan["longReps"])):
    for length in plan["prefill"]:
        if rep >= (plan["longReps"] if length == LONG else plan["reps"]):
            continue
        one.reset()
        timed(f"prefill{length}", length, lambda: one.feed(length))
        if length == LONG:
            one.steps(2)
            timed("decode2048", steps, lambda: one.steps(steps))
    if rep < plan["reps"]:
        one.reset()
        one.feed(1)
        one.steps(2)
        timed("decode", steps, lambda: one.steps(steps))
one.reset()
many = Session(model, plan["batch"])
many.feed(1)
many.steps(2)
check(many.logits)
for rep in range(plan["reps"]):
    many.reset()
    many.feed(1)
    many.steps(2)
    timed(f"batch{plan['batch']}", steps * plan["batch"], lambda: many.steps(steps))

capability = torch.backends.cpu.get_cpu_capability()
info = f"torch {torch.__version__} ({capability}), transformers {transformers.__version__}"
print(json.dumps({"info": info, "load_ms": load_ms, "peak_rss": peak_rss(), "rates": rates}))
