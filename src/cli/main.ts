#!/usr/bin/env node
// The command line: collects the commands and turns their errors into messages and exit codes. Each command has a file of
// its own beside this one.

import { createRequire } from "node:module";
import { Command, CommanderError } from "commander";
import { benchCommand } from "./bench.js";
import { doctorCommand } from "./doctor.js";
import { evalCommand } from "./eval.js";
import { generateCommand } from "./generate.js";
import { inspectCommand } from "./inspect.js";
import { EXIT, endWithReaders, exitCodeOf, printError } from "./output.js";

const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };

function program(): Command {
  const root = new Command("octavo")
    .description("Runs Hugging Face transformer checkpoints in 8 and 4 bits")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .showSuggestionAfterError()
    .exitOverride()
    .addHelpText(
      "after",
      `
Examples:
  octavo generate octavo/storyteller "Once upon a time" --load-in-8bit
  octavo inspect octavo/storyteller
  octavo eval --compare f32,int8,nf4
  octavo bench --shape S
  octavo doctor

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 does not fit in memory, 130 interrupted.`,
    );
  for (const command of [generateCommand(), inspectCommand(), evalCommand(), benchCommand(), doctorCommand()]) {
    root.addCommand(command.copyInheritedSettings(root));
  }
  return root;
}

async function main(): Promise<number> {
  endWithReaders();
  try {
    await program().parseAsync();
    return Number(process.exitCode ?? EXIT.ok);
  } catch (error) {
    // Commander has printed its message; its exit code for wrong usage is 1.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    printError(error);
    return exitCodeOf(error);
  }
}

process.exitCode = await main();
