# PyTorch + PEFT's side of bench/curve.mjs: the losses of the same updates of the same adapter on the same batches, as JSON.
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

folder = Path(sys.argv[2])
plan = json.loads((folder / "plan.json").read_text())
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0)


def evaluate():
    model.eval()
    rows = torch.tensor(plan["held_out"])
    with torch.no_grad():
        total = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(4))
    model.train()
    return total / len(rows)


before, losses = evaluate(), []
for batch, rate in zip(plan["batches"], plan["rates"]):
    for group in optimizer.param_groups:
        group["lr"] = rate
    ids = torch.tensor(batch)
    loss = model(input_ids=ids, labels=ids).loss
    losses.append(loss.item())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(json.dumps({"losses": losses, "before": before, "after": evaluate()}))
