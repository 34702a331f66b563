// Builds the structure of a tokenizer.json from the files of repositories that have none: vocab.json + merges.txt
// (byte-level BPE: GPT-2, OPT, RoBERTa, BART, Qwen2) and vocab.txt (WordPiece: BERT). Not here: SentencePiece models.

import { FormatError, UnsupportedModelError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { Source } from "../sources/source.js";
import { type Json, type JsonObject, readJsonObject, readText } from "./json-file.js";

/** The fields of tokenizer_config.json that the conversion needs. */
export interface ConvertOptions {
  /** tokenizer_class without "Fast", or undefined when no file names it. */
  readonly tokenizer_class: string | undefined;
  /** Content of a named special token, from the config or the class's default. */
  readonly special: (name: string) => string | undefined;
  readonly config: JsonObject;
}

const GPT2_LIKE = ["GPT2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizer"];
const ROBERTA_LIKE = ["RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer"];
const BERT_LIKE =
  /^(?:Bert|DistilBert|Electra|MobileBert|RetriBert|LayoutLM|LayoutLMv2|DPR\w*|Lxmert|Funnel|SqueezeBert|ConvBert)Tokenizer$/;
const QWEN2_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

function tokenWithId(vocab: JsonObject, file: string, name: string, token: string | undefined): [string, number] {
  const id = token === undefined ? undefined : vocab[token];
  if (token === undefined || typeof id !== "number") {
    throw new FormatError(`${file}: ${name} ${token === undefined ? "(none)" : show(token)} is not in the vocabulary`, {
      details: { file, key: name },
    });
  }
  return [token, id];
}

/** A template of tokens around $A (and $B), in tokenizer.json's words: "[CLS] $A [SEP]", with `:1` for type 1. */
function template(text: string): Json[] {
  return text.split(" ").map((item) => {
    const [name, type] = item.split(/:(?=[01]$)/) as [string, string | undefined];
    const type_id = Number(type ?? 0);
    return name === "$A" || name === "$B"
      ? { Sequence: { id: name.slice(1), type_id } }
      : { SpecialToken: { id: name, type_id } };
  });
}

function templateProcessing(single: string, pair: string, tokens: readonly (readonly [string, number])[]): JsonObject {
  const special_tokens = Object.fromEntries(tokens.map(([id, n]) => [id, { id, ids: [n], tokens: [id] }]));
  return { type: "TemplateProcessing", single: template(single), pair: template(pair), special_tokens };
}

/** Lines of merges.txt, without the version line and empty ones. */
export function parseMerges(text: string, file: string): string[] {
  const merges: string[] = [];
  text.split("\n").forEach((raw, i) => {
    const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
    if (line === "" || (i === 0 && line.startsWith("#version"))) return;
    if (line.split(" ").length !== 2) {
      throw new FormatError(`${file}: line ${i + 1}: expected two tokens, got ${show(line)}`, {
        details: { file, key: `line ${i + 1}` },
      });
    }
    merges.push(line);
  });
  return merges;
}

/**
 * Byte-level BPE from vocab.json and merges.txt.
 * @throws FormatError when a file is malformed
 * @throws UnsupportedModelError when the tokenizer class is not one that cuts text as GPT-2, RoBERTa or Qwen2 do
 */
export async function convertBpe(
  source: Source,
  vocabFile: string,
  mergesFile: string,
  options: ConvertOptions,
): Promise<JsonObject> {
  const { tokenizer_class: name, config, special } = options;
  const roberta = name !== undefined && ROBERTA_LIKE.includes(name);
  const qwen2 = name === "Qwen2Tokenizer";
  if (name !== undefined && !roberta && !qwen2 && !GPT2_LIKE.includes(name)) {
    throw new UnsupportedModelError(`tokenizer class ${show(name)} cannot be built from vocab.json and merges.txt`, {
      hint: "save it once in Python with `AutoTokenizer.from_pretrained(id).save_pretrained(folder)`, which writes tokenizer.json",
      details: { file: vocabFile, got: show(name) },
    });
  }
  const vocab = await readJsonObject(source, vocabFile);
  const merges = parseMerges(await readText(source, mergesFile), mergesFile);
  const add_prefix_space = config.add_prefix_space === true;
  let post_processor: JsonObject = { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true };
  if (roberta) {
    post_processor = {
      type: "RobertaProcessing",
      sep: tokenWithId(vocab, vocabFile, "sep_token", special("sep_token")),
      cls: tokenWithId(vocab, vocabFile, "cls_token", special("cls_token")),
      trim_offsets: true,
      add_prefix_space,
    };
  } else if (config.add_bos_token === true) {
    const bos = tokenWithId(vocab, vocabFile, "bos_token", special("bos_token"));
    post_processor = templateProcessing(`${bos[0]} $A`, `${bos[0]} $A $B:1`, [bos]);
  }
  const bytes = { type: "ByteLevel", add_prefix_space, trim_offsets: true };
  const cut = { type: "Split", pattern: { Regex: QWEN2_SPLIT }, behavior: "Isolated", invert: false };
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: qwen2 ? { type: "NFC" } : null,
    pre_tokenizer: qwen2
      ? { type: "Sequence", pretokenizers: [cut, { ...bytes, use_regex: false }] }
      : { ...bytes, use_regex: true },
    post_processor,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges,
    },
  };
}

/**
 * WordPiece from vocab.txt: one token per line, its id is the line number.
 * @throws FormatError when a token occurs twice or a special token is missing
 * @throws UnsupportedModelError when the tokenizer class is not one of BERT's kind
 */
export async function convertWordPiece(
  source: Source,
  vocabFile: string,
  options: ConvertOptions,
): Promise<JsonObject> {
  const { tokenizer_class: name, config, special } = options;
  if (name !== undefined && !BERT_LIKE.test(name)) {
    throw new UnsupportedModelError(`tokenizer class ${show(name)} cannot be built from vocab.txt`, {
      hint: "save it once in Python with `AutoTokenizer.from_pretrained(id).save_pretrained(folder)`, which writes tokenizer.json",
      details: { file: vocabFile, got: show(name) },
    });
  }
  const lines = (await readText(source, vocabFile)).split("\n").map((line) => line.replace(/\r$/, ""));
  if (lines.at(-1) === "") lines.pop();
  const vocab: JsonObject = Object.create(null) as JsonObject;
  lines.forEach((token, id) => {
    if (vocab[token] !== undefined) {
      throw new FormatError(`${vocabFile}: line ${id + 1}: ${show(token)} stands twice`, {
        details: { file: vocabFile, key: `line ${id + 1}` },
      });
    }
    vocab[token] = id;
  });
  const cls = tokenWithId(vocab, vocabFile, "cls_token", special("cls_token"));
  const sep = tokenWithId(vocab, vocabFile, "sep_token", special("sep_token"));
  const [unk_token] = tokenWithId(vocab, vocabFile, "unk_token", special("unk_token"));
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
    post_processor: templateProcessing(`${cls[0]} $A ${sep[0]}`, `${cls[0]} $A ${sep[0]} $B:1 ${sep[0]}:1`, [cls, sep]),
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: { type: "WordPiece", unk_token, continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab },
  };
}
