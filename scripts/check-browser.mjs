// Checks that the browser's entries import nothing of Node's: follows all imports but type imports, from src/browser.ts,
// the Worker and the modules, and reports `node:` modules and packages that are not known to run in browsers. (`tsc -p tsconfig.browser.json`
// checks that they use no globals of Node's.) Prints each breach; exits 1 if there is one.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const ENTRIES = ["src/browser.ts", "src/browser/worker.ts", "src/nn/index.ts", "src/train/index.ts"];
/** Packages that run in browsers. */
const PACKAGES = ["@huggingface/tokenizers", "fastest-levenshtein"];

/** Targets of the imports of a file, dynamic ones included, without those of types alone. */
function importsOf(text) {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  const statements = code.matchAll(/\b(import|export)\s+([^"';]*?)\s*from\s*"([^"]+)"|\bimport\s*\(?\s*"([^"]+)"/g);
  return [...statements].flatMap(([, , what = "", target, bare]) => {
    if (target === undefined) return [bare];
    const names = /^\{([\s\S]*)\}$/
      .exec(what)?.[1]
      .split(",")
      .map((name) => name.trim());
    const erased = what.startsWith("type ") || names?.filter(Boolean).every((name) => name.startsWith("type "));
    return erased ? [] : [target];
  });
}

/**
 * Follows the imports of some files.
 * @param {readonly string[]} entries paths below the repository
 * @returns {{ files: string[], breaches: string[] }} all files reached, and what breaks the rule, with the way to it
 */
export function browserGraph(entries) {
  const breaches = [];
  const from = new Map(entries.map((entry) => [join(root, entry), undefined]));
  const way = (file) => (file === undefined ? [] : [...way(from.get(file)), relative(root, file)]);
  for (const file of from.keys()) {
    for (const target of importsOf(readFileSync(file, "utf8"))) {
      if (target.startsWith(".")) {
        const path = resolve(dirname(file), target.replace(/\.js$/, ".ts"));
        if (!existsSync(path)) breaches.push(`${relative(root, file)} imports ${target}, which is not there`);
        else if (!from.has(path)) from.set(path, file);
      } else if (!PACKAGES.includes(target)) breaches.push(`${way(file).join(" → ")} imports ${target}`);
    }
  }
  return { files: [...from.keys()].map((file) => relative(root, file)), breaches };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { files, breaches } = browserGraph(ENTRIES);
  for (const breach of breaches) console.error(breach);
  console.log(`browser: ${files.length} files reached, ${breaches.length} breaches`);
  process.exit(breaches.length > 0 ? 1 : 0);
}
