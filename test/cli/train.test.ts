// octavo train: an adapter that changes the storyteller's text, Ctrl-C and --resume, what is refused, and its pictures.

import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { svgCurves } from "../../src/cli/chart-curve.js";
import { sparkline } from "../../src/cli/sparkline.js";
import { trainCommand } from "../../src/cli/train.js";
import { cardOf } from "../../src/cli/train-card.js";
import { trainingLine } from "../../src/cli/train-progress.js";
import { writeRandomCheckpoint } from "../../src/eval/checkpoint.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/index.js";
import { octavo, READY_TIMEOUT, ready, STORYTELLER } from "../support/cli.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

const folder = temporary("train");
mkdirSync(folder, { recursive: true });
const DATA = join(folder, "robots.jsonl");
const NAMES = ["Zip", "Bolt", "Beep", "Dot", "Chip", "Rusty"];
const PLACES = ["on the moon", "in a rocket", "under a dome", "on a star"];
const stories = NAMES.flatMap((name) =>
  PLACES.map(
    (place) => `Once upon a time there was a robot named ${name} who lived ${place}. The robots danced ${place}.`,
  ),
);
writeFileSync(DATA, stories.map((text) => `${JSON.stringify({ text })}\n`).join(""));
const ARGS = ["train", STORYTELLER, "--data", DATA, "--lora-r", "8", "--learning-rate", "0.02", "--max-steps", "24"];

async function textOf(adapter?: string): Promise<string> {
  const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER);
  try {
    if (adapter) await model.load_adapter(adapter);
    const { input_ids } = tokenizer("Once upon a time there was");
    const [ids] = await model.generate({ input_ids: [input_ids], max_new_tokens: 12, do_sample: false });
    return tokenizer.decode(ids!);
  } finally {
    model.dispose();
  }
}

test("a model with experts learns in 4 bits, on its attention and on its experts", { timeout: 60_000 }, async () => {
  const model = join(folder, "experts");
  mkdirSync(model, { recursive: true });
  const { vocab_size, eos_token_id } = JSON.parse(readFileSync(join(STORYTELLER, "config.json"), "utf8"));
  const config = JSON.parse(readFileSync(join(FIXTURES, "models", "mixtral", "config.json"), "utf8"));
  const sizes = { hidden_size: 32, intermediate_size: 32, vocab_size, bos_token_id: eos_token_id, eos_token_id };
  await writeRandomCheckpoint(model, { ...config, ...sizes });
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(STORYTELLER, name), join(model, name));
  const out = join(folder, "experts-adapter");
  const stacks = [
    "--lora-target-modules",
    "q_proj,o_proj",
    "--lora-target-parameters",
    "experts.gate_up_proj,experts.down_proj",
    "--lora-trainable-token-indices",
    "5, 7",
  ];
  const args = [
    "--data",
    DATA,
    "--load-in-4bit",
    ...stacks,
    "--learning-rate",
    "0.05",
    "--max-steps",
    "4",
    "--out",
    out,
  ];
  const { stdout, stderr } = await octavo(["train", model, ...args, "--json"]);
  expect(stderr).toBe("");
  const { first_loss, last_loss } = JSON.parse(stdout);
  expect(last_loss).toBeLessThan(first_loss);
  const { target_parameters } = JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8"));
  expect(target_parameters).toEqual(["experts.gate_up_proj", "experts.down_proj"]);
});

describe("a fine-tune of some seconds", { timeout: 120_000 }, () => {
  test("lowers the loss and changes the text; interrupted and resumed it gives the same bytes", async () => {
    const out = join(folder, "adapter");
    const whole = await octavo([...ARGS, "--eval-split", "0.2", "--out", out, "--json"]);
    expect(whole.stderr).toBe("");
    const facts = JSON.parse(whole.stdout);
    expect(facts).toMatchObject({ folder: out, steps: 24, trainable_parameters: 43_008 });
    expect(facts.last_loss).toBeLessThan(0.5 * facts.first_loss);
    expect(facts.eval_loss).toBeLessThan(0.6 * facts.first_loss);
    // An estimate before, and what it was: only a tenth apart.
    expect(Math.abs(facts.plan.memory.total / facts.peak_memory - 1)).toBeLessThan(0.1);
    expect(await textOf()).not.toMatch(/robot/);
    expect(await textOf(out)).toMatch(/robot/);
    const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
    const steps = lines.map((line) => JSON.parse(line)).filter(({ loss }) => loss !== undefined);
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 24 }, (_, i) => i + 1));
    expect(steps[0]).toMatchObject({ loss: facts.first_loss, learning_rate: 0.02 });
    expect(readFileSync(join(out, "README.md"), "utf8")).toMatch(/library_name: peft[\s\S]*43,008 of 5\.52 million/);
    expect(readFileSync(join(out, "loss.svg"), "utf8")).toMatch(/<polyline[\s\S]*eval loss/);

    const half = join(folder, "half");
    const same = [...ARGS, "--eval-split", "0.2", "--out", half];
    let asked = false; // a second time would end it at once
    const stopped = await octavo(same, {
      watch: (child, _, stderr) => {
        if (!asked && stderr.includes("step 1/24")) asked = child.kill("SIGINT");
      },
    });
    expect(stopped.code).toBe(130);
    const [, saved] = /saved (.*checkpoint-\d+)\ninterrupted; the same command with --resume/.exec(stopped.stderr)!;
    expect(existsSync(join(saved!, "adapter_model.safetensors"))).toBe(true);
    const resumed = await octavo([...same, "--resume"]);
    expect(resumed.code).toBe(0);
    expect(resumed.stdout).toMatch(/loss \d.*24 updates/);
    const bytes = (place: string): Buffer => readFileSync(join(place, "adapter_model.safetensors"));
    expect(bytes(half).equals(bytes(out))).toBe(true);
    const plain = (place: string): unknown =>
      readFileSync(join(place, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line))
        .map(({ step, loss, eval_loss, grad_norm }) => ({ step, loss, eval_loss, grad_norm }));
    expect(plain(half)).toEqual(plain(out));
  });
});

describe("in this process", () => {
  const parse = (...args: string[]) => trainCommand().exitOverride().parseAsync(args, { from: "user" });
  const text = join(folder, "text.txt");
  writeFileSync(text, "One line\n");

  test.each<[args: string[], message: RegExp]>([
    [["--data", DATA], /needs --out/],
    [["--data", DATA, "--out", folder], /holds files already/],
    [["--data", DATA, "--out", join(folder, "new"), "--resume"], /no checkpoint to go on from/],
    [["--data", DATA, "--out", STORYTELLER, "--force"], /the model's own folder/],
    [["--data", DATA, "--full", "--lora-r", "4", "--dry-run"], /--full trains all weights, and r is for an adapter/],
    [["--data", DATA, "--full", "--load-in-4bit", "--dry-run"], /cannot be trained/],
    [["--data", DATA, "--streaming", "--dry-run"], /--streaming needs --max-steps/],
    [["--data", DATA, "--eval-strategy", "epoch", "--dry-run"], /needs --eval-data or --eval-split/],
    [["--data", DATA, "--learning-rate", "-1", "--dry-run"], /learning_rate must be a number of at least 0/],
    [["--data", join(folder, "none.jsonl"), "--dry-run"], /no such file/],
    [["--data", text, "--field", "a", "--dry-run"], /field is for files of json/],
    [["--data", text, "--assistant-only-loss", "--dry-run"], /assistant_only_loss is for messages/],
  ])("%o is refused", async (args, message) => {
    await expect(parse(STORYTELLER, ...args)).rejects.toThrow(message);
  });
});

test("the line on a terminal fits any width", () => {
  const progress = { step: 3, steps: 12, losses: [4, 3, 2], tokens_per_second: 1234, left: 75 };
  expect(trainingLine(progress, 100)).toBe(
    "training 3/12 [========----------------------]  loss 2.000  75 s left  1,234 tokens/s  █▅▁",
  );
  for (const columns of [20, 40, 60]) expect(trainingLine(progress, columns).length).toBeLessThan(columns);
  expect(sparkline([1, 1], 4)).toBe("▁▁");
  expect(sparkline([9, 0, 7], 2)).toBe("▁█");
});

test("curves and cards do not run what is in their names", () => {
  const svg = svgCurves(
    [
      {
        name: "<script>",
        points: [
          { step: 1, value: 2 },
          { step: 3, value: Number.NaN },
        ],
      },
    ],
    {
      title: "a & b",
      notes: [],
    },
  );
  expect(svg).toMatch(/a &amp; b[\s\S]*&lt;script&gt; 2\.00/);
  expect(svg).not.toMatch(/<script|NaN|Infinity/);
  expect(svgCurves([], { title: "", notes: [] })).toMatch(/nothing was logged/);
  const card = cardOf({
    ...{ model: "org/model", trained: "LoRA", trainable: 1, all: 2, data: "a|b\n# c", full: false, folder: "out" },
    ...{ options: { optim: "sgd" }, steps: 1, first_loss: 1, last_loss: undefined, eval_loss: 3, chat: false },
  });
  expect(card).toMatch(/^---\nbase_model: org\/model\nlibrary_name: peft\n/);
  expect(card).not.toMatch(/\n# c/);
});
