// Checks the floors of the house: a room imports only from rooms to its left, siblings inside backends/, quant/ and
// models/ do not import each other (a shared file there is one whose name starts with an underscore), and nothing
// outside a room of Node's own may import `node:` in the browser's part. Prints each breach; exits 1 if there is one.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const source = join(root, "src");
const FLOORS = [
  "core",
  "ops",
  "backends",
  "sources",
  "checkpoints",
  "tokenizer",
  "nn",
  "quant",
  "models",
  "load",
  "generate",
  "browser",
  "train",
  "eval",
  "server",
  "cli",
];
/** Rooms whose entries must not know each other; index files tie them together. */
const SEPARATE = ["backends", "quant", "models"];
/** Rooms that must also run in a browser. */
const PORTABLE = ["core", "ops", "nn", "quant", "models"];

function* files(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* files(path);
    else if (entry.name.endsWith(".ts")) yield path;
  }
}

/** Room and entry of a path inside src: `models/llama.ts` is ["models", "llama"]. */
function place(path) {
  const [room, entry = ""] = relative(source, path).split(sep);
  return [room, entry.replace(/\.ts$/, "")];
}

const breaches = [];
let checked = 0;
for (const file of files(source)) {
  const [room, entry] = place(file);
  const floor = FLOORS.indexOf(room);
  const text = readFileSync(file, "utf8");
  for (const [, target] of text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
    checked++;
    const name = relative(root, file);
    if (!target.startsWith(".")) {
      if (target.startsWith("node:") && PORTABLE.includes(room)) breaches.push(`${name} imports ${target}`);
      continue;
    }
    if (floor < 0) continue; // src/index.ts and other entries stand above the house
    const [toRoom, toEntry] = place(resolve(dirname(file), target.replace(/\.js$/, ".ts")));
    const toFloor = FLOORS.indexOf(toRoom);
    if (toFloor < 0 || toFloor > floor) breaches.push(`${name} imports upward: ${target}`);
    else if (toRoom === room && SEPARATE.includes(room) && entry !== "index" && toEntry !== entry) {
      if (!toEntry.startsWith("_")) breaches.push(`${name} imports its sibling: ${target}`);
    }
  }
}
for (const breach of breaches) console.error(breach);
console.log(`floors: ${checked} imports checked, ${breaches.length} breaches`);
process.exit(breaches.length > 0 ? 1 : 0);
