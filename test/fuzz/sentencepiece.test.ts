// Mutants of SentencePiece models, for every class that is built from one. Those that are read encode and decode a few texts.

import { readFileSync } from "node:fs";
import { afterAll } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { readSentencePiece } from "../../src/tokenizer/sentencepiece.js";
import { mutateBytes } from "./support/bytes.js";
import type { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";
import { MemorySource } from "./support/memory-source.js";
import { json } from "./support/tiny.js";

const ALBERT = new URL("../fixtures/tokenizers/albert.model", import.meta.url);
const CHARSMAP = readSentencePiece(readFileSync(ALBERT), "albert.model").charsmap;

const CLASSES = [
  ...[
    "T5Tokenizer",
    "AlbertTokenizer",
    "XLMRobertaTokenizer",
    "CamembertTokenizer",
    "MBartTokenizer",
    "MBart50Tokenizer",
  ],
  ...[
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "DebertaV2Tokenizer",
    "XLNetTokenizer",
    "NllbTokenizer",
  ],
  ...["PreTrainedTokenizerFast", "BertTokenizer"],
];
const TEXTS = ["hello the héllo", "▁▁h\u0301 ﬁ Ａ", "a".repeat(300), "<s>h</s>[CLS]", ""];
const PIECES = [
  "<unk>",
  "<s>",
  "</s>",
  "<pad>",
  "[CLS]",
  "[SEP]",
  "[UNK]",
  "[PAD]",
  "[MASK]",
  "<mask>",
  "<sep>",
  "<cls>",
  "▁",
  "h",
  "e",
  "l",
  "o",
  "he",
  "ll",
  "▁he",
  "▁the",
  "é",
  "<0x41>",
  "<0xC3>",
];
const ODD_PIECES = [
  "",
  "h",
  "<s>",
  "▁▁",
  "\ud83d\ude00",
  "a".repeat(600),
  "<extra_id_3>",
  "en_XX",
  "\0",
  "<0xZZ>",
  "\u001b[2J",
];
const ODD_NUMBERS = [0, 1, 2, 3, 4, 6, -1, 24, 255, 2 ** 31 - 1, -(2 ** 31)];
const ODD_SCORES = [0, -1, 1e30, Number.NaN, Number.POSITIVE_INFINITY, -1e-30];

function varint(value: number): number[] {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return [...bytes, Number(rest)];
}
const number = (field: number, value: number): number[] => [...varint(field << 3), ...varint(value)];
const blob = (field: number, value: Iterable<number>): number[] => {
  const bytes = [...value];
  return [...varint((field << 3) | 2), ...varint(bytes.length), ...bytes];
};
const float = (field: number, value: number): number[] => [
  ...varint((field << 3) | 5),
  ...new Uint8Array(Float32Array.of(value).buffer),
];

/** A model of a few pieces, some of its values changed. */
function model(chance: Chance): Uint8Array {
  const odd = chance.is(0.5) ? 0.02 : 0;
  const pieces = PIECES.flatMap((piece, id) => {
    if (chance.is(odd)) return [];
    const type = chance.is(odd) ? chance.one(ODD_NUMBERS) : id === 0 ? 2 : id < 12 ? 3 : 1;
    const text = chance.is(odd) ? chance.one(ODD_PIECES) : piece;
    const score = chance.is(odd) ? chance.one(ODD_SCORES) : -id;
    return blob(1, [...blob(1, Buffer.from(text)), ...float(2, score), ...number(3, type)]);
  });
  const setting = (field: number, value: number) => number(field, chance.is(5 * odd) ? chance.one(ODD_NUMBERS) : value);
  const trainer = [
    ...[...setting(3, 1 + chance.below(2)), ...setting(35, chance.below(2))],
    ...[...setting(40, 0), ...setting(41, 1), ...setting(42, 2), ...setting(43, -1)],
    ...blob(45, Buffer.from(chance.is(odd) ? chance.one(ODD_PIECES) : "<unk>")),
  ];
  const table = Uint8Array.from(CHARSMAP);
  if (chance.is(10 * odd)) table[chance.below(table.length)] = chance.below(256);
  const normalizer = chance.is(0.5) ? blob(2, table) : [];
  return Uint8Array.from([...pieces, ...blob(2, trainer), ...blob(3, normalizer)]);
}

let source: MemorySource | undefined;
afterAll(() => {
  source = undefined;
});

fuzz<Record<string, Uint8Array>>({
  name: "sentencepiece",
  make(chance) {
    const bytes = model(chance);
    const settings = {
      tokenizer_class: chance.one(CLASSES),
      ...(chance.is(0.2)
        ? { legacy: chance.is(0.5), add_prefix_space: chance.is(0.5), extra_ids: chance.one(ODD_NUMBERS) }
        : {}),
    };
    return {
      "tokenizer.model": chance.is(0.5) ? mutateBytes(chance, bytes) : bytes,
      "tokenizer_config.json": json(settings),
    };
  },
  async read(files, chance) {
    source = new MemorySource(files);
    const tokenizer = await loadTokenizer(source);
    if (!chance.is(0.15)) return undefined;
    for (const text of TEXTS) {
      try {
        const ids = tokenizer.encode(text);
        const bad = ids.find((id) => !Number.isSafeInteger(id) || id < 0);
        if (bad !== undefined) return `${JSON.stringify(text)} has the id ${bad}`;
        if (typeof tokenizer.decode(ids) !== "string") return "decode gives no text";
      } catch (error) {
        if (!(error instanceof OctavoError)) throw error;
      }
    }
    return undefined;
  },
  left: () => (source?.open_files ? `${source.open_files} files are open` : undefined),
});
