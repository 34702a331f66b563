// The rows of a tokenizer's call: texts and pairs to ids with special tokens, cut and padded as the options say.

import { OptionError } from "../core/errors.js";
import type { Range } from "./aligned.js";
import { keptOfOne, keptOfPair, MOST_IDS, NOWHERE, padRows, pieces, type Row, type Side } from "./batch.js";
import type { Tokenizer } from "./engine.js";
import type { CallOptions } from "./options.js";
import type { Placement } from "./placement.js";

/** What rows need of a tokenizer. */
export interface RowSource {
  readonly backend: Tokenizer;
  readonly padding_side: Side;
  readonly truncation_side: Side;
  readonly model_max_length: number;
  readonly pad_token_id: number | null;
}

/** Lengths above this mean "no limit" (Python writes 1e30). */
const NO_LIMIT = 1e9;

/**
 * @param located rows say where in the text their tokens come from
 * @throws OptionError when a length, a pad token or a cut is not possible
 */
export function makeRows(
  tokenizer: RowSource,
  texts: readonly string[],
  pairs: readonly string[] | undefined,
  options: CallOptions,
  located: boolean,
): Row[] {
  const limit = limitOf(tokenizer, options);
  const rows = texts.flatMap((one, i) => rowsOf(tokenizer, i, one, pairs?.[i], limit, options, located));
  pad(tokenizer, rows, options);
  return rows;
}

/** The length rows are cut to, or undefined for none. */
function limitOf(tokenizer: RowSource, options: CallOptions): number | undefined {
  const { padding, truncation, max_length: given } = options;
  if (truncation === false || truncation === "do_not_truncate") return undefined;
  const padded = padding !== undefined && padding !== false; // "do_not_pad" is more than nothing, as in Python
  if (truncation === undefined && (given === undefined || padded)) return undefined;
  const limit = given ?? tokenizer.model_max_length;
  if (!(limit < NO_LIMIT)) return undefined;
  const multiple = options.pad_to_multiple_of ?? 1;
  if (padded && padding !== "do_not_pad" && limit % multiple !== 0) {
    throw new OptionError(
      `tokenizer: rows cut to max_length ${limit} and padded to a multiple of ${multiple} would be longer than that`,
      { hint: "a max_length that is such a multiple", details: { option: "pad_to_multiple_of", got: multiple } },
    );
  }
  return Math.floor(limit);
}

/** The row of a text, and of what does not fit into it if that was asked for. */
function rowsOf(
  tokenizer: RowSource,
  sample: number,
  text: string,
  pair: string | undefined,
  limit: number | undefined,
  options: CallOptions,
  located: boolean,
): Row[] {
  const { split_special_tokens, add_special_tokens = true } = options;
  const plain = { split_special_tokens, add_special_tokens: false };
  const { backend } = tokenizer;
  const placements = located
    ? [text, ...(pair === undefined ? [] : [pair])].map((one) => backend.place(one, plain))
    : [];
  const first = placements[0]?.ids ?? backend.encode(text, plain);
  const second = pair === undefined ? undefined : (placements[1]?.ids ?? backend.encode(pair, plain));
  // Places of tokens, which are below 0 and so no ids, go the way of the ids: cut and framed, they say what became of each.
  const marked = located || options.return_special_tokens_mask === true;
  const marks = (ids: readonly number[], from: number) => (marked ? ids.map((_, i) => -1 - from - i) : ids);
  const sequences = [marks(first, 0), ...(second ? [marks(second, first.length)] : [])];
  const all = second === undefined ? first : [...first, ...second];
  const seen = (which: 0 | 1): number => {
    const [source, ids] = which === 0 ? [text, first] : [pair!, second!];
    if (limit === undefined || ids.length <= limit) return ids.length;
    return readUpTo((placements[which] ?? backend.place(source, plain)).words, limit, tokenizer.truncation_side);
  };
  return cut(tokenizer, sequences, limit, options, seen).map(([a, b]) => {
    const row = add_special_tokens
      ? tokenizer.backend.frame(a, b)
      : { ids: [...a, ...(b ?? [])], token_type_ids: [...a.map(() => 0), ...(b ?? []).map(() => 1)] };
    const made: Row = { sample, ids: row.ids, types: row.token_type_ids, mask: row.ids.map(() => 1) };
    if (!marked) return made;
    const { ids } = row;
    if (options.return_special_tokens_mask === true) made.special = ids.map((id) => (id < 0 ? 0 : 1));
    if (located) locate(made, placements, [a.length, b?.length ?? 0], add_special_tokens);
    made.ids = ids.map((id) => (id < 0 ? all[-1 - id]! : id));
    return made;
  });
}

/** Tokens of the least whole words that are as many as `limit`, of the text's beginning, or of its end where the left is cut. */
function readUpTo(words: readonly number[], limit: number, side: Side): number {
  const from = side === "right" ? words : [...words].reverse();
  let count = limit;
  while (count < from.length && from[count] === from[count - 1]) count++;
  return count;
}

/**
 * One or two sequences without their special tokens, cut to a row's limit; with `return_overflowing_tokens` what does not fit, too, in the
 * order of Python's `tokenizers`: each further piece of the first with all of the second, then the first with the others of the second.
 * @throws OptionError when a cut is not possible
 */
function cut(
  tokenizer: RowSource,
  [first, second]: readonly (readonly number[])[],
  limit: number | undefined,
  { truncation, stride = 0, add_special_tokens = true, return_overflowing_tokens }: CallOptions,
  seen: (which: 0 | 1) => number,
): (readonly [number[], number[]?])[] {
  const a = first!;
  if (limit === undefined) return [second ? [[...a], [...second]] : [[...a]]];
  const specials = add_special_tokens ? tokenizer.backend.frame([], second && []).ids.length : 0;
  const room = limit - specials;
  if (room < 0) {
    throw new OptionError(`tokenizer: max_length ${limit} is less than the ${specials} special tokens of a row`);
  }
  if (second === undefined && truncation === "only_second" && a.length > room) {
    throw new OptionError("tokenizer: truncation: only_second needs a text_pair", {
      details: { option: "truncation" },
    });
  }
  const one = truncation === "only_first" || truncation === "only_second" ? truncation : undefined;
  const kept =
    second === undefined
      ? [Math.min(a.length, room), 0]
      : one
        ? keptOfOne(a.length, second.length, room, one)
        : keptOfPair(a.length, second.length, room, seen);
  const piecesOf = (ids: readonly number[], length: number): number[][] => {
    const over = ids.length > length;
    const needed = return_overflowing_tokens ? stride + 1 : stride;
    if (over && length < needed) {
      throw new OptionError(
        `tokenizer: max_length leaves ${length} tokens of a text; with stride ${stride} it needs more`,
        { hint: "a larger max_length, or a smaller stride", details: { option: "stride" } },
      );
    }
    const found = pieces(ids, over ? length : Math.max(1, ids.length), over ? stride : 0, tokenizer.truncation_side);
    if (!return_overflowing_tokens) return [found.next().value!];
    if (over && (ids.length / (length - stride)) * length > MOST_IDS) {
      throw new OptionError(`tokenizer: stride ${stride} repeats nearly all of ${length} tokens in each row`, {
        hint: "a smaller stride",
        details: { option: "stride", got: stride },
      });
    }
    return [...found];
  };
  const [head, ...more] = piecesOf(a, kept[0]!);
  if (second === undefined) return [head!, ...more].map((piece) => [piece] as const);
  const [start, ...others] = piecesOf(second, kept[1]!);
  const rows: [number[], number[]][] = [[head!, start!]];
  for (const piece of more) rows.push([piece, start!], ...others.map((other): [number[], number[]] => [piece, other]));
  for (const other of others) rows.push([head!, other]);
  return rows;
}

/** Sets the offsets and words of a row of places of tokens. `kept`: how many tokens of each text are left. */
function locate(row: Row, placements: readonly Placement[], kept: readonly number[], framed: boolean): void {
  const places = row.ids.map((id) => (id < 0 ? -1 - id : -1));
  const offsets: Range[] = places.map(() => NOWHERE);
  const words: (number | null)[] = places.map(() => null);
  let base = 0; // the place of the text's first token
  for (const [n, placement] of placements.entries()) {
    const end = base + placement.ids.length;
    const at = places.findIndex((place) => place >= base && place < end);
    const from = places[at]! - base;
    const found = at < 0 ? [] : placement.offsets(from, from + kept[n]!, framed);
    for (const [i, range] of found.entries()) {
      offsets[at + i] = range;
      words[at + i] = placement.words[from + i]!;
    }
    base = end;
  }
  row.offsets = offsets;
  row.words = words;
}

function pad(tokenizer: RowSource, rows: readonly Row[], options: CallOptions): void {
  const { padding } = options;
  const { pad_to_multiple_of: multiple = 1, padding_side: side = tokenizer.padding_side } = options;
  if (padding === undefined || padding === false || padding === "do_not_pad") return;
  let length: number | undefined;
  if (padding === "max_length") {
    length = Math.floor(options.max_length ?? tokenizer.model_max_length);
    if (length >= NO_LIMIT) {
      throw new OptionError('tokenizer: padding: "max_length" needs max_length: the tokenizer sets no limit', {
        hint: 'max_length: 512, or padding: "longest"',
        details: { option: "max_length" },
      });
    }
  }
  const padId = () => {
    const id = tokenizer.pad_token_id;
    if (id !== null) return id;
    throw new OptionError("tokenizer: padding needs a pad_token and this tokenizer has none", {
      hint: "tokenizer.pad_token = tokenizer.eos_token",
      details: { option: "padding" },
    });
  };
  if (rows.length > 0) padId(); // as in Python: fail even if no row needs padding
  padRows(rows, { length, multiple, side, pad: padId });
}
