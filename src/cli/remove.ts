// octavo remove: deletes a model, or one revision of it, from the Hugging Face cache.

import { createInterface } from "node:readline/promises";
import { Command } from "commander";
import { AbortError, OptionError } from "../core/errors.js";
import { planRemoval, type Removal } from "../hub/cached.js";
import { jsonOption } from "./arguments.js";
import { bytes, note, print, printJson } from "./output.js";

interface RemoveFlags {
  revision?: string;
  cacheDir?: string;
  yes?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export function removeCommand(): Command {
  return new Command("remove")
    .argument("<id>", "id of a model that octavo list shows")
    .option("--revision <name>", "only this branch, tag or commit (default: all)")
    .option("--cache-dir <folder>", "Hugging Face cache (default: the one that Python uses)")
    .option("-y, --yes", "do not ask")
    .addOption(jsonOption())
    .option("-q, --quiet", "nothing on stderr but errors and the question")
    .addHelpText(
      "after",
      `
It says what it deletes and asks before it does. Files that other revisions share stay.

Examples:
  octavo remove bigscience/bloom-560m
  octavo remove org/name --revision v1.0 --yes`,
    )
    .action(remove);
}

async function remove(id: string, flags: RemoveFlags): Promise<void> {
  const removal = await planRemoval(id, flags.revision, flags.cacheDir);
  if (!flags.yes) await ask(removal);
  else if (!flags.quiet) note(plan(removal));
  await removal.run();
  const { commits, whole, bytes: freed } = removal;
  if (flags.json) printJson({ id, commits, whole, freed_bytes: freed });
  else print(`${bytes(freed)} freed\n`);
}

function plan({ id, commits, whole, bytes: freed }: Removal): string {
  const what = whole ? `${id} with all of its revisions` : `revision ${commits.join(", ")} of ${id}`;
  return `deletes ${what}: ${bytes(freed)}`;
}

/** @throws AbortError for any answer but yes; OptionError where nobody can be asked */
async function ask(removal: Removal): Promise<void> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new OptionError(`nothing is deleted without an answer: this ${plan(removal)}`, {
      hint: "add --yes where nobody can be asked",
    });
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(`${plan(removal)}. Delete it? [y/N] `);
    if (!/^\s*y(es)?\s*$/i.test(answer)) throw new AbortError("nothing was deleted");
  } finally {
    terminal.close();
  }
}
