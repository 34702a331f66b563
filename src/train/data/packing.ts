// Packing: several texts in a row of at most some length, so that less of a batch is padding.

import type { Tokens } from "./format.js";
import type { PackingStrategy } from "./sft-options.js";

/** Texts in one row, and how long each of them is. */
export interface Packed extends Tokens {
  readonly seq_lengths: readonly number[];
}

/** The texts of a list in rows of at most `length` tokens, as TRL packs them. Texts without tokens are left out. */
export function packed(texts: readonly Tokens[], length: number, strategy: PackingStrategy): Packed[] {
  const some = texts.filter(({ input_ids }) => input_ids.length > 0);
  if (strategy === "wrapped") return wrapped(some, length);
  const pieces = some.flatMap((text) => (strategy === "bfd" ? [cut(text, 0, length)] : pieced(text, length)));
  return bestFit(pieces, length).map((row) => ({
    ...joined(row),
    seq_lengths: row.map(({ input_ids }) => input_ids.length),
  }));
}

function cut({ input_ids, labels }: Tokens, begin: number, end: number): Tokens {
  return { input_ids: input_ids.slice(begin, end), labels: labels.slice(begin, end) };
}

/** A text in pieces of `length` and what is left. */
function pieced(text: Tokens, length: number): Tokens[] {
  const count = Math.ceil(text.input_ids.length / length);
  return Array.from({ length: count }, (_, i) => cut(text, i * length, (i + 1) * length));
}

function joined(texts: readonly Tokens[]): Tokens {
  return { input_ids: texts.flatMap(({ input_ids }) => input_ids), labels: texts.flatMap(({ labels }) => labels) };
}

/** One text of all, in rows of `length`: what is before it in a row is a text's context. */
function wrapped(texts: readonly Tokens[], length: number): Packed[] {
  return pieced(joined(texts), length).map((row) => ({ ...row, seq_lengths: [row.input_ids.length] }));
}

/**
 * Best fit by decreasing length: each text goes where it leaves the least room, and of rows with the same room into the one that has had
 * it longest.
 */
function bestFit(texts: readonly Tokens[], length: number): Tokens[][] {
  const order = [...texts].sort((a, b) => b.input_ids.length - a.input_ids.length); // stable
  const rows: Tokens[][] = [];
  const byRoom: Tokens[][][] = Array.from({ length: length + 1 }, () => []);
  for (const text of order) {
    const need = text.input_ids.length;
    let room = need;
    while (room <= length && byRoom[room]!.length === 0) room++;
    const row = room <= length ? byRoom[room]!.shift()! : [];
    if (row.length === 0) rows.push(row);
    row.push(text);
    byRoom[Math.min(room, length) - need]!.push(row);
  }
  return rows;
}
