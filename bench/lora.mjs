// A step of LoRA (r 8 on q and v, AdamW) on random weights of a shape: tokens per second, the time until the loss is known, and the peak of
// memory above the weights. Each storage runs in a process of its own; medians of the steps after the first. Until the loss is known the
// head's backward pass is made too, piece by piece with its forward (nn/head-loss.ts): it is no time of the forward pass alone.
// node bench/lora.mjs [--shape M] [--rows 4] [--length 512] [--steps 4] [--storages int8,nf4,bf16] [--python PATH] [--json]
//
// --python PATH measures PyTorch + PEFT in bf16 beside it (bench/lora.py; needs torch, transformers and peft).

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

const { values } = parseArgs({
  options: {
    child: { type: "string" },
    folder: { type: "string" },
    shape: { type: "string", default: "M" },
    rows: { type: "string", default: "4" },
    length: { type: "string", default: "512" },
    steps: { type: "string", default: "4" },
    storages: { type: "string", default: "int8,nf4,bf16" },
    python: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
const [rows, length, steps] = [values.rows, values.length, values.steps].map(Number);
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);

const STORAGES = {
  int8: { load_in_8bit: true },
  nf4: { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_compute_dtype: "bfloat16" } },
  bf16: {},
};
const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];

/** One storage, with or without gradient checkpointing: "int8" or "int8,checkpointing". */
async function child(what, folder) {
  const { AutoModelForCausalLM, LoraConfig, get_peft_model, prepare_model_for_kbit_training } =
    await library("index.js");
  const { AdamW } = await library("bnb/optim/index.js");
  const [storage, checkpointing] = what.split(",");
  const model = await AutoModelForCausalLM.from_pretrained(folder, {
    device: "cpu",
    dtype: "bfloat16",
    ...STORAGES[storage],
  });
  prepare_model_for_kbit_training(model, { use_gradient_checkpointing: checkpointing !== undefined });
  const config = new LoraConfig({ r: 8, lora_alpha: 16, target_modules: ["q_proj", "v_proj"], task_type: "CAUSAL_LM" });
  get_peft_model(model, config);
  model.train();
  const parameters = [...model.parameters()].filter(({ requires_grad }) => requires_grad);
  const optimizer = new AdamW(parameters, { lr: 1e-4 });
  const input_ids = Array.from({ length: rows }, (_, b) =>
    Array.from({ length }, (_, i) => (i * 7919 + b * 31 + 13) % 31999),
  );
  const lossOf = () => model.forward({ input_ids, labels: input_ids, skip_logits: true });
  const before = model.device.memory.live;
  const [whole, known] = [[], []];
  for (let step = 0; step < steps; step++) {
    const begin = performance.now();
    const { loss } = lossOf();
    await loss.readFloats();
    known.push(performance.now() - begin);
    await model.backward(loss);
    optimizer.step();
    optimizer.zero_grad();
    loss.dispose();
    await model.device.synchronize();
    whole.push(performance.now() - begin);
  }
  const { peak } = model.device.memory;
  const result = { step_ms: median(whole.slice(1)), loss_ms: median(known.slice(1)), above: peak - before };
  process.stdout.write(JSON.stringify(result));
  process.exit(0);
}

if (values.child) await child(values.child, values.folder);

const run = async (command, args) => JSON.parse((await promisify(execFile)(command, args)).stdout.trim());
const folder = mkdtempSync(join(tmpdir(), "octavo-lora-"));
const tokens = rows * length;
const results = {};
try {
  const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
  const { shapeConfig } = await library("eval/shapes.js");
  await writeRandomCheckpoint(folder, shapeConfig(values.shape));
  const own = fileURLToPath(import.meta.url);
  const shared = ["--rows", values.rows, "--length", values.length, "--steps", values.steps];
  for (const storage of values.storages.split(",")) {
    for (const what of [storage, `${storage},checkpointing`]) {
      results[`octavo ${what}`] = await run(process.execPath, [own, "--child", what, "--folder", folder, ...shared]);
    }
  }
  if (values.python) {
    writeFileSync(join(folder, "generation_config.json"), "{}");
    const twin = fileURLToPath(new URL("lora.py", import.meta.url));
    results["PyTorch bf16"] = await run(values.python, [twin, folder, values.rows, values.length, values.steps]);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
if (values.json) process.stdout.write(`${JSON.stringify({ shape: values.shape, rows, length, results })}\n`);
else {
  process.stdout.write(`LoRA on ${values.shape}, r 8 on q and v, ${rows} x ${length} tokens, one step\n`);
  process.stdout.write(
    "(till loss: the forward pass and, but for PyTorch, the head's backward pass, which is made with it)\n\n",
  );
  process.stdout.write("                            tokens/s      step  till loss  above the weights\n");
  for (const [name, { step_ms, loss_ms, above }] of Object.entries(results)) {
    const cells = [
      name.padEnd(26),
      (tokens / (step_ms / 1000)).toFixed(1).padStart(10),
      `${(step_ms / 1000).toFixed(2)} s`.padStart(10),
      loss_ms === undefined ? " ".repeat(11) : `${(loss_ms / 1000).toFixed(2)} s`.padStart(11),
      above === undefined ? "" : `${(above / 1e6).toFixed(0)} MB`.padStart(10),
    ];
    process.stdout.write(`${cells.join("")}\n`);
  }
}
