// Adapters to and from the real peft: `node scripts/check-adapters.mjs [python]` after a build, with a Python that has torch,
// transformers and peft. Peft writes adapters of many kinds; Octavo must compute their logits, also once they are merged. Octavo then
// writes them, and ones that it has trained itself; peft must compute Octavo's logits. Prints each case, exits with 1 if one differs.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as optim from "../dist/bnb/optim/index.js";
import * as octavo from "../dist/index.js";

const here = dirname(fileURLToPath(import.meta.url));
const python = process.argv[2] ?? "python3";
const script = join(here, "check-adapters.py");
const models = join(here, "..", "test", "fixtures", "models");
const out = mkdtempSync(join(tmpdir(), "octavo-adapters-"));
// Logits of these models reach some 20; 2^-24 of that grows through norms that are scaled up.
const TOLERANCE = 2e-3;
const jobs = [];
let failed = false;

const CLASSES = {
  AutoModelForCausalLM: octavo.AutoModelForCausalLM,
  AutoModelForSeq2SeqLM: octavo.AutoModelForSeq2SeqLM,
  AutoModelForSequenceClassification: octavo.AutoModelForSequenceClassification,
};
const open = (name, kind) => CLASSES[kind].from_pretrained(join(models, name), { device: "cpu" });

async function logitsOf(model, kind, ids) {
  const { logits } = model.forward({
    input_ids: ids,
    ...(kind.includes("Seq2Seq") ? { decoder_input_ids: DECODER } : {}),
  });
  const values = await logits.readFloats();
  logits.dispose();
  return [...values];
}
const DECODER = [
  [0, 5, 9],
  [0, 5, 9],
];
const off = (a, b) =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), a.length === b.length ? 0 : Number.NaN);

function report(name, what, difference) {
  const bad = !(difference <= TOLERANCE);
  failed ||= bad;
  console.log(`${name}: ${what} differ by ${difference.toExponential(2)}${bad ? " FAILED" : ""}`);
}

try {
  execFileSync(python, [script, "write", out], { stdio: "inherit" });
  for (const { name, model: base, class: kind, input_ids, logits, plain } of JSON.parse(
    readFileSync(join(out, "cases.json"), "utf8"),
  )) {
    const model = await open(base, kind);
    await octavo.PeftModel.from_pretrained(model, join(out, name));
    report(name, "logits of peft's adapter", off(await logitsOf(model, kind, input_ids), logits));
    const folder = join(out, `${name}-again`);
    await model.save_pretrained(folder);
    jobs.push({
      name: `${name}, written by Octavo`,
      folder,
      model: base,
      class: kind,
      input_ids,
      logits,
      tolerance: TOLERANCE,
    });
    try {
      await model.merge_adapter();
      report(name, "logits once merged", off(await logitsOf(model, kind, input_ids), logits));
      model.unmerge_adapter();
    } catch (error) {
      if (error.code !== "ERR_UNSUPPORTED") throw error;
      console.log(`${name}: ${error.message}`);
    }
    model.unload();
    report(name, "logits without it", off(await logitsOf(model, kind, input_ids), plain));
    model.dispose();
  }
  for (const [name, base, config] of [
    ["trained", "llama", { r: 4, target_modules: ["q_proj", "down_proj"], use_rslora: true }],
    ["trained DoRA", "llama", { r: 3, target_modules: "all-linear", use_dora: true, rank_pattern: { k_proj: 1 } }],
    ["trained Conv1D with biases", "gpt2", { r: 2, bias: "all", init_lora_weights: "gaussian" }],
    [
      "trained norms and embedding",
      "llama",
      { target_modules: ["embed_tokens", "v_proj"], modules_to_save: ["model.norm"] },
    ],
  ]) {
    const model = await open(base, "AutoModelForCausalLM");
    octavo.get_peft_model(model, new octavo.LoraConfig({ task_type: "CAUSAL_LM", ...config }));
    const parameters = [...model.parameters()].filter(({ requires_grad }) => requires_grad);
    const optimizer = new optim.AdamW(parameters, { lr: 0.02 });
    const ids = [[5, 40, 31, 77, 9, 22, 60, 18]];
    const losses = [];
    for (let step = 0; step < 4; step++) {
      const { loss, logits } = model.forward({ input_ids: ids, labels: ids });
      loss.backward();
      optimizer.step();
      optimizer.zero_grad();
      losses.push((await loss.readFloats())[0]);
      loss.dispose();
      logits.dispose();
    }
    if (!(losses.at(-1) < losses[0])) throw new Error(`${name}: the loss does not fall: ${losses}`);
    const folder = join(out, name);
    await model.save_pretrained(folder);
    const logits = await logitsOf(model, "AutoModelForCausalLM", ids);
    jobs.push({
      name,
      folder,
      model: base,
      class: "AutoModelForCausalLM",
      input_ids: ids,
      logits,
      tolerance: TOLERANCE,
    });
    model.dispose();
  }
  execFileSync(python, [script, "read"], {
    input: jobs.map((job) => JSON.stringify(job)).join("\n"),
    stdio: ["pipe", "inherit", "inherit"],
  });
} catch (error) {
  failed = true;
  console.error(error);
} finally {
  rmSync(out, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
