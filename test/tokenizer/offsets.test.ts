// Tokens come from where Python's fast tokenizers say (fixtures/tokenizers/offsets.jsonl, by make_offsets.py).

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError, OptionError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import type { PreTrainedTokenizer, Side } from "../../src/tokenizer/api.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import type { CallOptions } from "../../src/tokenizer/options.js";
import { MemorySource } from "../fuzz/support/memory-source.js";
import { golden, STORYTELLER } from "./golden.js";
import { make } from "./support.js";

const FOLDER = new URL("../fixtures/tokenizers/", import.meta.url);
const ROOT = new URL("../../", import.meta.url);
/** A file with more texts than the repository's, by `make_offsets.py --texts N --out FILE`. */
const MANY = process.env.OCTAVO_TOKENIZER_OFFSETS;

type Range = readonly [start: number, end: number];
type Words = readonly (number | null)[];
/** Offsets are in UTF-16 units; those of `encoded` are in code points. */
type Call = [
  text: string,
  pair: string | null,
  options: CallOptions & { truncation_side?: Side },
  ids: number[],
  offsets: Range[],
  words: Words,
];
interface Kind {
  readonly name: string;
  readonly files?: Readonly<Record<string, string>>;
  readonly settings?: Readonly<Record<string, object>>;
  readonly folder?: string;
  readonly json?: object;
  readonly base?: string;
  readonly change?: object;
  readonly encoded: readonly (string | [Range[], Words] | null)[];
  readonly calls?: readonly Call[];
}
const [texts, ...kinds] = readFileSync(MANY ?? new URL("offsets.jsonl", FOLDER), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line)) as [string[], ...Kind[]];

const opened = new Map<Kind, Promise<PreTrainedTokenizer>>();
function open(kind: Kind): Promise<PreTrainedTokenizer> {
  const known = opened.get(kind);
  if (known !== undefined) return known;
  const { files = {}, settings = {}, folder, json, base, change } = kind;
  const whole = base === undefined ? json : { ...(golden(base).json as object), ...change };
  const written = Object.entries(whole === undefined ? settings : { "tokenizer.json": whole });
  const made = loadTokenizer(
    folder === undefined
      ? new MemorySource({
          ...Object.fromEntries(
            Object.entries(files).map(([name, file]) => [name, readFileSync(new URL(file, FOLDER))]),
          ),
          ...Object.fromEntries(written.map(([name, value]) => [name, Buffer.from(JSON.stringify(value))])),
        })
      : new Disk(new URL(folder, ROOT).pathname),
  );
  opened.set(kind, made);
  return made;
}

/** Offsets and words of make_offsets.py's digits. */
function read(digits: string): [Range[], Words] {
  const offsets: Range[] = [];
  const words: (number | null)[] = [];
  let [start, word] = [0, 0];
  for (const [three] of digits.matchAll(/.../g)) {
    const none = three === "###";
    const [more = 0, size = 0, next = 0] = none ? [] : [...three].map((digit) => Number.parseInt(digit, 36));
    if (!none) [start, word] = [start + more, word + next];
    offsets.push(none ? [0, 0] : [start, start + size]);
    words.push(none ? null : word);
  }
  return [offsets, words];
}

/** Offsets in UTF-16 units of those in code points. */
function units(text: string, offsets: readonly Range[]): Range[] {
  const places = [0];
  for (const char of text) places.push(places.at(-1)! + char.length);
  return offsets.map(([start, end]) => [places[start]!, places[end]!]);
}

/** How much each word's number is above that of the token before it; 0 for the first of a text, where it falls. */
function steps(words: Words): Words {
  return words.map((word, i) => word && Math.max(0, word - (words[i - 1] ?? word)));
}

describe.each(kinds.map((kind) => [kind.name, kind] as const))("%s", (_name, kind) => {
  it("has the offsets and words that Python gives", async () => {
    const tokenizer = await open(kind);
    expect(kind.encoded.length).toBe(texts.length);
    for (const [i, expected] of kind.encoded.entries()) {
      if (expected === null && MANY !== undefined) continue; // where Python's library fails
      const text = texts[i]!;
      const [offsets, words] = typeof expected === "string" ? read(expected) : expected!;
      const found = tokenizer(text, { return_offsets_mapping: true });
      expect([text, found.offset_mapping, found.word_ids()]).toEqual([text, units(text, offsets), words]);
    }
  });

  it("has offsets in order, within any text, and the ids that it has without them", async () => {
    const tokenizer = await open(kind);
    const part = fc.oneof(
      fc.constantFrom(...texts),
      fc.string({ unit: "grapheme" }),
      fc.string({ unit: "binary" }),
      fc.string(),
    );
    const options = fc.record({ split_special_tokens: fc.boolean(), add_special_tokens: fc.boolean() });
    fc.assert(
      fc.property(fc.array(part, { maxLength: 3 }), options, (parts, given) => {
        const text = parts.join("");
        const found = tokenizer(text, { ...given, return_offsets_mapping: true });
        expect(found.input_ids).toEqual(tokenizer.encode(text, given));
        const words = found.word_ids();
        expect([found.offset_mapping!.length, words.length]).toEqual([found.input_ids.length, found.input_ids.length]);
        let last = 0;
        for (const [i, [start, end]] of found.offset_mapping!.entries()) {
          if (words[i] === null) continue;
          // Tokens of white space alone may be trimmed to where the next one goes on.
          if (end > start) expect(start).toBeGreaterThanOrEqual(last);
          expect(end).toBeGreaterThanOrEqual(start);
          expect(end).toBeLessThanOrEqual(text.length);
          // No offset cuts a pair of surrogates.
          for (const at of [start, end])
            expect(text.slice(at - 1, at + 1)).not.toMatch(/^[\uD800-\uDBFF][\uDC00-\uDFFF]$/);
          if (end > start) last = start;
        }
      }),
      { numRuns: 40, seed: 9 },
    );
  });
});

const called = kinds.filter(({ calls }) => calls !== undefined);

it("has calls of some kinds", () => {
  expect(called.length).toBeGreaterThanOrEqual(12);
});

describe.each(called.map((kind) => [kind.name, kind] as const))("calls of %s", (_name, kind) => {
  it("cut and pad them as Python does", async () => {
    const tokenizer = await open(kind);
    for (const [text, pair, { truncation_side = "right", ...options }, ids, offsets, words] of kind.calls!) {
      tokenizer.truncation_side = truncation_side;
      const more = pair === null ? {} : { text_pair: pair };
      const found = tokenizer(text, { ...options, ...more, return_offsets_mapping: true });
      expect([options, found.input_ids, found.offset_mapping]).toEqual([options, ids, offsets]);
      // Python reads no more of a text than is needed, and counts words from where it began, which is not at the text's start.
      const counted = (list: Words) => (truncation_side === "left" ? steps(list) : list);
      expect([options, counted(found.word_ids())]).toEqual([options, counted(words)]);
    }
    tokenizer.truncation_side = "right";
  });
});

const text = "Once upon a time, 👧 Lily";

describe("an encoding with offsets", () => {
  it("has them for each text of a batch, and none for padding", async () => {
    const tokenizer = await loadTokenizer(new Disk(STORYTELLER));
    const found = tokenizer([text, "a b"], { padding: true, padding_side: "left", return_offsets_mapping: true });
    const pieces = found.offset_mapping!.map((row, b) =>
      row.map(([start, end]) => [text, "a b"][b]!.slice(start, end)),
    );
    expect(pieces[0]!.slice(-3)).toEqual(["👧", " L", "ily"]);
    expect(pieces[1]!.slice(-2)).toEqual(["a", " b"]);
    expect([pieces[1]![0], found.word_ids(1)[0], found.word_ids(1).at(-1)]).toEqual(["", null, 1]);
    expect(Object.keys({ ...found })).toEqual(["input_ids", "attention_mask", "offset_mapping"]);
  });

  it("has them as a tensor, and in a chat template's", async () => {
    const tokenizer = await loadTokenizer(new Disk(STORYTELLER));
    const lists = tokenizer(text, { return_offsets_mapping: true });
    const tensors = tokenizer(text, { return_offsets_mapping: true, return_tensors: true });
    expect(tensors.offset_mapping!.shape).toEqual([1, lists.input_ids.length, 2]);
    expect([...tensors.offset_mapping!.data]).toEqual(lists.offset_mapping!.flat());
    expect(tensors.word_ids()).toEqual(lists.word_ids());
    const chat = tokenizer.apply_chat_template([{ role: "user", content: text }], {
      chat_template: "{{ messages[0].content }}",
      tokenizer_kwargs: { return_offsets_mapping: true },
    });
    expect(chat.offset_mapping).toEqual(lists.offset_mapping);
  });

  it("alone has words", async () => {
    const tokenizer = await loadTokenizer(new Disk(STORYTELLER));
    expect(() => tokenizer(text).word_ids()).toThrow(OptionError);
    const found = tokenizer(text, { return_offsets_mapping: true });
    for (const index of [1, -1, 0.5, "length" as never, null as never])
      expect(() => found.word_ids(index)).toThrow(OptionError);
  });

  it("is refused where Python's numbers make no sense", () => {
    const bytes = Array.from({ length: 256 }, (_, i) => [`<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`, i]);
    const vocab = Object.fromEntries(bytes) as Record<string, number>;
    const model = { type: "BPE", vocab, merges: [], byte_fallback: true, end_of_word_suffix: "</w>" };
    expect(() => make({ model }).place("a")).toThrow(FormatError);
  });
});

describe("time", () => {
  it.each(["a", " ", "e\u0301", "e\u0302\u0323", "ﬁ", "日", "👩‍👩‍👧", "a\u200d", " <s>"])(
    "does not grow with the square of the text for %j",
    async (part) => {
      const long = part.repeat(30_000 / part.length);
      for (const name of ["t5", "bert", "llama", "roberta", "normalizer NFKC, NFD, NFC"]) {
        const tokenizer = await open(kinds.find((kind) => kind.name === name)!);
        const start = performance.now();
        expect(tokenizer(long, { return_offsets_mapping: true }).offset_mapping!.length).toBeGreaterThan(0);
        // A guard against hangs: it takes some 20 ms, and what looks at all of the text for each character takes many seconds.
        expect(performance.now() - start).toBeLessThan(5000);
      }
    },
  );
});
