// Where the storyteller lies: a small model that the README and the command line begin with, and the texts that it is measured
// on. A checkout has them in models/; elsewhere they are the package @octavo/storyteller.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { packagePlace } from "../backends/_package.js";
import { NotFoundError } from "../core/errors.js";

const PACKAGE = "@octavo/storyteller";

/** Its folder, and files of texts. */
export type StorytellerFile = "storyteller" | "storyteller-eval.txt" | "storyteller-cloze.jsonl";

/** @throws NotFoundError if neither a checkout nor the package is there */
export function storytellerFile(name: StorytellerFile): string {
  const { root } = packagePlace();
  const own = root && join(root, "models", name);
  if (own && existsSync(own)) return own;
  for (const start of [root, process.argv[1] && dirname(process.argv[1]), process.cwd()]) {
    if (!start) continue;
    try {
      const file = join(dirname(createRequire(join(start, "_")).resolve(`${PACKAGE}/package.json`)), name);
      if (existsSync(file)) return file;
    } catch {
      // not to be found from there
    }
  }
  const what = name === "storyteller" ? 'model "octavo/storyteller"' : name;
  throw new NotFoundError(`${what} is not here: it comes with the package ${PACKAGE}, which is not installed`, {
    hint: `npm i ${PACKAGE}`,
  });
}
