// Items per second of an evaluation: questions of hellaswag's form (a context and four endings) through the harness, which computes
// shared beginnings once and no padding, beside a plain loop, which pads batches of whole texts. Random weights of a shape, int8.
// node bench/eval-items.mjs [--shape M] [--items 8] [--context 90] [--ending 30] [--batch 16] [--python PATH]
//
// --python PATH measures lm-evaluation-harness with PyTorch in bf16 beside it (bench/eval_items.py; needs lm_eval, torch, transformers).

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "M" },
    items: { type: "string", default: "8" },
    context: { type: "string", default: "90" },
    ending: { type: "string", default: "30" },
    batch: { type: "string", default: "16" },
    runs: { type: "string", default: "3" },
    python: { type: "string" },
  },
});
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const [items, context, ending, batch, runs] = ["items", "context", "ending", "batch", "runs"].map((name) =>
  Number(values[name]),
);

/** Lengths are spread about their means as hellaswag's are, by half of them up and down. */
let seed = 5;
const random = () => {
  seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
  return seed / 2 ** 32;
};
const about = (mean) => Math.max(2, Math.round(mean * (0.5 + random())));
const tokens = (length) => Array.from({ length }, () => 1 + Math.floor(random() * 31000));

const { AutoModelForCausalLM } = await library("index.js");
const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
const { shapeConfig } = await library("eval/shapes.js");
const { scoreTexts } = await library("eval/harness/scorer.js");
const { tokenLogprobs } = await library("ops/token-logprobs.js");
const { scope, Tensor } = await library("core/tensor.js");

const questions = Array.from({ length: items }, () => {
  const before = tokens(about(context));
  return Array.from({ length: 4 }, () => ({ ids: [...before, ...tokens(about(ending))], from: before.length }));
});
const texts = questions.flat();

/** Right padding, all logits, as lm-evaluation-harness's loop; longest first. */
async function plain(model) {
  const order = [...texts.keys()].sort((a, b) => texts[b].ids.length - texts[a].ids.length);
  const found = [];
  for (let at = 0; at < order.length; at += batch) {
    const rows = order.slice(at, at + batch).map((n) => texts[n]);
    const longest = rows[0].ids.length;
    const pad = (ids, by) => [...ids, ...new Array(longest - ids.length).fill(by)];
    const { logits } = model.forward({
      input_ids: rows.map(({ ids }) => pad(ids, 0)),
      attention_mask: rows.map(({ ids }) =>
        pad(
          ids.map(() => 1),
          0,
        ),
      ),
    });
    for (const [r, { ids, from }] of rows.entries()) {
      const scores = scope(() => {
        const next = Int32Array.from(ids.slice(from));
        return tokenLogprobs(
          logits.select(0, r).narrow(0, from - 1, next.length),
          Tensor.from(model.device, next, [next.length]),
        );
      });
      found[order[at + r]] = (await scores.readFloats()).reduce((sum, one) => sum + one, 0);
      scores.dispose();
    }
    logits.dispose();
  }
  return found;
}

async function harness(model) {
  const found = [];
  const scored = (scores) => {
    for (const [n, { loglikelihood }] of scores) found[n] = loglikelihood;
  };
  await scoreTexts(model, texts, { rows: 64, scored });
  return found;
}

const folder = mkdtempSync(join(tmpdir(), "octavo-items-"));
try {
  await writeRandomCheckpoint(folder, shapeConfig(values.shape));
  const model = await AutoModelForCausalLM.from_pretrained(folder, {
    device: "cpu",
    dtype: "bfloat16",
    quantization_config: { load_in_8bit: true },
  });
  const times = { plain: [], harness: [] };
  const results = {};
  for (let run = 0; run < runs; run++) {
    for (const [name, body] of Object.entries({ plain, harness })) {
      const start = performance.now();
      results[name] = await body(model);
      times[name].push((performance.now() - start) / 1000);
    }
  }
  await model[Symbol.asyncDispose]();
  let python;
  if (values.python) {
    writeFileSync(join(folder, "texts.json"), JSON.stringify(texts));
    const [twin, tokenizer] = ["eval_items.py", "../models/storyteller"].map((path) =>
      fileURLToPath(new URL(path, import.meta.url)),
    );
    const args = [twin, folder, tokenizer, values.batch, values.runs];
    const { stdout } = await promisify(execFile)(values.python, args, { maxBuffer: 2 ** 24 });
    python = JSON.parse(stdout.trim().split("\n").at(-1));
  }
  const apart = Math.max(...results.plain.map((value, n) => Math.abs(value - results.harness[n])));
  const best = Object.fromEntries(Object.entries(times).map(([name, all]) => [name, Math.min(...all)]));
  const whole = texts.reduce((sum, { ids }) => sum + ids.length, 0);
  const distinct = questions.reduce(
    (sum, own) => sum + own[0].from + own.reduce((n, { ids, from }) => n + ids.length - from, 0),
    0,
  );
  console.log(
    JSON.stringify({
      shape: values.shape,
      items,
      tokens: { texts: whole, distinct },
      items_per_second: {
        plain: items / best.plain,
        harness: items / best.harness,
        ...(python && { lm_eval_bf16: items / python.seconds }),
      },
      ratio: best.plain / best.harness,
      ...(python && { ratio_to_lm_eval: python.seconds / best.harness }),
      largest_difference_of_loglikelihoods: apart,
    }),
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
