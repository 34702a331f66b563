// Post-processors: the special tokens around one sequence or two. They add the same tokens around any text, so that what they
// add is found out once. Not here: adding it (engine.ts).

import { show } from "../core/show.js";
import { type Components, isId } from "./components.js";
import { fail, isObject, type Json, type JsonObject } from "./json-file.js";

type Special = readonly (readonly [id: number, type: number])[];

/** Special tokens before, between and after the sequences, with their types, and the types of the sequences. */
export interface Frame {
  readonly before: Special;
  readonly between: Special;
  readonly after: Special;
  readonly types: readonly [number, number];
}

/** A special token, or one of the sequences. */
type Item = readonly [of: number | "A" | "B", type: number];

/** What the frame needs to know of the vocabulary. */
export interface Known {
  readonly file: string;
  readonly idOf: (token: string) => number | undefined;
  readonly has: (id: number) => boolean;
}

const KEY = "post_processor";
/** Tokens and sequences of a template; real ones have a handful. */
const MOST_ITEMS = 1024;

function malformed(file: string, what: string): never {
  return fail(file, KEY, `malformed: ${what}`);
}

function exists({ file, has }: Known, token: string, id: number | undefined): number {
  return id !== undefined && has(id) ? id : fail(file, KEY, `token ${show(token)} does not exist`);
}

/** `[CLS] A [SEP]` and so on; RoBERTa's has two separators in the middle and no types. */
function around(config: JsonObject, known: Known, a: readonly Item[], b: readonly Item[] | null): Item[] {
  const roberta = config.type === "RobertaProcessing";
  const special = (pair: Json | undefined, type: number): Item => {
    const [token, id] = pair as [string, number];
    return [exists(known, token, id), type];
  };
  const typed = (items: readonly Item[]): readonly Item[] => (roberta ? items.map(([of]) => [of, 0]) : items);
  const first = [special(config.cls, 0), ...typed(a), special(config.sep, 0)];
  if (b === null) return first;
  const second = [...typed(b), special(config.sep, roberta ? 0 : 1)];
  return roberta ? [...first, special(config.sep, 0), ...second] : [...first, ...second];
}

function typeId(file: string, value: Json | undefined): number {
  if (value === undefined) return 0;
  return isId(value) ? value : malformed(file, `type_id ${show(value)} is no whole number`);
}

function template(config: JsonObject, known: Known, a: readonly Item[], b: readonly Item[] | null): Item[] {
  const { file, idOf } = known;
  const name = b === null ? "single" : "pair";
  const items = config[name];
  if (!Array.isArray(items)) return malformed(file, `it has no \`${name}\``);
  const specials = isObject(config.special_tokens) ? config.special_tokens : {};
  const made: Item[] = [];
  const put = (more: readonly unknown[], each: (one: unknown) => Item): void => {
    // A list of ids may be named a thousand times, and a template of a template doubles its sequences.
    if (made.length + more.length > MOST_ITEMS) {
      fail(file, KEY, `the template adds more than ${MOST_ITEMS} tokens, which is the most that is allowed`);
    }
    for (const one of more) made.push(each(one));
  };
  for (const item of items) {
    const { SpecialToken: special, Sequence: sequence } = isObject(item) ? item : {};
    if (isObject(special) && typeof special.id === "string") {
      const type = typeId(file, special.type_id);
      const entry = Object.hasOwn(specials, special.id) ? specials[special.id] : undefined;
      const token = special.id;
      const ids: unknown[] = isObject(entry) && Array.isArray(entry.ids) ? entry.ids.filter(isId) : [idOf(token)];
      put(ids, (id) => [exists(known, token, id as number | undefined), type]);
      continue;
    }
    if (isObject(sequence) && (sequence.id === "A" || sequence.id === "B")) {
      const type = typeId(file, sequence.type_id);
      const part = sequence.id === "A" ? a : (b ?? malformed(file, "`single` holds $B"));
      put(part, (one) => [(one as Item)[0], type]);
      continue;
    }
    malformed(file, `${show(item)} is neither a SpecialToken nor a Sequence`);
  }
  return made;
}

/**
 * The frame of one sequence, or of two.
 * @throws FormatError when the post-processor is malformed or names a token that does not exist
 */
export function buildFrame(components: Components | null, pair: boolean, known: Known): Frame {
  let first: readonly Item[] = [["A", 0]];
  let second: readonly Item[] | null = pair ? [["B", 1]] : null;
  for (const config of components ?? []) {
    if (config.type === "ByteLevel") continue; // only cuts offsets
    first = (config.type === "TemplateProcessing" ? template : around)(config, known, first, second);
    second = null;
  }
  const items = second === null ? [...first] : [...first, ...second];
  if (pair && !items.some(([of]) => of === "B")) items.push(["B", 1]);
  const atA = items.findIndex(([of]) => of === "A");
  const atB = pair ? items.findIndex(([of]) => of === "B") : items.length;
  const once = items.filter(([of]) => typeof of === "string").length === (pair ? 2 : 1);
  if (atA < 0 || atB < atA || !once) fail(known.file, KEY, "the template must hold $A once, and $B after it");
  const specials = (from: number, to: number) => items.slice(from, to) as unknown as Special;
  return {
    before: specials(0, atA),
    between: pair ? specials(atA + 1, atB) : [],
    after: specials((pair ? atB : atA) + 1, items.length),
    types: [items[atA]![1], pair ? items[atB]![1] : 0],
  };
}
