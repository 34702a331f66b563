// The command line that the gates of add-ons share (elf-gate.mjs, pe-gate.mjs, macho-gate.mjs).

import { basename } from "node:path";
import { fileURLToPath } from "node:url";

/** The text at a place of a file, up to a zero. @throws RangeError if there is none */
export function textAt(bytes, from) {
  const end = bytes.indexOf(0, from);
  if (end < 0) throw new RangeError(`a text at ${from} has no end`);
  return bytes.toString("latin1", from, end);
}

/**
 * Runs a gate, if it is what Node was started with: prints each breach, and exits 1 if there is one.
 * @param {string} url of the gate's module
 * @param {(file: string, target?: string) => string[]} breachesOf
 */
export function gate(url, breachesOf) {
  const script = fileURLToPath(url);
  if (process.argv[1] !== script) return;
  const [, , file, target] = process.argv;
  if (!file) {
    process.stderr.write(`usage: node scripts/${basename(script)} FILE [TARGET]\n`);
    process.exit(2);
  }
  const breaches = breachesOf(file, target);
  for (const breach of breaches) console.error(`${file} ${breach}`);
  console.log(`${file}: ${breaches.length} breaches`);
  process.exit(breaches.length > 0 ? 1 : 0);
}
