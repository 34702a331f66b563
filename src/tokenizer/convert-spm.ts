// Builds the structure of a tokenizer.json from a SentencePiece model, class by class as transformers 5 does: which pieces stand
// where, how text is normalized and cut, and which tokens are put around it. Not here: reading the model (sentencepiece.ts).

import {
  bosEos,
  type ConvertOptions,
  clsSep,
  type Part,
  template,
  tokenWithId,
  unsupportedClass,
  type Vocabulary,
} from "./convert.js";
import { fail, type Json, type JsonObject } from "./json-file.js";
import { PIECE, type SentencePieceModel } from "./sentencepiece.js";

const MARK = "\u2581";

type Scored = readonly [token: string, score: number];

/** mBART's languages, in the order of their ids. */
const MBART =
  "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO " +
  "ru_RU si_LK tr_TR vi_VN zh_CN";
const MBART_50 =
  `${MBART} af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN ` +
  "te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI";
/** T5's tokens for gaps; more than these are not believed. */
const MOST_EXTRA = 10_000;
/** Pegasus's tokens that are no pieces: those before them, and how many there are with the unknown ones. */
const PEGASUS_MASK = "<mask_1>";
const PEGASUS_OFFSET = 103;
const PEGASUS_UNKNOWN = Array.from({ length: PEGASUS_OFFSET - 2 }, (_, i) => `<unk_${i + 2}>`);

/** A class's way from a SentencePiece model to a tokenizer. */
interface Rules {
  /** The kind of model the class needs; by default whatever the file is. */
  readonly kind?: "unigram" | "bpe";
  /** Pieces of a unigram model in the order of their ids. */
  readonly pieces?: (model: SentencePieceModel, options: ConvertOptions) => Scored[];
  /** The unknown token's id; by default the file's. */
  readonly unk?: (pieces: readonly Scored[], options: ConvertOptions, model: SentencePieceModel) => number | undefined;
  /** Special tokens beside those of the file. */
  readonly extra?: (options: ConvertOptions) => readonly string[];
  readonly normalizers: (options: ConvertOptions, table: Json[]) => Json[];
  readonly pre_tokenizer: (options: ConvertOptions) => Json;
  readonly decoder: (options: ConvertOptions, model: SentencePieceModel) => JsonObject;
  readonly post_processor: (vocabulary: Vocabulary, options: ConvertOptions) => JsonObject;
  /** Values of a BPE model. */
  readonly model?: (model: SentencePieceModel, options: ConvertOptions) => JsonObject;
}

export function metaspace(prepend_scheme: "always" | "first" | "never", split = true): JsonObject {
  return { type: "Metaspace", replacement: MARK, prepend_scheme, split };
}

export function sequence(key: "pretokenizers" | "normalizers" | "decoders", items: Json[]): JsonObject {
  return { type: "Sequence", [key]: items };
}

function prefixed({ config }: ConvertOptions, other: "never" | "first" = "never"): "always" | "never" | "first" {
  return (config.add_prefix_space ?? true) === true ? "always" : other;
}

/** Words, and before each the mark: most unigram models. */
const WORDS = {
  pre_tokenizer: (options: ConvertOptions): Json =>
    sequence("pretokenizers", [{ type: "WhitespaceSplit" }, metaspace(prefixed(options))]),
  decoder: (options: ConvertOptions): JsonObject => metaspace(prefixed(options)),
};

function replace(from: string, content: string): JsonObject {
  return { type: "Replace", pattern: { String: from }, content };
}

/** `Precompiled` beside the rules of ALBERT and XLNet. */
function quotes({ config }: ConvertOptions, table: Json[], keepsAccents: boolean, lower: boolean): Json[] {
  return [
    replace("``", '"'),
    replace("''", '"'),
    ...(keepsAccents ? [] : [{ type: "NFKD" }, { type: "StripAccents" }]),
    ...((config.do_lower_case ?? lower) === true ? [{ type: "Lowercase" }] : []),
    ...table,
  ];
}

function named({ special }: ConvertOptions, name: string, usual: string): Scored {
  return [special(name) ?? usual, 0];
}

function scored({ pieces }: SentencePieceModel, from = 0): Scored[] {
  return pieces.slice(from).map(({ piece, score }): Scored => [piece, score]);
}

/** fairseq's order: four special tokens, the pieces without their own three, other tokens, the mask. */
function fairseq(more: string, first = "bos_token") {
  return (model: SentencePieceModel, options: ConvertOptions): Scored[] => [
    named(options, first, "<s>"),
    named(options, "pad_token", "<pad>"),
    named(options, "eos_token", "</s>"),
    named(options, "unk_token", "<unk>"),
    ...scored(model, 3),
    ...more.split(" ").flatMap((token): Scored[] => (token === "" ? [] : [[token, 0]])),
    named(options, "mask_token", "<mask>"),
  ];
}

const third = () => 3;

/** The language of the text, which mBART puts beside it. */
function language(vocabulary: Vocabulary, options: ConvertOptions): readonly [string, number] {
  const { src_lang: given } = options.config;
  if (given !== undefined && given !== null && typeof given !== "string")
    fail(vocabulary.file, "src_lang", "expected text");
  return tokenWithId(vocabulary, { ...options, special: () => given ?? "en_XX" }, "src_lang");
}

function extraIds({ config }: ConvertOptions, file = "tokenizer_config.json"): string[] {
  const count = config.extra_ids ?? 100;
  if (!(Number.isInteger(count) && Number(count) >= 0 && Number(count) <= MOST_EXTRA)) {
    fail(file, "extra_ids", `expected a whole number up to ${MOST_EXTRA}`);
  }
  return Array.from({ length: Number(count) }, (_, i) => `<extra_id_${Number(count) - 1 - i}>`);
}

/** Byte fallback behind marks that become spaces. */
function bytesAndMarks(strips: boolean): JsonObject {
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
  return sequence("decoders", [
    replace(MARK, " "),
    { type: "ByteFallback" },
    { type: "Fuse" },
    ...(strips ? [strip] : []),
  ]);
}

const LLAMA: Rules = {
  kind: "bpe",
  normalizers: () => [],
  pre_tokenizer: (options) =>
    metaspace(prefixed(options) === "never" ? "never" : options.config.legacy === true ? "always" : "first", false),
  decoder: (options) => bytesAndMarks(prefixed(options) !== "never"),
  post_processor: bosEos,
  model: () => ({ unk_token: null, fuse_unk: true, byte_fallback: true }),
};

const MBART_RULES: Rules = {
  kind: "unigram",
  pieces: fairseq(MBART),
  unk: third,
  extra: () => MBART.split(" "),
  normalizers: () => [],
  pre_tokenizer: () => sequence("pretokenizers", [{ type: "WhitespaceSplit" }, metaspace("always")]),
  decoder: () => metaspace("always"),
  post_processor: (vocabulary, options) => {
    const after: Part[] = [[tokenWithId(vocabulary, options, "eos_token")], [language(vocabulary, options)]];
    return template([["A"], ...after], [["A"], ["B"], ...after]);
  },
};

const RULES: Readonly<Record<string, Rules>> = {
  T5Tokenizer: {
    kind: "unigram",
    pieces: (model, options) => {
      const own = new Set(model.pieces.map(({ piece }) => piece));
      return [
        ...scored(model),
        ...extraIds(options).flatMap((token): Scored[] => (own.has(token) ? [] : [[token, 0]])),
      ];
    },
    extra: (options) => extraIds(options),
    normalizers: (_, table) => table,
    pre_tokenizer: () => sequence("pretokenizers", [{ type: "WhitespaceSplit" }, metaspace("always")]),
    decoder: () => metaspace("always"),
    post_processor: (vocabulary, options) => {
      const eos = tokenWithId(vocabulary, options, "eos_token");
      return template([["A"], [eos]], [["A"], [eos], ["B"], [eos]]);
    },
  },
  AlbertTokenizer: {
    ...WORDS,
    kind: "unigram",
    unk: () => 1,
    normalizers: (options, table) => quotes(options, table, options.config.keep_accents === true, true),
    post_processor: (vocabulary, options) => clsSep(vocabulary, options, 1, true),
  },
  XLNetTokenizer: {
    kind: "unigram",
    extra: () => ["<eop>", "<eod>"],
    normalizers: (options, table) => quotes(options, table, false, false),
    pre_tokenizer: () => sequence("pretokenizers", [{ type: "WhitespaceSplit" }, metaspace("always")]),
    decoder: () => metaspace("always"),
    post_processor: (vocabulary, options) => {
      const [sep, cls] = [tokenWithId(vocabulary, options, "sep_token"), tokenWithId(vocabulary, options, "cls_token")];
      return template([["A"], [sep], [cls, 2]], [["A"], [sep], ["B", 1], [sep, 1], [cls, 2]]);
    },
  },
  XLMRobertaTokenizer: {
    ...WORDS,
    kind: "unigram",
    pieces: fairseq(""),
    unk: third,
    normalizers: (_, table) => table,
    post_processor: (vocabulary, options) => clsSep(vocabulary, options, 2, false, ["bos_token", "eos_token"]),
  },
  CamembertTokenizer: {
    ...WORDS,
    kind: "unigram",
    pieces: (model, options) => [
      ["<s>NOTUSED", 0],
      named(options, "pad_token", "<pad>"),
      ["</s>NOTUSED", 0],
      named(options, "unk_token", "<unk>"),
      ["<unk>NOTUSED", -100],
      ...scored(model, 1),
      named(options, "mask_token", "<mask>"),
    ],
    unk: third,
    normalizers: (_, table) => table,
    post_processor: (vocabulary, options) => clsSep(vocabulary, options, 2, false, ["bos_token", "eos_token"]),
  },
  MBartTokenizer: MBART_RULES,
  MBart50Tokenizer: {
    ...MBART_RULES,
    pieces: fairseq(MBART_50, "cls_token"),
    extra: () => MBART_50.split(" "),
    normalizers: (_, table) => [...table, { type: "Replace", pattern: { Regex: " {2,}" }, content: " " }],
    pre_tokenizer: () => metaspace("always"),
    post_processor: (vocabulary, options) => {
      const [code, eos] = [language(vocabulary, options), tokenWithId(vocabulary, options, "eos_token")];
      return template([[code], ["A"], [eos]], [[code], ["A"], ["B"], [eos]]);
    },
  },
  PegasusTokenizer: {
    kind: "unigram",
    pieces: (model, options) => [
      named(options, "pad_token", "<pad>"),
      named(options, "eos_token", "</s>"),
      [PEGASUS_MASK, 0],
      named(options, "mask_token", "<mask_2>"),
      ...PEGASUS_UNKNOWN.map((token): Scored => [token, -100]),
      ...scored(model, 2),
    ],
    unk: (_, __, model) => model.ids.unk + PEGASUS_OFFSET,
    extra: () => [PEGASUS_MASK, ...PEGASUS_UNKNOWN],
    normalizers: (_, table) => [...table, { type: "Replace", pattern: { Regex: " {2,}" }, content: " " }],
    pre_tokenizer: () => metaspace("always"),
    decoder: () => metaspace("always"),
    post_processor: (vocabulary, options) => {
      const eos = tokenWithId(vocabulary, options, "eos_token");
      return template([["A"], [eos]], [["A"], ["B"], [eos]]);
    },
  },
  DebertaV2Tokenizer: {
    kind: "unigram",
    unk: (pieces, { special }) => {
      const at = pieces.findIndex(([token, score]) => token === special("unk_token") && score === 0);
      return at < 0 ? undefined : at;
    },
    normalizers: ({ config }) => [
      ...(config.do_lower_case === true ? [{ type: "Lowercase" }] : []),
      { type: "Replace", pattern: { Regex: "\\s{2,}|[\\n\\r\\t]" }, content: " " },
      { type: "NFC" },
      { type: "Strip", strip_left: false, strip_right: true },
    ],
    pre_tokenizer: (options) =>
      sequence("pretokenizers", [
        ...(options.config.split_by_punct === true ? [{ type: "Punctuation", behavior: "Isolated" }] : []),
        metaspace(prefixed(options, "first")),
      ]),
    decoder: (options) => metaspace(prefixed(options, "first")),
    post_processor: (vocabulary, options) => clsSep(vocabulary, options, 1, true),
  },
  LlamaTokenizer: LLAMA,
  CodeLlamaTokenizer: {
    ...LLAMA,
    extra: () => ["\u2581<PRE>", "\u2581<MID>", "\u2581<SUF>", "\u2581<EOT>", "<FILL_ME>"],
    pre_tokenizer: (options) => metaspace(prefixed(options) === "never" ? "never" : "first", false),
    decoder: () => bytesAndMarks(true),
    post_processor: (vocabulary, options) => bosEos(vocabulary, options, true),
    model: (_, { special }) => ({ unk_token: special("unk_token") ?? null, fuse_unk: true, byte_fallback: true }),
  },
  GemmaTokenizer: {
    kind: "bpe",
    normalizers: () => [replace(" ", MARK)],
    pre_tokenizer: () => ({
      type: "Split",
      pattern: { String: " " },
      behavior: "MergedWithPrevious",
      invert: false,
    }),
    decoder: () => bytesAndMarks(false),
    post_processor: bosEos,
    model: (_, { special }) => ({ unk_token: special("unk_token") ?? null, fuse_unk: true, byte_fallback: true }),
  },
};

/** What the file itself says, where no class does. */
const PLAIN: Rules = {
  normalizers: (_, table) => [...table, replace(" ", MARK)],
  pre_tokenizer: () => null,
  decoder: (_, { byte_fallback }) =>
    byte_fallback ? bytesAndMarks(false) : sequence("decoders", [replace(MARK, " ")]),
  post_processor: bosEos,
  model: ({ names, byte_fallback }) => ({ unk_token: names.unk, fuse_unk: true, byte_fallback }),
};

/** True for classes whose text is cut by a SentencePiece model. */
export function isSentencePiece(name: string | undefined): boolean {
  return name !== undefined && Object.hasOwn(RULES, name);
}

/**
 * Pairs of pieces that together are a piece, in the order of the pieces they make, the shortest left part first.
 */
export function mergesOf(ids: ReadonlyMap<string, number>): [string, string][] {
  const merges: [string, string][] = [];
  for (const piece of ids.keys()) {
    for (let at = 1; at < piece.length; at++) {
      if ((piece.charCodeAt(at) & 0xfc00) === 0xdc00) continue; // within a character
      const left = piece.slice(0, at);
      if (!ids.has(left)) continue;
      const right = piece.slice(at);
      if (ids.has(right)) merges.push([left, right]);
    }
  }
  return merges;
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

/** The table of characters that the model's text is normalized by. */
export function tableOf({ charsmap }: SentencePieceModel): Json[] {
  return charsmap.length > 0 ? [{ type: "Precompiled", precompiled_charsmap: base64(charsmap) }] : [];
}

/** Special tokens that the file names, for folders whose other files name none. */
export function namesOf({ ids, names }: SentencePieceModel): Readonly<Record<string, string | undefined>> {
  const name = (of: "unk" | "bos" | "eos") => (ids[of] >= 0 ? names[of] : undefined);
  return { bos_token: name("bos"), eos_token: name("eos"), unk_token: name("unk") };
}

/**
 * A tokenizer from a SentencePiece model.
 * @throws FormatError when a token that the class needs is missing, or the model is of another kind than the class's
 * @throws UnsupportedModelError for classes whose rules are not known
 */
export function convertSentencePiece(model: SentencePieceModel, options: ConvertOptions): JsonObject {
  const { tokenizer_class: name } = options;
  const { file } = model;
  if (name !== undefined && !Object.hasOwn(RULES, name)) unsupportedClass(file, name, "a SentencePiece model");
  const rules = name === undefined ? PLAIN : RULES[name]!;
  const { kind = model.model_type } = rules;
  if (kind !== model.model_type && kind === "unigram") {
    fail(file, "trainer_spec.model_type", `${name} needs a unigram model, this is one of BPE`);
  }
  const scores = rules.pieces?.(model, options) ?? scored(model);
  const ids = new Map<string, number>();
  const vocab: JsonObject = Object.create(null) as JsonObject;
  for (const [id, [token]] of scores.entries()) {
    if (ids.has(token)) fail(file, `pieces[${id}]`, `${JSON.stringify(token)} stands twice`);
    ids.set(token, id);
    vocab[token] = id;
  }
  const vocabulary: Vocabulary = { file, ids: vocab };
  const table = tableOf(model);
  const normalizers = rules.normalizers(options, table);
  const added = model.pieces.flatMap(({ piece, type }): Json[] => {
    if (type !== PIECE.control && type !== PIECE.user) return [];
    const id = ids.get(piece);
    return id === undefined ? [] : [{ id, content: piece, special: type === PIECE.control, normalized: false }];
  });
  let next = scores.length;
  for (const token of rules.extra?.(options) ?? []) {
    added.push({ id: ids.get(token) ?? next++, content: token, special: true, normalized: false });
  }
  const unk = rules.unk?.(scores, options, model) ?? model.ids.unk;
  const bpe = () => ({
    type: "BPE",
    dropout: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    ignore_merges: false,
    ...rules.model?.(model, options),
    vocab,
    merges: mergesOf(ids),
  });
  return {
    version: "1.0",
    added_tokens: added,
    normalizer: normalizers.length < 2 ? (normalizers[0] ?? null) : sequence("normalizers", normalizers),
    pre_tokenizer: rules.pre_tokenizer(options),
    post_processor: rules.post_processor(vocabulary, options),
    decoder: rules.decoder(options, model),
    model:
      kind === "bpe"
        ? bpe()
        : {
            type: "Unigram",
            unk_id: unk >= 0 ? unk : null,
            byte_fallback: name === undefined && model.byte_fallback,
            vocab: scores.map(([token, score]) => [token, score]),
          },
  };
}
