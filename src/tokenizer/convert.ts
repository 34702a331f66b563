// Builds the structure of a tokenizer.json from the files of repositories that have none: vocab.json + merges.txt (byte-level BPE),
// vocab.txt (WordPiece), and vocab.json alone (the characters of CTC models), class by class as transformers does. Not here:
// SentencePiece models (convert-spm.ts), and reading the files (older-files.ts).

import { FormatError, UnsupportedModelError } from "../core/errors.js";
import { show } from "../core/show.js";
import { fail, isObject, type Json, type JsonObject, kind } from "./json-file.js";

/** What a conversion needs to know beside the vocabulary. */
export interface ConvertOptions {
  /** The class as it stands in CLASSES, or undefined when no file names one. */
  readonly tokenizer_class: string | undefined;
  /** Content of a named special token, from the config or the class's default. */
  readonly special: (name: string) => string | undefined;
  /** tokenizer_config.json. */
  readonly config: JsonObject;
  /** Ids of tokens that other files add to the vocabulary. */
  readonly added: ReadonlyMap<string, number>;
}

/** A vocabulary with its file, for messages. */
export interface Vocabulary {
  readonly file: string;
  readonly ids: JsonObject;
}

const HINT =
  "save it once in Python with `AutoTokenizer.from_pretrained(id).save_pretrained(folder)`, which writes tokenizer.json";

/** @throws UnsupportedModelError always */
export function unsupportedClass(file: string, name: string, from: string): never {
  throw new UnsupportedModelError(`${file}: tokenizer class ${show(name)} cannot be built from ${from}`, {
    hint: HINT,
    details: { file, got: show(name) },
  });
}

/** A named special token with its id. @throws FormatError when there is none in the vocabulary */
export function tokenWithId(
  { file, ids }: Vocabulary,
  { special, added }: ConvertOptions,
  name: string,
): [string, number] {
  const token = special(name);
  const id = token === undefined ? undefined : (ids[token] ?? added.get(token));
  if (token !== undefined && typeof id === "number") return [token, id];
  throw new FormatError(`${file}: ${name} ${token === undefined ? "(none)" : show(token)} is not in the vocabulary`, {
    details: { file, key: name },
  });
}

type Token = readonly [content: string, id: number];

/** A part of a template: a token, or one of the sequences, with its type. */
export type Part = readonly [of: Token | "A" | "B", type?: number];

function parts(list: readonly Part[]): Json[] {
  return list.map(([of, type_id = 0]) =>
    typeof of === "string" ? { Sequence: { id: of, type_id } } : { SpecialToken: { id: of[0], type_id } },
  );
}

/** A post-processor that puts tokens around one sequence or two. */
export function template(single: readonly Part[], pair: readonly Part[]): JsonObject {
  const special_tokens: JsonObject = Object.create(null) as JsonObject;
  for (const [of] of [...single, ...pair]) {
    if (typeof of !== "string") special_tokens[of[0]] = { id: of[0], ids: [of[1]], tokens: [of[0]] };
  }
  return { type: "TemplateProcessing", single: parts(single), pair: parts(pair), special_tokens };
}

/** The template of classes that add bos and eos if tokenizer_config.json says so. */
export function bosEos(vocabulary: Vocabulary, options: ConvertOptions, addBos = false, addEos = false): JsonObject {
  const { config } = options;
  const token = (name: string, usual: boolean): Token[] =>
    (config[`add_${name}`] ?? usual) === true && options.special(name) !== undefined
      ? [tokenWithId(vocabulary, options, name)]
      : [];
  const around = (of: "A" | "B", type: number): Part[] => [
    ...token("bos_token", addBos).map((bos): Part => [bos, type]),
    [of, type],
    ...token("eos_token", addEos).map((eos): Part => [eos, type]),
  ];
  return template(around("A", 0), [...around("A", 0), ...around("B", 1)]);
}

/** `cls A sep`, and between two sequences one separator or two. */
export function clsSep(
  vocabulary: Vocabulary,
  options: ConvertOptions,
  separators: 1 | 2,
  types: boolean,
  names: readonly [cls: string, sep: string] = ["cls_token", "sep_token"],
): JsonObject {
  const [cls, sep] = [tokenWithId(vocabulary, options, names[0]), tokenWithId(vocabulary, options, names[1])];
  const b = types ? 1 : 0;
  const single: Part[] = [[cls], ["A"], [sep]];
  return template(single, [...single, ...(separators === 2 ? ([[sep]] as Part[]) : []), ["B", b], [sep, b]]);
}

const BYTE_DECODER = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true };
const QWEN2_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const CLIP_SPLIT =
  "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

function split(Regex: string, behavior: string, invert: boolean): JsonObject {
  return { type: "Split", pattern: { Regex }, behavior, invert };
}

/** Parts of a tokenizer.json that differ between classes of byte-level BPE. */
type Parts = Partial<Record<"normalizer" | "pre_tokenizer" | "post_processor", Json>> & { readonly model?: JsonObject };

function roberta(vocabulary: Vocabulary, options: ConvertOptions, prefix: boolean): Parts {
  const sep = tokenWithId(vocabulary, options, "sep_token");
  const cls = tokenWithId(vocabulary, options, "cls_token");
  return {
    post_processor: { type: "RobertaProcessing", sep, cls, trim_offsets: true, add_prefix_space: prefix },
  };
}

function clip(vocabulary: Vocabulary, options: ConvertOptions): Parts {
  const sep = tokenWithId(vocabulary, options, "eos_token");
  const cls = tokenWithId(vocabulary, options, "bos_token");
  const normalizers = [
    { type: "NFC" },
    { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
    { type: "Lowercase" },
  ];
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    normalizer: { type: "Sequence", normalizers },
    pre_tokenizer: { type: "Sequence", pretokenizers: [split(CLIP_SPLIT, "Removed", true), bytes] },
    post_processor: { type: "RobertaProcessing", sep, cls, trim_offsets: false, add_prefix_space: false },
    model: { unk_token: options.special("unk_token") ?? null, end_of_word_suffix: "</w>" },
  };
}

/** Whisper's tokens before the text: the start, a language and a task if the files name them, and that there are no times. */
function whisper(vocabulary: Vocabulary, options: ConvertOptions): Parts {
  const { language, task, predict_timestamps } = options.config;
  const named = (token: string): Token => tokenWithId(vocabulary, { ...options, special: () => token }, "prefix token");
  const text = (name: string, value: Json | undefined): Part[] => {
    if (value === undefined || value === null) return [];
    if (typeof value !== "string") return fail(vocabulary.file, name, `expected text, got ${show(value)}`);
    return [[named(`<|${value}|>`)]];
  };
  const prefix: Part[] = [
    [named("<|startoftranscript|>")],
    ...text("language", language),
    ...text("task", task),
    ...(predict_timestamps === true ? [] : ([[named("<|notimestamps|>")]] as Part[])),
  ];
  const eos = tokenWithId(vocabulary, options, "eos_token");
  return {
    post_processor: template([...prefix, ["A"], [eos]], [...prefix, ["A"], ["B", 1], [eos, 1]]),
  };
}

function byteParts(vocabulary: Vocabulary, options: ConvertOptions, prefix: boolean): Parts {
  const bytes = { type: "ByteLevel", add_prefix_space: prefix, trim_offsets: true };
  switch (options.tokenizer_class) {
    case undefined:
    case "GPT2Tokenizer":
    case "CodeGenTokenizer":
    case "BlenderbotTokenizer":
      return {};
    case "GPTNeoXTokenizer":
      return { normalizer: { type: "NFC" } };
    case "RobertaTokenizer":
    case "BartTokenizer":
    case "LongformerTokenizer":
    case "LEDTokenizer":
      return roberta(vocabulary, options, prefix);
    case "DebertaTokenizer":
      return { post_processor: clsSep(vocabulary, options, 2, false) };
    case "Qwen2Tokenizer":
      return {
        normalizer: { type: "NFC" },
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [split(QWEN2_SPLIT, "Isolated", false), { ...bytes, use_regex: false }],
        },
      };
    case "CLIPTokenizer":
      return clip(vocabulary, options);
    case "WhisperTokenizer":
      return whisper(vocabulary, options);
    default:
      return unsupportedClass(vocabulary.file, options.tokenizer_class, "vocab.json and merges.txt");
  }
}

/**
 * Byte-level BPE from vocab.json and merges.txt.
 * @throws FormatError when a token that the class needs is missing
 * @throws UnsupportedModelError for classes that cut text in another way
 */
export function convertBpe(vocabulary: Vocabulary, merges: readonly string[], options: ConvertOptions): JsonObject {
  const { tokenizer_class, config } = options;
  const prefix = (config.add_prefix_space ?? tokenizer_class === "BlenderbotTokenizer") === true;
  const { model, ...rest } = byteParts(vocabulary, options, prefix);
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: prefix, trim_offsets: true, use_regex: true },
    post_processor: rest.post_processor ?? bosEos(vocabulary, options),
    decoder: BYTE_DECODER,
    ...rest,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ...model,
      vocab: vocabulary.ids,
      merges: [...merges],
    },
  };
}

const BERT_LIKE =
  /^(?:Bert|DistilBert|Electra|MobileBert|RetriBert|LayoutLM|LayoutLMv2|DPR\w*|Lxmert|Funnel|SqueezeBert|ConvBert|MPNet)Tokenizer$/;

/**
 * WordPiece from vocab.txt.
 * @throws FormatError when a special token is missing
 * @throws UnsupportedModelError when the tokenizer class is not one of BERT's kind
 */
export function convertWordPiece(vocabulary: Vocabulary, options: ConvertOptions): JsonObject {
  const { tokenizer_class: name, config } = options;
  if (name !== undefined && !BERT_LIKE.test(name)) unsupportedClass(vocabulary.file, name, "vocab.txt");
  const [unk_token] = tokenWithId(vocabulary, options, "unk_token");
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: config.tokenize_chinese_chars !== false,
      strip_accents: config.strip_accents ?? null,
      lowercase: config.do_lower_case !== false,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor:
      name === "MPNetTokenizer"
        ? roberta(vocabulary, options, false).post_processor!
        : clsSep(vocabulary, options, 1, true),
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token,
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: vocabulary.ids,
    },
  };
}

/** The languages of a vocab.json that has a vocabulary for each; undefined for one of tokens. */
export function vocabularyLanguages({ ids }: Vocabulary): readonly string[] | undefined {
  const languages = Object.keys(ids);
  return languages.length > 0 && languages.every((language) => isObject(ids[language])) ? languages : undefined;
}

/** The vocabulary of a language, where vocab.json has several. */
function ofLanguage({ file, ids }: Vocabulary, language: Json | undefined): JsonObject {
  if (language === undefined || language === null) return ids;
  const chosen = typeof language === "string" ? ids[language] : undefined;
  if (isObject(chosen)) return chosen;
  return fail(file, "target_lang", `${show(language)} is ${kind(chosen)} in it, expected a vocabulary`);
}

/**
 * The characters of a CTC model (wav2vec 2.0) from vocab.json: one token for each, and a token between words. The result has
 * components that no tokenizer.json has: the text in capitals, and text from the tokens of a model's every frame.
 * @throws FormatError when the vocabulary lacks the unknown token, or has none for the language
 */
export function convertCtc(vocabulary: Vocabulary, options: ConvertOptions): JsonObject {
  const { config } = options;
  const ids = ofLanguage(vocabulary, config.target_lang);
  const text = (name: string, usual: string): string => {
    const value = config[name] ?? usual;
    return typeof value === "string" && value.length <= 64
      ? value
      : fail(vocabulary.file, name, `expected a short text, got ${show(value)}`);
  };
  const delimiter = text("word_delimiter_token", "|");
  const [unk_token] = tokenWithId({ ...vocabulary, ids }, options, "unk_token");
  const lower = config.do_lower_case === true;
  const spaces = { type: "Replace", pattern: { String: " " }, content: delimiter };
  const added = Object.entries(ids)
    .filter(([token, id]) => [...token].length > 1 && typeof id === "number")
    .map(([content, id]) => ({ id: id!, content, special: false, normalized: false, lstrip: true, rstrip: true }));
  return {
    version: "1.0",
    added_tokens: added,
    normalizer: { type: "Sequence", normalizers: [...(lower ? [{ type: "Uppercase" }] : []), spaces] },
    pre_tokenizer: { type: "FixedLength", length: 1 },
    post_processor: null,
    decoder: {
      type: "Frames",
      pad_token: options.special("pad_token") ?? "<pad>",
      word_delimiter_token: delimiter,
      content: text("replace_word_delimiter_char", " "),
      lowercase: lower,
    },
    model: { type: "WordLevel", unk_token, vocab: ids },
  };
}
