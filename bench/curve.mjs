// The loss of 200 updates of LoRA on the storyteller, whose text to learn is a part of its evaluation text: on float weights, on 8 and 4
// bits, and with an 8-bit optimizer. Each kind runs in a process of its own, begins with the same adapter, and sees the same batches.
// node bench/curve.mjs [--updates 200] [--python PATH] [--json]
//
// --python PATH runs PyTorch + PEFT beside it (bench/curve.py; needs torch, transformers and peft).

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

const { values } = parseArgs({
  options: {
    child: { type: "string" },
    folder: { type: "string" },
    updates: { type: "string", default: "200" },
    python: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const MODEL = fileURLToPath(new URL("../models/storyteller", import.meta.url));
const TEXT = new URL("../models/storyteller-eval.txt", import.meta.url);

const KINDS = {
  float32: {},
  "float32, AdamW8bit": { eight: true },
  int8: { load: { load_in_8bit: true } },
  nf4: { load: { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } } },
};
const [ROWS, LENGTH, SHOWN] = [4, 128, 20];
const LORA = { r: 16, lora_alpha: 32, target_modules: "all-linear", task_type: "CAUSAL_LM" };

/** What all kinds share: batches in their order, rates, and texts that are not learned. */
function planOf(ids, updates) {
  const windows = Array.from({ length: Math.floor(ids.length / LENGTH) }, (_, i) =>
    ids.slice(i * LENGTH, (i + 1) * LENGTH),
  );
  const learned = windows.slice(0, Math.floor(windows.length * 0.8));
  let state = 1;
  const drawn = () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return learned[(state >>> 8) % learned.length];
  };
  return {
    batches: Array.from({ length: updates }, () => Array.from({ length: ROWS }, drawn)),
    rates: Array.from({ length: updates }, (_, i) => 1e-3 * Math.min(1, (i + 1) / 10) * (1 - i / updates)),
    held_out: windows.slice(learned.length),
  };
}

async function child(kind, folder) {
  const { AutoModelForCausalLM, PeftModel } = await library("index.js");
  const { AdamW, AdamW8bit } = await library("bnb/optim/index.js");
  const { batches, rates, held_out } = JSON.parse(readFileSync(join(folder, "plan.json"), "utf8"));
  const { load = {}, eight } = KINDS[kind];
  const base = await AutoModelForCausalLM.from_pretrained(MODEL, { device: "cpu", dtype: "float32", ...load });
  const model = await PeftModel.from_pretrained(base, join(folder, "adapter"), { is_trainable: true });
  const parameters = [...model.parameters()].filter(({ requires_grad }) => requires_grad);
  const optimizer = eight
    ? new AdamW8bit(parameters, { lr: rates[0], weight_decay: 0, min_8bit_size: 256 })
    : new AdamW(parameters, { lr: rates[0], weight_decay: 0 });
  const lossOf = async (input_ids) => {
    const { loss } = model.forward({ input_ids, labels: input_ids, skip_logits: true });
    const [value] = await loss.readFloats();
    return { loss, value };
  };
  const evaluate = async () => {
    model.eval();
    let sum = 0;
    for (let at = 0; at < held_out.length; at += ROWS) {
      const rows = held_out.slice(at, at + ROWS);
      const { loss, value } = await lossOf(rows);
      sum += value * rows.length;
      loss.dispose();
    }
    model.train();
    return sum / held_out.length;
  };
  const before = await evaluate();
  const losses = [];
  for (const [i, batch] of batches.entries()) {
    for (const group of optimizer.param_groups) group.lr = rates[i];
    const { loss, value } = await lossOf(batch);
    losses.push(value);
    await model.backward(loss);
    optimizer.step();
    optimizer.zero_grad();
    loss.dispose();
  }
  process.stdout.write(JSON.stringify({ losses, before, after: await evaluate() }));
  process.exit(0);
}

if (values.child) await child(values.child, values.folder);

const run = async (command, args) => JSON.parse((await promisify(execFile)(command, args)).stdout.trim());
const folder = mkdtempSync(join(tmpdir(), "octavo-curve-"));
const results = {};
try {
  const { AutoModelForCausalLM, AutoTokenizer, LoraConfig, get_peft_model } = await library("index.js");
  const tokenizer = await AutoTokenizer.from_pretrained(MODEL);
  const plan = planOf(tokenizer.encode(readFileSync(TEXT, "utf8")), Number(values.updates));
  writeFileSync(join(folder, "plan.json"), JSON.stringify(plan));
  const base = await AutoModelForCausalLM.from_pretrained(MODEL, { device: "cpu", dtype: "float32" });
  const model = await get_peft_model(base, new LoraConfig(LORA));
  await model.save_pretrained(join(folder, "adapter"));
  base.dispose();
  for (const kind of Object.keys(KINDS)) {
    results[kind] = await run(process.execPath, [
      fileURLToPath(import.meta.url),
      ...["--child", kind, "--folder", folder],
    ]);
  }
  if (values.python) {
    const twin = fileURLToPath(new URL("curve.py", import.meta.url));
    results["PyTorch float32"] = await run(values.python, [twin, MODEL, folder]);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
else {
  const names = Object.keys(results);
  const width = Math.max(...names.map((name) => name.length)) + 2;
  const line = (head, cells) =>
    process.stdout.write(`${head.padEnd(12)}${cells.map((c) => c.padStart(width)).join("")}\n`);
  process.stdout.write(
    `LoRA on the storyteller, r ${LORA.r}, ${ROWS} x ${LENGTH} tokens: mean loss of updates, and of the text not learned\n\n`,
  );
  line("", names);
  for (let at = 0; at < Number(values.updates); at += SHOWN) {
    const mean = (all) =>
      all.slice(at, at + SHOWN).reduce((sum, one) => sum + one, 0) / all.slice(at, at + SHOWN).length;
    line(
      `${at + 1}-${at + SHOWN}`,
      names.map((name) => mean(results[name].losses).toFixed(4)),
    );
  }
  line(
    "before",
    names.map((name) => results[name].before.toFixed(4)),
  );
  line(
    "after",
    names.map((name) => results[name].after.toFixed(4)),
  );
}
