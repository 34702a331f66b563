#!/usr/bin/env node
// The command line: collects the commands and turns their errors into messages and exit codes. Each command has a file of
// its own beside this one.

import { createRequire } from "node:module";
import { Command, CommanderError } from "commander";
import { EXIT, exitCodeOf, failAsJson, hearInterrupts, printError } from "./failures.js";
import { endWithReaders, print } from "./output.js";
import { routed, usageError } from "./usage.js";

const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };

/** Each loads its own file: a command starts without the others. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  generate: async () => (await import("./generate.js")).generateCommand(),
  chat: async () => (await import("./chat.js")).chatCommand(),
  run: async () => (await import("./run-task.js")).runCommand(),
  inspect: async () => (await import("./inspect.js")).inspectCommand(),
  plan: async () => (await import("./plan.js")).planCommand(),
  "estimate-memory": async () => (await import("./plan.js")).estimateCommand(),
  quantize: async () => (await import("./quantize.js")).quantizeCommand(),
  train: async () => (await import("./train.js")).trainCommand(),
  merge: async () => (await import("./merge.js")).mergeCommand(),
  eval: async () => (await import("./eval.js")).evalCommand(),
  explain: async () => (await import("./explain.js")).explainCommand(),
  bench: async () => (await import("./bench.js")).benchCommand(),
  doctor: async () => (await import("./doctor.js")).doctorCommand(),
  pull: async () => (await import("./pull.js")).pullCommand(),
  list: async () => (await import("./list.js")).listCommand(),
  remove: async () => (await import("./remove.js")).removeCommand(),
  push: async () => (await import("./push.js")).pushCommand(),
  version: async () => new Command("version").description("print the version").action(() => print(`${version}\n`)),
};

/** The command line with one of its commands, or with all. */
async function program(only?: string): Promise<Command> {
  const root = new Command("octavo")
    .description("Runs Hugging Face transformer checkpoints in 8 and 4 bits")
    .usage('[command] [options], or octavo "a text to continue"')
    .version(version, "-v, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .option("--no-color", "no colours; the variable NO_COLOR does the same")
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: () => {} }) // `main` tells it
    .hook("preAction", (root, command) => {
      // Read from the environment by all that draws, and by child processes.
      if (root.opts().color === false) process.env.NO_COLOR = "1";
      if (command.opts().quiet || command.opts().json) process.env.HF_HUB_DISABLE_PROGRESS_BARS = "1";
    })
    .showSuggestionAfterError()
    .exitOverride()
    .addHelpText(
      "after",
      `
Examples:
  octavo "Once upon a time"
  octavo generate octavo/storyteller "Once upon a time" --load-in-8bit
  octavo chat <model>
  octavo run fill-mask bert-base-uncased "Paris is the [MASK] of France."
  octavo inspect octavo/storyteller
  octavo plan octavo/storyteller --max-memory 0=2MB,1=4MB
  octavo quantize ./llama ./llama-int8 --load-in-8bit
  octavo train octavo/storyteller --data stories.jsonl --lora-r 8 --out adapter
  octavo merge ./llama ./my-adapter ./llama-merged
  octavo eval --compare f32,int8,nf4
  octavo eval --tasks storyteller_cloze --compare bf16,int8
  octavo explain --html report.html
  octavo eval --tasks storyteller_cloze --compare bf16,int8
  octavo bench --shape S
  octavo doctor
  octavo pull bigscience/bloom-560m

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 does not fit in memory, 130 interrupted.
With --json a failure is one object on stdout too: {"error":{"code":"ERR_...","message":"...","hint":"..."}}.`,
    );
  const loaders = only === undefined ? Object.values(COMMANDS) : [COMMANDS[only]!];
  const commands = await Promise.all(loaders.map((load) => load()));
  for (const command of commands) root.addCommand(command.copyInheritedSettings(root));
  return root;
}

/** True if a flag stands among the arguments, before a "--" that ends flags. */
function has(args: readonly string[], flag: string): boolean {
  const end = args.indexOf("--");
  return (end < 0 ? args : args.slice(0, end)).includes(flag);
}

async function main(): Promise<number> {
  // -V was the flag's older name.
  let args: readonly string[] = process.argv.slice(2).map((arg, i) => (i === 0 && arg === "-V" ? "-v" : arg));
  endWithReaders();
  if (has(args, "--json")) failAsJson();
  // A child process of bench is ended by its parent, which tells it once.
  if (!has(args, "--child")) hearInterrupts();
  const first = args.find((arg) => arg !== "--no-color");
  const root = await program(first !== undefined && Object.hasOwn(COMMANDS, first) ? first : undefined);
  try {
    args = routed(args, root);
    await root.parseAsync([...args], { from: "user" });
    return Number(process.exitCode ?? EXIT.ok);
  } catch (thrown) {
    const printed = thrown instanceof CommanderError && /^commander\.(help|version)/.test(thrown.code);
    if (printed) return thrown.exitCode === 0 ? EXIT.ok : EXIT.usage;
    const error = thrown instanceof CommanderError ? usageError(thrown, args, root) : thrown;
    printError(error);
    return exitCodeOf(error);
  }
}

process.exitCode = await main();
