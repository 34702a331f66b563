// Reads the files of tokenizers without tokenizer.json and has them converted: vocab.json + merges.txt, vocab.txt, SentencePiece
// models, tiktoken's files, and vocab.json alone for CTC models. Not here: settings files (load.ts).

import { FormatError, NotFoundError, OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import type { Source } from "../sources/source.js";
import {
  type ConvertOptions,
  convertBpe,
  convertCtc,
  convertWordPiece,
  type Vocabulary,
  vocabularyLanguages,
} from "./convert.js";
import { convertWithVocabulary, hasVocabulary } from "./convert-pieces.js";
import { convertSentencePiece, isSentencePiece, namesOf } from "./convert-spm.js";
import { convertTiktoken, isTiktoken } from "./convert-tiktoken.js";
import type { Tokenizer } from "./engine.js";
import { type JsonObject, readBytes, readJsonObject, readText } from "./json-file.js";
import { readSentencePiece } from "./sentencepiece.js";
import { MODELS, OLDER, SOURCE_MODEL, TARGET_MODEL, TARGET_VOCABULARY, TIKTOKEN } from "./settings-files.js";
import { TwoVocabularies } from "./two-vocabularies.js";

/** What a folder without tokenizer.json holds. */
export interface Converted {
  /** In the form of a tokenizer.json. */
  readonly json: JsonObject;
  /** The file it was made of, for messages. */
  readonly file: string;
  /** Special tokens that the file names itself. */
  readonly special?: Readonly<Record<string, string | undefined>>;
  /** The same for texts that a model is to write, where they are cut in another way (Marian). */
  readonly target?: JsonObject;
  /** Joins the tokenizers of both, where what a model writes has the ids of `target`. */
  readonly join?: (read: Tokenizer, written: Tokenizer) => Tokenizer;
  /** The same in another language of the file. @throws OptionError */
  readonly inLanguage?: (target_lang: string) => JsonObject;
}

/** Lines of a text file without line ends, and without the empty one at its end. */
function linesOf(text: string): string[] {
  const lines = text.split("\n").map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** Lines of merges.txt, without the version line and empty ones. */
function parseMerges(text: string, file: string): string[] {
  return linesOf(text).filter((line, i) => {
    if (line === "" || (i === 0 && line.startsWith("#version"))) return false;
    if (line.split(" ").length === 2) return true;
    throw new FormatError(`${file}: line ${i + 1}: expected two tokens, got ${show(line)}`, {
      details: { file, key: `line ${i + 1}` },
    });
  });
}

/** vocab.txt: a token on each line, whose number is its id. */
function parseWords(text: string, file: string): Vocabulary {
  const ids: JsonObject = Object.create(null) as JsonObject;
  linesOf(text).forEach((token, id) => {
    if (ids[token] !== undefined) {
      throw new FormatError(`${file}: line ${id + 1}: ${show(token)} stands twice`, {
        details: { file, key: `line ${id + 1}` },
      });
    }
    ids[token] = id;
  });
  return { file, ids };
}

const WANTED = "vocab.json + merges.txt, vocab.txt, a SentencePiece model or a tiktoken file";

function notThere(source: Source, names: ReadonlySet<string>, wanted = WANTED): NotFoundError {
  const models = [...names].filter((name) => name.endsWith(".model") || name.endsWith(".tiktoken"));
  const there = [...names].filter((name) => /^(?:vocab|merges|added_tokens|special_tokens|tokenizer)/.test(name));
  const got = [...new Set([...models, ...there])];
  return new NotFoundError(
    `${source.location}: no tokenizer.json` +
      (got.length > 0 ? `; there is ${got.join(", ")}, which is not enough (${wanted} would do)` : `, ${wanted}`),
    {
      hint: "download the repository's tokenizer.json into this folder",
      details: { file: source.location, got },
    },
  );
}

/**
 * Reads what a folder without tokenizer.json has.
 * @param names of the files in the folder
 * @throws NotFoundError when the files are not enough
 * @throws FormatError when one is malformed; UnsupportedModelError when the class cannot be built from them; NetworkError
 */
export async function readOlderFiles(
  source: Source,
  names: ReadonlySet<string>,
  options: ConvertOptions,
): Promise<Converted> {
  const path = (name: string) => source.path(name);
  const vocabulary = async (name: string): Promise<Vocabulary> => ({
    file: path(name),
    ids: await readJsonObject(source, path(name)),
  });
  if (options.tokenizer_class === "Wav2Vec2CTCTokenizer" && names.has("vocab.json")) {
    const vocab = await vocabulary("vocab.json");
    const languages = vocabularyLanguages(vocab);
    if (!languages) return { json: convertCtc(vocab, options), file: vocab.file };
    const inLanguage = (target_lang: unknown): JsonObject => {
      if (typeof target_lang === "string" && languages.includes(target_lang)) {
        return convertCtc(vocab, { ...options, config: { ...options.config, target_lang } });
      }
      throw new OptionError(`${show(target_lang)} does not exist. Choose one of ${listed(languages, 20)}.`, {
        details: { option: "target_lang", file: vocab.file },
      });
    };
    return { json: convertCtc(vocab, options), file: vocab.file, inLanguage };
  }
  const model = [...MODELS, ...TIKTOKEN].find((name) => names.has(name));
  if (hasVocabulary(options.tokenizer_class) && names.has("vocab.json")) {
    const two = options.tokenizer_class === "MarianTokenizer";
    const separate = two && options.config.separate_vocabs === true;
    const [first, second] = two ? [SOURCE_MODEL, TARGET_MODEL] : [model, undefined];
    const beside = [first ?? MODELS[0]!, ...(second ? [second] : []), ...(separate ? [TARGET_VOCABULARY] : [])];
    for (const name of beside) {
      if (!names.has(name)) throw notThere(source, names, `${name} beside vocab.json`);
    }
    const vocab = await vocabulary("vocab.json");
    const convert = async (name: string, ids = vocab) =>
      convertWithVocabulary(readSentencePiece(await readBytes(source, path(name)), path(name)), ids, options, vocab);
    const json = await convert(first!);
    if (!second) return { json, file: vocab.file };
    const target = await convert(second, separate ? await vocabulary(TARGET_VOCABULARY) : vocab);
    const join = (read: Tokenizer, written: Tokenizer): Tokenizer => new TwoVocabularies(read, written);
    return { json, file: vocab.file, target, ...(separate ? { join } : {}) };
  }
  if (
    model !== undefined &&
    (isSentencePiece(options.tokenizer_class) || !(names.has("vocab.json") || names.has("vocab.txt")))
  ) {
    const file = path(model);
    const bytes = await readBytes(source, file);
    if (TIKTOKEN.includes(model) || isTiktoken(bytes)) return { json: convertTiktoken(bytes, file, options), file };
    const spm = readSentencePiece(bytes, file);
    const own = options.tokenizer_class === undefined ? namesOf(spm) : {};
    const special = (name: string) => options.special(name) ?? own[name];
    return { json: convertSentencePiece(spm, { ...options, special }), file: spm.file, special: own };
  }
  if (names.has("vocab.json") && names.has("merges.txt")) {
    const vocab = await vocabulary("vocab.json");
    const merges = parseMerges(await readText(source, path("merges.txt")), path("merges.txt"));
    return { json: convertBpe(vocab, merges, options), file: vocab.file };
  }
  if (names.has("vocab.txt")) {
    const vocab = parseWords(await readText(source, path("vocab.txt")), path("vocab.txt"));
    return { json: convertWordPiece(vocab, options), file: vocab.file };
  }
  throw source.forbidden?.(["tokenizer.json", ...OLDER]) ?? notThere(source, names);
}
