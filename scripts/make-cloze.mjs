// Writes models/storyteller-cloze.jsonl: 500 sentences of the storyteller's evaluation text, whose endings are to be found among
// three of other sentences. The same seed gives the same file.
//
//   node scripts/make-cloze.mjs

import { readFileSync, writeFileSync } from "node:fs";

const ITEMS = 500;
const SEED = 20;
const text = readFileSync(new URL("../models/storyteller-eval.txt", import.meta.url), "utf8");

/** Mulberry32: a number from 0 to below 1. */
let state = SEED;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
const below = (n) => Math.floor(random() * n);
function shuffle(list) {
  for (let n = list.length - 1; n > 0; n--) {
    const at = below(n + 1);
    [list[n], list[at]] = [list[at], list[n]];
  }
  return list;
}

// A sentence with the one before it, in one paragraph; its ending is the last part, of 4 to 9 words.
const items = text.split(/\n\s*\n/).flatMap((paragraph) => {
  const sentences = paragraph.replace(/\s+/g, " ").match(/[^.!?]+[.!?]+["']?/g) ?? [];
  return sentences.slice(1).flatMap((sentence, n) => {
    const words = sentence.trim().split(" ");
    if (words.length < 10 || words.length > 34 || sentences[n].length > 240 || /["“”_]/.test(sentence)) return [];
    const count = Math.min(9, Math.floor(words.length / 2));
    const ending = words.slice(-count).join(" ");
    if (!/^[a-z]/.test(ending)) return [];
    return [{ context: `${sentences[n].trim()} ${words.slice(0, -count).join(" ")}`, ending, count }];
  });
});
const chosen = shuffle([...items]).slice(0, ITEMS);
if (chosen.length < ITEMS) throw new Error(`only ${chosen.length} sentences fit`);
const lines = chosen.map(({ context, ending, count }) => {
  const others = new Set();
  while (others.size < 3) {
    const other = items[below(items.length)];
    if (Math.abs(other.count - count) <= 1 && other.ending !== ending) others.add(other.ending);
  }
  const gold = below(4);
  return `${JSON.stringify({ context, endings: [...others].toSpliced(gold, 0, ending), gold })}\n`;
});
writeFileSync(new URL("../models/storyteller-cloze.jsonl", import.meta.url), lines.join(""));
