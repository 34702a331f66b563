// Checks the floors: a room imports only from rooms to its left; siblings inside backends/, quant/ and models/ do not
// import each other (files that begin with an underscore are shared); rooms that also run in a browser import nothing of
// Node's; no files import each other in a circle, not even types. Prints each breach; exits 1 if there is one.

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
  "hub",
  "tokenizer",
  "media",
  "nn",
  "quant",
  "models",
  "load",
  "adapters",
  "generate",
  "pipelines",
  "bnb",
  "train",
  "browser",
  "eval",
  "server",
  "cli",
];
/** Rooms whose entries must not know each other; index files tie them together. */
const SEPARATE = ["backends", "quant", "models"];
/** Rooms that must also run in a browser. */
const PORTABLE = ["core", "ops", "nn", "quant", "models", "bnb", "train"];

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

/** Groups of files that import each other in circles (Tarjan 1972: strongly connected components). */
function circlesOf(graph) {
  const circles = [];
  const path = [];
  const order = new Map();
  const lowest = new Map();
  const visit = (file) => {
    order.set(file, order.size);
    lowest.set(file, order.get(file));
    path.push(file);
    for (const next of graph.get(file) ?? []) {
      if (!order.has(next)) visit(next);
      if (path.includes(next)) lowest.set(file, Math.min(lowest.get(file), lowest.get(next)));
    }
    if (lowest.get(file) !== order.get(file)) return;
    const circle = path.splice(path.indexOf(file));
    if (circle.length > 1 || graph.get(file)?.includes(file)) circles.push(circle.sort());
  };
  for (const file of graph.keys()) if (!order.has(file)) visit(file);
  return circles;
}

const breaches = [];
const graph = new Map();
let checked = 0;
for (const file of files(source)) {
  const [room, entry] = place(file);
  const floor = FLOORS.indexOf(room);
  const text = readFileSync(file, "utf8");
  graph.set(file, []);
  for (const [, target] of text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
    checked++;
    const name = relative(root, file);
    if (!target.startsWith(".")) {
      if (target.startsWith("node:") && PORTABLE.includes(room)) breaches.push(`${name} imports ${target}`);
      continue;
    }
    const to = resolve(dirname(file), target.replace(/\.js$/, ".ts"));
    graph.get(file).push(to);
    if (floor < 0) continue; // src/index.ts and other entries stand above all rooms
    const [toRoom, toEntry] = place(to);
    const toFloor = FLOORS.indexOf(toRoom);
    if (toFloor < 0 || toFloor > floor) breaches.push(`${name} imports upward: ${target}`);
    else if (toRoom === room && SEPARATE.includes(room) && entry !== "index" && toEntry !== entry) {
      if (!toEntry.startsWith("_")) breaches.push(`${name} imports its sibling: ${target}`);
    }
  }
}
for (const circle of circlesOf(graph)) {
  breaches.push(`files import each other in a circle: ${circle.map((file) => relative(root, file)).join(", ")}`);
}
for (const breach of breaches) console.error(breach);
console.log(`floors: ${checked} imports checked, ${breaches.length} breaches`);
process.exit(breaches.length > 0 ? 1 : 0);
