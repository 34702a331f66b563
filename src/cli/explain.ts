// octavo explain: what quantization does to a model, on a text: outliers, errors of layers and logits, memory.

import { writeFileSync } from "node:fs";
import { Command } from "commander";
import { torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { type Explanation, explain } from "../eval/explain.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../generate/auto.js";
import { configDType } from "../load/index.js";
import { NODE } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { onOwnDevice } from "../load/platform.js";
import { storytellerFile } from "../load/storyteller.js";
import { STORYTELLER } from "../sources/model-id.js";
import {
  A_MODEL,
  deviceOption,
  jsonOption,
  optionsOf,
  positive,
  real,
  sourceOptions,
  threadsOption,
} from "./arguments.js";
import { reportPage } from "./explain-page.js";
import { explainText } from "./explain-text.js";
import { interruption } from "./load-flags.js";
import { isInteractive, note, print, printJson, warner } from "./output.js";
import { LoadingBar, PercentBar } from "./progress.js";
import { readText } from "./text.js";

interface ExplainFlags {
  html?: string;
  maxTokens: number;
  window: number;
  threshold: number;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
}

export function explainCommand(): Command {
  const command = new Command("explain")
    .argument("[model]", `${A_MODEL} (default: the storyteller)`)
    .argument("[text file]", "text to run through it (default: the storyteller's own)")
    .option("--html <file>", "also write a report: one page with charts and tables, without scripts")
    .option("--max-tokens <n>", "stop after this many tokens of the text", positive, 512)
    .option("--window <n>", "tokens that the model sees at once, at most 512", positive, 512)
    .option("--threshold <x>", "magnitude from which an activation is an outlier", real, 6)
    .addOption(deviceOption())
    .addOption(threadsOption());
  return sourceOptions(command)
    .addOption(jsonOption())
    .option("-q, --quiet", "no progress on stderr")
    .addHelpText(
      "after",
      `
The model is loaded in float32; errors are those against its exact products. "absmax per tensor" has one scale for a matrix and one for
all activations, "absmax per row" is LLM.int8() without outliers. KL is the mean over the tokens of KL(exact || quantized), in nats.

Examples:
  octavo explain
  octavo explain facebook/opt-125m text.txt --html report.html`,
    )
    .action(run);
}

async function run(model: string | undefined, file: string | undefined, flags: ExplainFlags): Promise<void> {
  const name = model ?? STORYTELLER;
  const place = optionsOf("explain", SOURCE, flags);
  const text = await readText(file ?? storytellerFile("storyteller-eval.txt"));
  const signal = interruption();
  const warn = warner(flags.quiet);
  const tokenizer = await AutoTokenizer.from_pretrained(name, place);
  const ids = tokenizer(text).input_ids;
  const first = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
  const all = (first === null || ids[0] === first ? ids : [first, ...ids]).slice(0, flags.maxTokens);
  const drawn = !flags.quiet && isInteractive();
  const loading = drawn ? new LoadingBar() : undefined;
  const loaded = await onOwnDevice(NODE, flags.device, { threads: flags.threads }, (device) =>
    AutoModelForCausalLM.from_pretrained(name, {
      ...place,
      ...{ device, dtype: "float32", signal },
      progress_callback: loading && ((event) => loading.hear(event)),
    }),
  ).finally(() => loading?.stop());
  await using device = loaded.device;
  await using _owned = loaded;
  loaded.warnings.forEach(warn);
  if (device.reason && !flags.quiet) note(`on ${device.name} (${device.reason})`);
  const bar = drawn ? new PercentBar("explaining") : undefined;
  const dtype = configDType("auto", loaded.config) ?? loaded.dtype;
  let found: Explanation;
  try {
    const { window, threshold } = flags;
    found = await explain(loaded, all, { window, threshold, dtype, signal, progress: (done) => bar?.update(done) });
  } finally {
    bar?.stop();
  }
  const facts = { model: name, text: file ?? "the storyteller's evaluation text", dtype: torchName(dtype), ...found };
  if (flags.html !== undefined) writePage(flags.html, reportPage(facts));
  if (flags.json) printJson(facts);
  else print(explainText(facts));
  if (flags.html !== undefined && !flags.quiet) note(`report: ${flags.html}`);
}

function writePage(file: string, page: string): void {
  try {
    writeFileSync(file, page);
  } catch (error) {
    throw new OptionError(`--html: ${(error as Error).message}`, { details: { option: "html" } });
  }
}
