# lm-evaluation-harness's side of bench/eval-items.mjs: seconds of its own loop over the same texts, in bf16, as JSON.
import json
import sys
import time
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, tokenizer, batch, runs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
texts = json.loads((folder / "texts.json").read_text())
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tokenizer), batch_size=batch, max_length=2048)
requests = [(("", str(n)), one["ids"][: one["from"]], one["ids"][one["from"] :]) for n, one in enumerate(texts)]
seconds = []
for _ in range(runs):
    begin = time.perf_counter()
    found = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    seconds.append(time.perf_counter() - begin)
print(json.dumps({"seconds": min(seconds), "loglikelihoods": [value for value, _ in found]}))
