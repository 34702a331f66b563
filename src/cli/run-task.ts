// octavo run: a pipeline from the command line.

import { Command, InvalidArgumentError, Option } from "commander";
import { isList } from "../core/checks.js";
import { OptionError, suggestion } from "../core/errors.js";
import { FROM_PRETRAINED } from "../generate/loading-options.js";
import { pipeline } from "../pipelines/node.js";
import { kindNamed, TASKS } from "../pipelines/pipeline.js";
import type { TaskName } from "../pipelines/signatures.js";
import { A_MODEL } from "./arguments.js";
import { EXIT, onInterrupt } from "./failures.js";
import { addRunFlags, addWeightFlags, interruption, type LoadFlags, loadOn, loadOptions } from "./load-flags.js";
import { print, printJson, table, warner } from "./output.js";
import { readPrompts } from "./prompt.js";

interface Flags extends LoadFlags {
  labels?: string;
  option: Record<string, unknown>;
  json?: boolean;
}

/** `name=value`, where the value may be JSON. */
function named(text: string, before: Record<string, unknown>): Record<string, unknown> {
  const [, name, value] = /^([a-z_]\w*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError("It must be name=value.");
  try {
    return { ...before, [name]: JSON.parse(value!) as unknown };
  } catch {
    return { ...before, [name]: value }; // a word
  }
}

export function runCommand(): Command {
  const command = new Command("run")
    .argument("<task>", "a task, as Python's pipelines have it")
    .argument("<model>", A_MODEL)
    .argument("[input...]", "texts, or files of images or sound; - or nothing reads one text from standard input")
    .option("--labels <labels>", "candidate labels with commas between them, of zero-shot tasks")
    .addOption(
      new Option("-o, --option <name=value>", "an option of the task, such as top_k=3; may be repeated")
        .argParser(named)
        .default({}, "none"),
    );
  addWeightFlags(command);
  return addRunFlags(command)
    .addHelpText(
      "after",
      `
Tasks: ${TASKS.join(", ").replace(/(.{1,100})(?:, |$)/g, "\n  $1")}

Examples:
  octavo run text-generation octavo/storyteller "The old king" -o max_new_tokens=20
  octavo run text-classification <model> "I love it" "I do not" -o top_k=2
  octavo run question-answering <model> '{"question":"Who?","context":"It was me."}'
  octavo run zero-shot-classification <model> "The film was good" --labels "praise, complaint"
  octavo run automatic-speech-recognition <model> talk.wav -o chunk_length_s=30 --json`,
    )
    .action(run);
}

async function run(task: string, model: string, given: readonly string[], flags: Flags): Promise<void> {
  const signal = interruption();
  const { quiet = false, labels, option } = flags;
  if (!kindNamed(task)) {
    const near = suggestion(task, TASKS);
    throw new OptionError(`there is no task ${task}${near ? `; did you mean ${near}?` : ""}`, {
      hint: `octavo run --help lists the tasks; octavo generate ${task} "Once upon a time" continues a text`,
      details: { task },
    });
  }
  const load = loadOptions("run", flags);
  const clash = Object.keys(option).find((name) => Object.hasOwn(FROM_PRETRAINED, name));
  if (clash) throw new OptionError(`${clash} is a flag of its own: --${clash.replaceAll("_", "-")}`);
  if (given.length > 1 && given.includes("-")) throw new OptionError("- stands for standard input, and for it alone");
  const inputs = given.length > 0 && given[0] !== "-" ? given : await typed(quiet, signal);
  const values = OF_OBJECTS.has(task) ? inputs.map(objectOf) : [...inputs];
  const own = { ...(labels === undefined ? {} : { candidate_labels: labels }), ...option };
  const opened = await loadOn(flags, load, signal, (how) => pipeline(task as TaskName, model, { ...how, ...own }));
  await using _device = opened.device;
  await using owned = opened;
  owned.model.warnings.forEach(warner(quiet));
  // A task that generates ends by the signal; others have nothing that an end at once would leave behind.
  const hears = Object.hasOwn(kindNamed(task)!.calls, "signal");
  if (!hears) onInterrupt(() => process.exit(EXIT.interrupted));
  const call = owned as unknown as (inputs: readonly unknown[], options: object) => Promise<readonly unknown[]>;
  const results = await call(values, hears ? { signal } : {});
  if (flags.json) {
    printJson({ task, model, results: inputs.map((input, n) => ({ input, output: results[n] })) });
    return;
  }
  for (const [n, input] of inputs.entries()) {
    print(`${inputs.length > 1 ? `==> ${input} <==\n` : ""}${shown(results[n])}${inputs.length > 1 ? "\n" : ""}`);
  }
}

/** Tasks whose inputs have several texts. */
const OF_OBJECTS: ReadonlySet<string> = new Set(["question-answering", "sentence-similarity"]);

/** @throws OptionError for what is not JSON */
function objectOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new OptionError(`an input of this task is JSON, such as '{"question":"Who?","context":"It was me."}'`, {
      cause,
    });
  }
}

async function typed(quiet: boolean, signal: AbortSignal): Promise<string[]> {
  return readPrompts({ prompt: undefined, batchFile: undefined, escape: false, quiet, signal });
}

/** A result for people: texts as they are, labels with their scores, anything else as JSON. */
function shown(result: unknown): string {
  const list: readonly unknown[] = isList(result) ? result : [result];
  const texts = list.map((one) => textOf(one));
  if (texts.every((text) => text !== undefined)) return texts.map((text) => `${text}\n`).join("");
  const rows = list.flatMap((one) => rowsOf(one));
  if (rows.length > 0) return table(rows, [0]);
  return `${JSON.stringify(result)}\n`;
}

/** The text of a result that has one and little else. */
function textOf(one: unknown): string | undefined {
  const entries = Object.entries((one ?? {}) as Record<string, unknown>);
  const [name, value] = entries.find(([key]) => /^(text|\w+_text|answer)$/.test(key)) ?? [];
  return name !== undefined && typeof value === "string" && !("word" in (one as object)) ? value : undefined;
}

/** Scores and what they are of. */
function rowsOf(one: unknown): string[][] {
  const { score, label, labels, scores, token_str, sequence, word, entity, entity_group } = (one ?? {}) as Readonly<
    Record<string, unknown>
  >;
  const digits = (value: unknown): string => (value as number).toFixed(4);
  if (isList(labels) && isList(scores)) return labels.map((name, n) => [digits(scores[n]), String(name)]);
  if (isList(one)) return one.flatMap((each) => rowsOf(each));
  if (typeof score !== "number") return [];
  const facts = [label, token_str, token_str === undefined ? undefined : sequence, entity ?? entity_group, word];
  return [[digits(score), ...facts.filter((fact) => fact !== undefined).map(String)]];
}
