# PyTorch + PEFT's side of bench/lora.mjs: the median time of a step of LoRA on a folder's model in bf16, as JSON.
import json
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

folder, rows, length, steps = sys.argv[1], *map(int, sys.argv[2:5])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(model, config)
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.tensor([[(i * 7919 + b * 31 + 13) % 31999 for i in range(length)] for b in range(rows)])
whole, ahead = [], []
for _ in range(steps):
    begin = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.item()
    ahead.append(time.perf_counter() - begin)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    whole.append(time.perf_counter() - begin)
print(json.dumps({"step_ms": 1000 * statistics.median(whole[1:]), "loss_ms": 1000 * statistics.median(ahead[1:])}))
