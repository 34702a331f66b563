// The command line: collects the commands and turns their errors into messages and exit codes. Each command has a file of
// its own beside this one.

import { Command, CommanderError } from "commander";
import { COMMANDS, commandOf } from "./commands.js";
import { EXIT, exitCodeOf, failAsJson, hearInterrupts, printError } from "./failures.js";
import { endWithReaders } from "./output.js";
import { routed, usageError } from "./usage.js";
import { version } from "./version.js";

/** The command line, with some of its commands whole and the others as help lists them. */
async function program(whole: readonly string[]): Promise<Command> {
  const root = new Command("octavo")
    .description("Runs Hugging Face transformer checkpoints in 8 and 4 bits")
    .usage('[command] [options], or octavo "a text to continue"')
    .version(version(), "-v, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .option("--no-color", "no colours; the variable NO_COLOR does the same")
    .configureHelp({ showGlobalOptions: true, subcommandTerm: (command) => command.name() })
    .commandsGroup("This machine:")
    .helpCommand("help [command]", "print the help of a command")
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
  octavo plan octavo/storyteller --max-memory 0=12MB,1=12MB
  octavo quantize ./llama ./llama-int8 --load-in-8bit
  octavo train octavo/storyteller --data stories.jsonl --lora-r 8 --out adapter
  octavo merge ./llama ./my-adapter ./llama-merged
  octavo eval --compare f32,int8,nf4
  octavo eval --tasks storyteller_cloze --compare bf16,int8
  octavo explain --html report.html
  octavo bench --shape S
  octavo doctor
  octavo pull bigscience/bloom-560m

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 does not fit in memory, 130 interrupted.
With --json a failure is one object on stdout too: {"error":{"code":"ERR_...","message":"...","hint":"..."}}.`,
    );
  const commands = await Promise.all(Object.keys(COMMANDS).map((name) => commandOf(name, whole.includes(name))));
  for (const command of commands) root.addCommand(command.copyInheritedSettings(root));
  return root;
}

/** True if a flag stands among the arguments, before a "--" that ends flags. */
function has(args: readonly string[], flag: string): boolean {
  const end = args.indexOf("--");
  return (end < 0 ? args : args.slice(0, end)).includes(flag);
}

/** The commands that the arguments may need whole: all that they name, and `generate` for a text or a flag without a command. */
function neededFor(args: readonly string[]): string[] {
  const named = Object.keys(COMMANDS).filter((name) => args.includes(name));
  const first = args.find((arg) => arg !== "--no-color");
  const told = first === undefined || first === "help" || ["--help", "-h", "--version", "-v"].includes(first);
  return told || Object.hasOwn(COMMANDS, first) ? named : [...named, "generate"];
}

/** Runs the command line of this process. @returns the exit code */
export async function main(args: readonly string[]): Promise<number> {
  endWithReaders();
  if (has(args, "--json")) failAsJson();
  // A child process of bench is ended by its parent, which tells it once.
  if (!has(args, "--child")) hearInterrupts();
  return runCommand(args);
}

/** Runs a command and tells its error. @returns the exit code */
export async function runCommand(given: readonly string[]): Promise<number> {
  let args = given;
  const root = await program(neededFor(args));
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
