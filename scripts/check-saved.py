"""Opens folders that Octavo saved with the real transformers (and bitsandbytes), and compares logits.

Reads lines of JSON from standard input: {folder, class, input_ids, logits, tolerance}. `class` is an Auto class of transformers.
Prints a line for each, and exits with 1 if one differs, or if a tensor is missing, unexpected or of another shape.
`node scripts/check-saved.mjs` writes the folders and calls this.
"""

import json
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
failed = False
for line in sys.stdin:
    job = json.loads(line)
    loader = getattr(transformers, job["class"])
    if job["quantized"]:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            print(f"{job['name']}: skipped, bitsandbytes is not installed")
            continue
    # "eager" defines the others: "sdpa" leaves out Gemma 2's soft caps, and adds Falcon's ALiBi once instead of twice.
    eager = {} if job["logits"] is None else {"attn_implementation": "eager"}
    model, info = loader.from_pretrained(job["folder"], output_loading_info=True, **eager)
    problems = {key: sorted(map(str, value)) for key, value in info.items() if value and key != "error_msgs"}
    model.eval().float()
    difference = None
    if job["logits"] is not None:
        with torch.no_grad():
            got = model(input_ids=torch.tensor(job["input_ids"])).logits.flatten()
        difference = float((got - torch.tensor(job["logits"])).abs().max())
    bad = bool(problems) or (difference is not None and not difference <= job["tolerance"])
    failed |= bad
    said = "tensors as expected" if not problems else json.dumps(problems)
    print(f"{job['name']}: {said}" + ("" if difference is None else f", logits differ by {difference:.2e}") + (" FAILED" if bad else ""))
sys.exit(1 if failed else 0)
