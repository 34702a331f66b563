"""The side of the real peft in `node scripts/check-adapters.mjs`.

    python check-adapters.py write OUT   # adapters of many kinds on models of test/fixtures, with their logits in OUT/cases.json
    python check-adapters.py read        # opens adapters that Octavo wrote: lines of JSON from standard input

A line of `read` is {name, folder, model, class, input_ids, logits, tolerance}. Prints one for each case; exits with 1 if any differs.
"""

import json
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
MODELS = Path(__file__).parent.parent / "test" / "fixtures" / "models"

CAUSAL, SEQ2SEQ, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification"
ATTENTION = ["q_proj", "v_proj"]
# name: model, class, fields of the LoraConfig
CASES = {
    "plain": ("llama", CAUSAL, dict(target_modules=ATTENTION)),
    "usual-targets": ("mistral", CAUSAL, dict(r=3)),
    "regular-expression": ("llama", CAUSAL, dict(target_modules=r"model\.layers\.1\..*(q|down)_proj", r=2)),
    "all-linear": ("qwen2", CAUSAL, dict(target_modules="all-linear", r=3, use_rslora=True, lora_alpha=5)),
    "patterns": ("llama", CAUSAL, dict(target_modules=[*ATTENTION, "up_proj"], r=4, lora_alpha=6,
                                       rank_pattern={r"layers\.0\.self_attn\.q_proj": 2, "up_proj": 5},
                                       alpha_pattern={"up_proj": 11, "v_proj": 3}, use_rslora=True)),
    "layers": ("llama", CAUSAL, dict(target_modules=ATTENTION, layers_to_transform=[1], layers_pattern="layers")),
    "excluded": ("llama", CAUSAL, dict(target_modules=ATTENTION, exclude_modules=["layers.0.self_attn.v_proj"])),
    "conv1d": ("gpt2", CAUSAL, dict(target_modules=["c_attn", "c_proj"], r=3)),
    "conv1d-dora": ("gpt2", CAUSAL, dict(target_modules=["c_fc"], r=3, use_dora=True)),
    "conv1d-biases": ("gpt2", CAUSAL, dict(target_modules=["c_attn"], bias="lora_only")),
    "all-biases": ("opt", CAUSAL, dict(target_modules=ATTENTION, bias="all")),
    "dora-biased": ("qwen2", CAUSAL, dict(target_modules=ATTENTION, use_dora=True, lora_alpha=3)),
    "dora-embedding": ("llama", CAUSAL, dict(target_modules=["embed_tokens", "k_proj"], use_dora=True)),
    "embedding-and-head": ("llama", CAUSAL, dict(target_modules=["embed_tokens", "lm_head"], r=2)),
    "tied-embedding": ("bloom", CAUSAL, dict(target_modules=["word_embeddings"], r=2)),
    "norms": ("llama", CAUSAL, dict(target_modules=ATTENTION, modules_to_save=["norm"])),
    "encoder-decoder": ("t5", SEQ2SEQ, dict(task_type=None)),
    "classifier": ("bert-classifier", CLASSIFIER, dict(task_type="SEQ_CLS")),
}


def opened(model, kind):
    return getattr(transformers, kind).from_pretrained(MODELS / model, attn_implementation="eager").float().eval()


def logits(model, kind, ids):
    more = {"decoder_input_ids": torch.tensor([[0, 5, 9]] * len(ids))} if kind == SEQ2SEQ else {}
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), **more).logits.flatten()


def write(out):
    cases = []
    for name, (base, kind, fields) in CASES.items():
        torch.manual_seed(len(name))
        ids = torch.randint(5, 150, (2, 9)).tolist()
        model = peft.get_peft_model(opened(base, kind), peft.LoraConfig(**{"task_type": "CAUSAL_LM", **fields})).eval()
        for _, p in sorted(model.named_parameters()):
            if p.requires_grad:
                p.data += 0.2 * torch.randn(p.shape)
        plain = logits(opened(base, kind), kind, ids)
        want = logits(model, kind, ids)
        model.save_pretrained(out / name)
        assert (want - plain).abs().max() > 0.01, name
        cases.append(dict(name=name, model=base, **{"class": kind}, input_ids=ids, logits=want.tolist(), plain=plain.tolist()))
    (out / "cases.json").write_text(json.dumps(cases))


def read():
    failed = False
    for line in sys.stdin:
        job = json.loads(line)
        model = peft.PeftModel.from_pretrained(opened(job["model"], job["class"]), job["folder"]).eval()
        difference = float((logits(model, job["class"], job["input_ids"]) - torch.tensor(job["logits"])).abs().max())
        bad = not difference <= job["tolerance"]
        # What peft would write for the same config: it keeps names of modules as sets, in any order, and adds heads of classifiers
        # once more each time.
        config = json.loads(Path(job["folder"], "adapter_config.json").read_text())
        model.peft_config["default"].inference_mode = True
        again = {k: list(v) if isinstance(v, set) else v for k, v in model.peft_config["default"].to_dict().items()}
        ordered = lambda fields: {k: sorted(set(v)) if isinstance(v, list) and "modules" in k else v for k, v in fields.items()}
        same = json.dumps(ordered(again), indent=2, sort_keys=True) == json.dumps(ordered(config), indent=2)
        failed |= bad or not same
        print(f"{job['name']}: logits differ by {difference:.2e}" + ("" if same else ", another config") + (" FAILED" if bad or not same else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(read() if sys.argv[1] == "read" else write(Path(sys.argv[2])))
