// Opens a folder that holds a tokenizer: tokenizer.json, or the older files it can be built from, and the settings in
// tokenizer_config.json, special_tokens_map.json, added_tokens.json. Not here: finding the folder of a hub id.

import { NotFoundError } from "../core/errors.js";
import { readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import type { Source } from "../sources/source.js";
import { PreTrainedTokenizer } from "./api.js";
import type { Components } from "./components.js";
import { type ConvertOptions, convertBpe, convertWordPiece } from "./convert.js";
import { JsonTokenizer } from "./engine.js";
import { fail, isObject, type Json, type JsonObject, readJsonObject, readText } from "./json-file.js";
import {
  LOAD_TOKENIZER,
  type LoadTokenizerOptions,
  SPECIAL_NAMES,
  type SpecialName,
  type TokenizerSettings,
} from "./options.js";
import { wellFormed } from "./text.js";
import { type AddedToken, addedToken, checkTokenizerJson, isEmptyToken, type TokenizerJson } from "./tokenizer-json.js";

/** Settings files of any tokenizer, and the files to build one from if there is no tokenizer.json. */
const SETTINGS = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "config.json",
  "chat_template.jinja",
];
const OLDER = ["vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"];

const CLASS_OF_MODEL: Readonly<Record<string, string>> = {
  gpt2: "GPT2Tokenizer",
  opt: "GPT2Tokenizer",
  gpt_neo: "GPT2Tokenizer",
  gptj: "GPT2Tokenizer",
  gpt_neox: "GPTNeoXTokenizer",
  bert: "BertTokenizer",
  distilbert: "DistilBertTokenizer",
  electra: "ElectraTokenizer",
  roberta: "RobertaTokenizer",
  bart: "BartTokenizer",
  bloom: "BloomTokenizer",
  qwen2: "Qwen2Tokenizer",
  t5: "T5Tokenizer",
};

const END = "<|endoftext|>";
const GPT = { bos_token: END, eos_token: END, unk_token: END };
const BERT = {
  unk_token: "[UNK]",
  sep_token: "[SEP]",
  pad_token: "[PAD]",
  cls_token: "[CLS]",
  mask_token: "[MASK]",
};
const ROBERTA = {
  bos_token: "<s>",
  eos_token: "</s>",
  unk_token: "<unk>",
  sep_token: "</s>",
  pad_token: "<pad>",
  cls_token: "<s>",
  mask_token: "<mask>",
};
const LLAMA = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" };

/** Special tokens of Python's classes where the files name none. Used only if the vocabulary has them. */
const CLASS_DEFAULTS: Readonly<Record<string, Partial<Record<SpecialName, string>>>> = {
  GPT2Tokenizer: GPT,
  CodeGenTokenizer: GPT,
  GPTNeoXTokenizer: GPT,
  Qwen2Tokenizer: { eos_token: END, pad_token: END, unk_token: END },
  BertTokenizer: BERT,
  DistilBertTokenizer: BERT,
  ElectraTokenizer: BERT,
  MobileBertTokenizer: BERT,
  RobertaTokenizer: ROBERTA,
  BartTokenizer: ROBERTA,
  BloomTokenizer: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" },
  LlamaTokenizer: LLAMA,
  T5Tokenizer: { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" },
};

/** Classes whose `add_prefix_space` (false unless set) is tokenizer_config.json's, whatever tokenizer.json says; transformers 5. */
const PREFIX_BY_CONFIG: ReadonlySet<string | undefined> = new Set([
  "GPT2Tokenizer",
  "CodeGenTokenizer",
  "GPTNeoXTokenizer",
  "Qwen2Tokenizer",
  "RobertaTokenizer",
  "BartTokenizer",
  "CohereTokenizer",
  "DebertaTokenizer",
]);

/** Classes that pad on the left unless the files say otherwise; transformers 5. */
const PADS_LEFT: ReadonlySet<string | undefined> = new Set([
  "LlamaTokenizer",
  "CodeLlamaTokenizer",
  "GemmaTokenizer",
  "CohereTokenizer",
]);

/** Classes whose models take token_type_ids if tokenizer_config.json lists no inputs. */
const TYPED: ReadonlySet<string | undefined> = new Set(["BertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"]);

/** The settings files of a folder, read but not yet interpreted. */
interface Files {
  readonly source: Source;
  readonly names: ReadonlySet<string>;
  readonly config: JsonObject;
  readonly map: JsonObject;
  readonly className: string | undefined;
}

/** Content of a special token, which may be written as a string or as {content}. */
function contentOf(file: string, key: string, value: Json | undefined): string | undefined {
  if (value === undefined || value === null) return undefined;
  const content = isObject(value) ? value.content : value;
  if (typeof content === "string" && content === wellFormed(content)) return content;
  return fail(file, key, `expected a string or an object with \`content\`, got ${show(value)}`);
}

async function readFiles(source: Source): Promise<Files> {
  let names = await source.names(SETTINGS);
  if (!names.has("tokenizer.json")) names = new Set([...names, ...(await source.names(OLDER))]);
  const optional = async (name: string) => (names.has(name) ? await readJsonObject(source, source.path(name)) : {});
  const config = await optional("tokenizer_config.json");
  const map = await optional("special_tokens_map.json");
  let className = config.tokenizer_class;
  if (typeof className !== "string") {
    const { model_type, tokenizer_class } = await optional("config.json");
    className = tokenizer_class ?? (typeof model_type === "string" ? CLASS_OF_MODEL[model_type] : undefined);
  }
  if (className === undefined && names.has("vocab.txt") && !names.has("tokenizer.json")) className = "BertTokenizer";
  return {
    source,
    names,
    config,
    map,
    className: typeof className === "string" ? className.replace(/Fast$/, "") : undefined,
  };
}

/** A named special token from the files; undefined if only the class's default is left. */
function namedToken({ source, config, map }: Files, name: SpecialName): string | undefined {
  return (
    contentOf(source.path("tokenizer_config.json"), name, config[name]) ??
    contentOf(source.path("special_tokens_map.json"), name, map[name])
  );
}

function classDefault({ config, className }: Files, name: SpecialName): string | undefined {
  if (config[name] === null || className === undefined) return undefined; // null means that there is none
  return CLASS_DEFAULTS[className]?.[name];
}

async function readStructure(files: Files): Promise<TokenizerJson> {
  const { source, names, config, className } = files;
  const path = (name: string) => source.path(name);
  if (names.has("tokenizer.json")) {
    const json = checkTokenizerJson(await readJsonObject(source, path("tokenizer.json")), path("tokenizer.json"));
    if (!PREFIX_BY_CONFIG.has(className) || !json.pre_tokenizer) return json;
    return { ...json, pre_tokenizer: withPrefixSpace(json.pre_tokenizer, config.add_prefix_space === true) };
  }
  const options: ConvertOptions = {
    tokenizer_class: className,
    config,
    special: (name) => {
      const known = SPECIAL_NAMES.find((special) => special === name);
      return known === undefined ? undefined : (namedToken(files, known) ?? classDefault(files, known));
    },
  };
  if (names.has("vocab.json") && names.has("merges.txt")) {
    const json = await convertBpe(source, path("vocab.json"), path("merges.txt"), options);
    return checkTokenizerJson(json, path("vocab.json"));
  }
  if (names.has("vocab.txt")) {
    return checkTokenizerJson(await convertWordPiece(source, path("vocab.txt"), options), path("vocab.txt"));
  }
  const forbidden = source.forbidden?.(["tokenizer.json", ...OLDER]);
  if (forbidden) throw forbidden;
  const models = [...names].filter((name) => name.endsWith(".model"));
  const there = [...names].filter((name) => /^(?:vocab|merges|added_tokens|special_tokens|tokenizer)/.test(name));
  throw new NotFoundError(
    `${source.location}: no tokenizer.json` +
      (models.length > 0
        ? `; there is ${models.join(", ")}, and SentencePiece models cannot be read yet`
        : there.length > 0
          ? `; there is ${there.join(", ")}, which is not enough (vocab.json + merges.txt or vocab.txt would do)`
          : ", vocab.json + merges.txt or vocab.txt"),
    {
      hint:
        models.length > 0
          ? "write a tokenizer.json once in Python: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
          : "download the repository's tokenizer.json into this folder",
      details: { file: source.location, got: [...models, ...there] },
    },
  );
}

/** A pre-tokenizer whose ByteLevel parts add a space before the text, or do not. */
function withPrefixSpace(parts: Components, add_prefix_space: boolean): Components {
  return parts.map((part) => (part.type === "ByteLevel" ? { ...part, add_prefix_space } : part));
}

/** Special tokens without a name: additional_special_tokens and extra_special_tokens. */
function extraTokens({ source, config, map }: Files): string[] {
  const file = source.path("tokenizer_config.json");
  const result: string[] = [];
  for (const key of ["additional_special_tokens", "extra_special_tokens"]) {
    const value = config[key] ?? map[key];
    const list = Array.isArray(value) ? value : isObject(value) ? Object.values(value) : [];
    for (const entry of list) {
      const content = contentOf(file, key, entry);
      if (content !== undefined && content !== "") result.push(content);
    }
  }
  return result;
}

/** Adds the tokens declared in the settings files to those of tokenizer.json, as Python does after loading. */
async function withAddedTokens(
  json: TokenizerJson,
  files: Files,
  specials: ReadonlySet<string>,
): Promise<TokenizerJson> {
  const { source, config, names } = files;
  const { vocab: ids } = json;
  const added = new Map<string, AddedToken>(json.added_tokens.map((token) => [token.content, token]));
  const taken = new Map<number, string>();
  for (const token of added.values()) taken.set(token.id, token.content);
  const put = (token: AddedToken) => {
    added.set(token.content, token);
    taken.set(token.id, token.content);
  };

  const file = source.path("tokenizer_config.json");
  const decoder = isObject(config.added_tokens_decoder) ? config.added_tokens_decoder : {};
  for (const [id, value] of Object.entries(decoder)) {
    if (isEmptyToken(value)) continue;
    const key = `added_tokens_decoder.${id}`;
    if (!/^\d{1,9}$/.test(id)) fail(file, key, `expected an id, got ${show(id)}`);
    const token = addedToken(file, key, value, Number(id));
    const other = taken.get(token.id);
    const known = added.get(token.content)?.id ?? ids.get(token.content) ?? token.id;
    if (known === token.id && (other === undefined || other === token.content)) put(token); // tokenizer.json wins
  }
  if (!names.has("tokenizer.json") && names.has("added_tokens.json")) {
    const path = source.path("added_tokens.json");
    for (const [content, id] of Object.entries(await readJsonObject(source, path))) {
      if (content !== "" && !added.has(content))
        put(addedToken(path, content, { content, id, special: specials.has(content) }));
    }
  }
  let next = 0;
  for (const id of [...ids.values(), ...taken.keys()]) next = Math.max(next, id + 1);
  for (const content of specials) {
    const token = added.get(content);
    if (token?.special) continue;
    put({
      content,
      id: token?.id ?? ids.get(content) ?? next++,
      special: true,
      single_word: token?.single_word ?? false,
      lstrip: token?.lstrip ?? false,
      rstrip: token?.rstrip ?? false,
      normalized: token?.normalized ?? false,
    });
  }
  return { ...json, added_tokens: [...added.values()] };
}

function paddingSide({ config, className }: Files, { padding }: TokenizerJson): "left" | "right" {
  const { padding_side: named } = config;
  if (named === "left" || named === "right") return named;
  return padding.side ?? (PADS_LEFT.has(className) ? "left" : "right");
}

async function chatTemplate({ source, names, config }: Files): Promise<string | Record<string, string> | null> {
  if (names.has("chat_template.jinja")) return readText(source, source.path("chat_template.jinja"));
  const { chat_template: template } = config;
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return null;
  return Object.fromEntries(
    template.flatMap((entry) =>
      isObject(entry) && typeof entry.name === "string" && typeof entry.template === "string"
        ? [[entry.name, entry.template]]
        : [],
    ),
  );
}

/**
 * Opens the tokenizer in a folder.
 * @throws OptionError for unknown options and wrong values
 * @throws NotFoundError when the folder holds no readable tokenizer; says what is there and what to do
 * @throws FormatError when a file is malformed or needs an unsupported part
 * @throws NetworkError when a server does not give it
 * @throws UnsupportedModelError when older files belong to a class that cannot be built from them
 */
export async function loadTokenizer(source: Source, given: LoadTokenizerOptions = {}): Promise<PreTrainedTokenizer> {
  const options = readOptions("loadTokenizer", LOAD_TOKENIZER, given);
  const files = await readFiles(source);
  const { config, className } = files;
  const structure = await readStructure(files);
  const added = new Set(structure.added_tokens.map(({ content }) => content));
  const exists = (token: string) => structure.vocab.has(token) || added.has(token);
  const special: Partial<Record<SpecialName, string>> = {};
  for (const name of SPECIAL_NAMES) {
    const usual = classDefault(files, name);
    const token =
      options[name] ?? namedToken(files, name) ?? (usual !== undefined && exists(usual) ? usual : undefined);
    if (token !== undefined && token !== "") special[name] = token;
  }
  const { padding } = structure;
  if (
    special.pad_token === undefined &&
    config.pad_token !== null &&
    padding.token !== undefined &&
    exists(padding.token)
  )
    special.pad_token = padding.token;
  const extra = extraTokens(files);
  const specials = new Set([...Object.values(special), ...extra]);
  const backend = new JsonTokenizer(await withAddedTokens(structure, files, specials));
  const inputs = config.model_input_names;
  const longest = options.model_max_length ?? config.model_max_length;
  const settings: TokenizerSettings = {
    special,
    additional_special_tokens: extra,
    padding_side: options.padding_side ?? paddingSide(files, structure),
    truncation_side: options.truncation_side ?? (config.truncation_side === "left" ? "left" : "right"),
    model_max_length: typeof longest === "number" && longest > 0 ? longest : Number.POSITIVE_INFINITY,
    clean_up_tokenization_spaces: options.clean_up_tokenization_spaces ?? config.clean_up_tokenization_spaces === true,
    return_token_type_ids: Array.isArray(inputs) ? inputs.includes("token_type_ids") : TYPED.has(className),
    chat_template: await chatTemplate(files),
    name_or_path: source.location,
    init_kwargs: config,
  };
  return new PreTrainedTokenizer(backend, settings);
}
