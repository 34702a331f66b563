// octavo generate: loads a model, continues a prompt (or a file of prompts) and reports time and memory.

import { Command, Option } from "commander";
import { AbortError, NotFoundError, OctavoError, OptionError } from "../core/errors.js";
import { pick } from "../core/options.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../generate/auto.js";
import { GENERATION, generationConfig } from "../generate/config.js";
import type { PreTrainedModel } from "../generate/model.js";
import { SOURCE, type SourceOptions } from "../load/options.js";
import { trainedContext } from "../nn/architecture.js";
import { STORYTELLER } from "../sources/model-id.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { A_MODEL, addFlags, deterministicOption, kvCacheOption, optionsOf } from "./arguments.js";
import {
  addStructuredFlags,
  checkTemperature,
  DEFAULT_NEW_TOKENS,
  type GenerateFlags,
  generationOptions,
  SAMPLING,
  structuredOptions,
} from "./generate-options.js";
import { addRunFlags, addWeightFlags, interruption, loadOn, loadOptions } from "./load-flags.js";
import { dim, isInteractive, note, print, printJson, warner } from "./output.js";
import { PromptBar } from "./progress.js";
import { readPrompts } from "./prompt.js";
import { footer, report } from "./report.js";
import { encode, Run } from "./run.js";
import { readsLikeText } from "./usage.js";

export function generateCommand(): Command {
  const command = new Command("generate")
    .argument("[model]", `${A_MODEL} (default: ${STORYTELLER})`)
    .argument("[prompt]", "text to continue; - or nothing reads it from standard input")
    .option("-p, --prompt <text>", "the prompt, where no model is named")
    .option("--batch-file <file>", "continue every line of a file, as one padded batch")
    .option("-c, --chat", "the prompt is a message to the assistant, as the model's chat template writes it")
    .option("-e, --escape", "read \\n, \\t and \\\\ in the prompt as line end, tab and backslash")
    .option("--no-echo", "print only the new text, not the prompt");
  addWeightFlags(command)
    .option("--adapter <folder>", "an adapter over the weights, as peft saves one: its folder, or its id on the hub")
    .optionsGroup("Generation (defaults: the model's own):");
  const generation = addFlags(command, GENERATION);
  addStructuredFlags(command, [generation.prompt_lookup_num_tokens]);
  generation.max_new_tokens.description += ` (default: ${DEFAULT_NEW_TOKENS})`;
  command
    .addOption(new Option("--greedy", "take the likeliest token").conflicts(SAMPLING))
    .addOption(kvCacheOption())
    .optionsGroup("Where:")
    .addOption(deterministicOption())
    .option(
      "--check-finite",
      "look for infinities and NaN in prompt and text, and name the module where the first arose",
    );
  return addRunFlags(command)
    .addHelpText(
      "after",
      `
Examples:
  octavo generate "Once upon a time"
  octavo generate octavo/storyteller "Once upon a time" --load-in-8bit --seed 7
  echo "The old king" | octavo generate octavo/storyteller --load-in-4bit --max-new-tokens 40
  octavo generate bigscience/bloom-560m "The capital of France is" --greedy --json
  octavo generate <model> --chat "What is a llama?" --greedy
  octavo generate <model> "Once upon a time" --adapter ./my-adapter
  octavo generate <model> --chat "Is a llama a bird?" --choices yes,no
  octavo generate -p "<|endoftext|>The Golden Fish\\n\\n" --escape`,
    )
    .action(generate);
}

async function generate(first: string | undefined, second: string | undefined, flags: GenerateFlags): Promise<void> {
  const options = loadOptions("generate", flags);
  const given = optionsOf("generate", GENERATION, flags);
  const structured = await structuredOptions(flags);
  checkTemperature(given, flags);
  if (second !== undefined && flags.prompt !== undefined) throw new OptionError("the prompt is given twice");
  const open = second === undefined && flags.prompt === undefined && flags.batchFile === undefined;
  const [model, prompt] = open && first && readsLikeText(first) ? [undefined, first] : [first, second ?? flags.prompt];
  const name = model ?? STORYTELLER;
  const talks = !flags.quiet && !flags.json;

  const signal = interruption();
  const asked = performance.now();
  const tokenizer = await tokenizerOf(name, { ...pick(SOURCE, options), signal }, open);
  const tokenizer_s = (performance.now() - asked) / 1000;
  const { batchFile, quiet } = flags;
  const prompts = await readPrompts({ prompt, batchFile, escape: flags.escape === true, quiet, signal });
  const chat = flags.chat === true;
  const texts = chat ? prompts.map((content) => messageText(tokenizer, content)) : prompts;
  if (model === undefined && talks) {
    note(dim(`model     ${name}, the small demo model of this package; octavo generate <model> runs another`));
  }
  const inputs = encode(tokenizer, texts, !chat); // a template writes the special tokens itself

  const begin = performance.now();
  const watched = !flags.quiet && isInteractive();
  const loaded = await loadOn(flags, options, signal, (how) => AutoModelForCausalLM.from_pretrained(name, how));
  await using _device = loaded.device;
  await using owned = loaded;
  const load_s = tokenizer_s + (performance.now() - begin) / 1000;
  owned.warnings.forEach(warner(flags.quiet));
  if (flags.adapter !== undefined) await owned.load_adapter(flags.adapter, { signal, cache_dir: options.cache_dir });

  const prompt_ids = inputs.input_ids.map((row, r) => row.filter((_, i) => inputs.attention_mask[r]![i] !== 0));
  if (flags.checkFinite) await checkFinite(owned, prompt_ids);

  const length = inputs.input_ids[0]!.length;
  const context = trainedContext(owned.config) ?? Number.POSITIVE_INFINITY;
  const generation = generationOptions(given, flags, owned, context - length);
  const { vocab } = owned.module.geometry;
  const config = generationConfig(generation, owned.generation_config, owned.config, length, vocab);
  const stream = !flags.json && prompts.length === 1;
  const run = new Run(tokenizer, inputs, prompts, (text) => {
    if (stream) print(text);
  });
  const reading = watched ? new PromptBar() : undefined;
  // The prompt's own text comes with the first new word: until then the line on the terminal is the bar's.
  let begun = false;
  const steps = owned.stream({
    ...inputs,
    ...generation,
    ...structured,
    tokenizer,
    signal,
    progress_callback(event) {
      reading?.hear(event);
      if (event.status !== "done") return;
      begun = true;
      if (stream && flags.echo && !chat) print(run.rows[0]!.echo);
    },
  });
  if (!flags.quiet && length + config.max_new_tokens > context) {
    note(`warning: the model was trained on texts of at most ${context} tokens; later text will be poor`);
  }
  let interrupted: AbortError | undefined;
  try {
    await run.over(steps);
  } catch (error) {
    if (!(error instanceof AbortError)) {
      if (stream && begun) print("\n"); // the error gets a line of its own
      throw error;
    }
    interrupted = error;
  } finally {
    reading?.stop();
  }
  const facts = await report(owned, run, {
    name,
    cache: owned.cache_footprint({ ...inputs, ...generation }),
    config,
    seed: generation.seed,
    load_s,
    aborted: interrupted !== undefined,
  });
  if (flags.json) printJson(facts);
  else if (stream) print(begun && !run.rows[0]!.text.endsWith("\n") ? "\n" : "");
  else
    for (const row of run.rows) print(`==> ${row.prompt} <==\n${flags.echo && !chat ? row.echo : ""}${row.text}\n\n`);
  if (talks) note(dim(footer(facts)));
  if (flags.checkFinite) {
    await checkFinite(
      owned,
      prompt_ids.map((row, r) => [...row, ...run.rows[r]!.token_ids]),
    );
  }
  if (interrupted) throw interrupted;
}

/**
 * Runs each row through the model, and looks at every number.
 * @throws OctavoError that names the module where the first infinity or NaN arose
 */
async function checkFinite(model: PreTrainedModel, rows: readonly (readonly number[])[]): Promise<void> {
  for (const row of rows) {
    const found = await model.check_finite({ input_ids: [row] });
    if (!found) continue;
    const { module, op, value, count, elements, parameter } = found;
    const cause = parameter === undefined ? "" : `; ${parameter} is not finite itself`;
    throw new OctavoError(
      "ERR_NOT_FINITE",
      `${module || "outside of all modules"}: ${op} gave the first ${value}, in ${count} of ${elements} numbers${cause}`,
      { details: { ...found } },
    );
  }
}

/** A message of the user, and the beginning of the assistant's. @throws OptionError for a model without a chat template */
function messageText(tokenizer: PreTrainedTokenizer, content: string): string {
  return tokenizer.apply_chat_template([{ role: "user", content }], { tokenize: false, add_generation_prompt: true });
}

/**
 * @param open no prompt was given, so that the name may have been meant as one
 * @throws NotFoundError, OptionError and others, as from_pretrained
 */
async function tokenizerOf(
  name: string,
  options: SourceOptions & { readonly signal: AbortSignal },
  open: boolean,
): Promise<PreTrainedTokenizer> {
  try {
    return await AutoTokenizer.from_pretrained(name, { ...options, padding_side: "left" });
  } catch (cause) {
    if (!(cause instanceof NotFoundError) || !open || !/^\w+$/.test(name)) throw cause;
    const { message, hint, details } = cause;
    throw new NotFoundError(message.split("\n")[0]!, {
      hint: [hint, `to continue the word itself: octavo generate -p ${name}`].filter(Boolean).join("; "),
      details,
      cause,
    });
  }
}
