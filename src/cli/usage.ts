// What people type who do not know this command line yet: a text without a command, the commands and flags of other tools.
// Nothing here runs a command.

import { existsSync } from "node:fs";
import { dirname } from "node:path";
import type { Command, CommanderError } from "commander";
import { OptionError } from "../core/errors.js";
import { cut } from "../core/show.js";
import { quoteAddress, scrub } from "../sources/address.js";
import { isModelId } from "../sources/model-id.js";

const CONTINUES = 'a text is continued by octavo generate <model> "Once upon a time"';
const SERVES = "a server of your own calls the library: AutoModelForCausalLM and model.stream";
const DOWNLOADS = "octavo pull <id> downloads a model";
const REMOVES = "octavo remove <id> deletes a model from the cache";
const QUANTIZES = "octavo quantize <model> <folder> --load-in-8bit, or --load-in-4bit, writes a model in 8 or 4 bits";
const TRAINS = "octavo train <model> --data <file> --out <folder> fine-tunes a model";
const TOKENIZES = "the library tokenizes: (await AutoTokenizer.from_pretrained(name))(text)";
const INSPECTS = "octavo inspect <model> shows a model";
const MEASURES = "octavo eval measures quality, octavo bench measures speed";

/** Commands of other tools, and what does their work today. A command that comes to exist loses its line. */
const ELSEWHERE: ReadonlyMap<string, string> = new Map(
  Object.entries({
    complete: CONTINUES,
    serve: SERVES,
    server: SERVES,
    download: DOWNLOADS,
    get: DOWNLOADS,
    ls: "octavo list shows the downloaded models",
    rm: REMOVES,
    delete: REMOVES,
    upload: "octavo push <folder> <id> uploads a model",
    estimate: "octavo estimate-memory <model> shows how much memory a model takes",
    memory: "octavo plan <model> shows where a model would go",
    show: INSPECTS,
    info: INSPECTS,
    convert: QUANTIZES,
    save: QUANTIZES,
    export: QUANTIZES,
    finetune: TRAINS,
    "fine-tune": TRAINS,
    tokenize: TOKENIZES,
    encode: TOKENIZES,
    decode: TOKENIZES,
    test: "octavo doctor tests the kernels",
    perplexity: MEASURES,
    benchmark: MEASURES,
  }),
);

/** Flags of other tools, and those that mean the same here. */
const SAME_FLAG: ReadonlyMap<string, string> = new Map(
  Object.entries({
    "-n": "--max-new-tokens",
    "--max-tokens": "--max-new-tokens",
    "--max-length": "--max-new-tokens",
    "--n-predict": "--max-new-tokens",
    "--num-predict": "--max-new-tokens",
    "--new-tokens": "--max-new-tokens",
    "--tokens": "--max-new-tokens",
    "--temp": "--temperature",
    "--repeat-penalty": "--repetition-penalty",
    "--int8": "--load-in-8bit",
    "--8bit": "--load-in-8bit",
    "--int4": "--load-in-4bit",
    "--4bit": "--load-in-4bit",
    "--nf4": "--load-in-4bit",
    "--gpu": "--device webgpu",
    "--cuda": "--device webgpu",
    "--cpu": "--device cpu",
    "--no-sample": "--greedy",
    "--epochs": "--num-train-epochs",
    "--lr": "--learning-rate",
    "--batch-size": "--per-device-train-batch-size",
    "--dataset": "--data",
    "--train-data": "--data",
    "--output": "--out",
    "--output-dir": "--out",
    "--lora-rank": "--lora-r",
    "--max-seq-length": "--max-length",
  }),
);

/** Most characters of an argument that a message repeats. */
const LONGEST = 60;

const COMMAND_HINT = "octavo --help lists the commands";

/**
 * The arguments for commander: a text, or a flag of `generate`, that comes without a command gets that command.
 * @throws OptionError for a command of another tool, with what does its work here
 */
export function routed(args: readonly string[], root: Command): readonly string[] {
  const at = args.findIndex((arg) => arg !== "--no-color");
  const [first] = args.slice(Math.max(0, at));
  const named = (): readonly string[] => ["generate", ...args];
  const names = ["help", ...root.commands.flatMap((command) => [command.name(), ...command.aliases()])];
  if (first === undefined || names.includes(first)) return args;
  if (first.startsWith("-")) {
    const flag = first.split("=")[0]!;
    const generate = root.commands.find((command) => command.name() === "generate")!;
    const known = generate.options.some(({ long, short }) => flag === long || flag === short);
    return known && !args.some((arg) => names.includes(arg)) ? named() : args;
  }
  if (readsLikeText(first)) return named();
  const instead = ELSEWHERE.get(first.toLowerCase());
  if (instead === undefined) return args;
  throw new OptionError(`there is no command ${first}: ${instead}`, { details: { command: first } });
}

/** True for an argument that can only be a text: it has blanks or signs that no id has, and is no path and no address. */
export function readsLikeText(argument: string): boolean {
  const given = argument.trim();
  if (given === "" || isModelId(given) || existsSync(given)) return false;
  if (/^(\.{0,2}|~)[\\/]|^[a-z][a-z0-9+.-]*:\S/i.test(given)) return false; // a path from somewhere, an address, a drive
  const folder = dirname(given);
  if (folder !== "." && existsSync(folder)) return false;
  return /\s|[^\x20-\x7e]|[,;!?"'()]|\w\.+$/.test(given);
}

/** Commander's refusal as an error of Octavo's, with what was probably meant. */
export function usageError({ message, code }: CommanderError, args: readonly string[], root: Command): OptionError {
  const said = scrub(message.replace(/^error: /, ""));
  const command = root.commands.find((one) => args.includes(one.name()));
  if (code === "commander.unknownOption") {
    const flag = /'([^']*)'/.exec(said)?.[1] ?? "";
    const same = SAME_FLAG.get(flag.replaceAll("_", "-"));
    if (same && command?.options.some(({ long }) => long === same.split(" ")[0])) {
      return new OptionError(`unknown option '${flag}'\n(Did you mean ${same}?)`, { details: { option: flag } });
    }
    return new OptionError(said, { details: { option: flag } });
  }
  if (code === "commander.unknownCommand" && !said.includes("Did you mean")) {
    return new OptionError(said, { hint: `${COMMAND_HINT}; ${meantBy(args)}` });
  }
  if (code === "commander.excessArguments" && command?.name() === "generate") {
    return new OptionError(said, { hint: 'a prompt is one argument: octavo generate <model> "Once upon a time"' });
  }
  return new OptionError(said);
}

/** What words without a known command may mean. */
function meantBy(args: readonly string[]): string {
  const [first = "", second] = args;
  if (existsSync(first) || first.includes("/")) return `a model runs by octavo generate ${quoteAddress(first)}`;
  const flags = args.findIndex((arg) => arg.startsWith("-"));
  const words = cut(args.slice(0, flags < 0 ? undefined : flags).join(" "), LONGEST);
  return second === undefined || flags === 1
    ? `a text is continued by octavo -p ${JSON.stringify(words)}`
    : `a text is one argument: octavo ${JSON.stringify(words)}`;
}
