// Python's tokenizer classes: the special tokens each has where the files name none, and how it differs from the others. Not
// here: how a class is built from older files (convert.ts, convert-spm.ts). Facts: transformers 5.

import type { SpecialName } from "./options.js";

export interface TokenizerClass {
  /** Special tokens where the files name none. */
  readonly special: Readonly<Partial<Record<SpecialName, string>>>;
  readonly pads_left?: boolean;
  /** The model takes token_type_ids unless tokenizer_config.json lists other inputs. */
  readonly typed?: boolean;
  /** `add_prefix_space` (false unless set) is tokenizer_config.json's, whatever tokenizer.json says. */
  readonly prefix_by_config?: boolean;
  /** The mask token takes the white space before it. */
  readonly mask_lstrip?: boolean;
}

const END = "<|endoftext|>";
const GPT: TokenizerClass = {
  special: { bos_token: END, eos_token: END, unk_token: END },
  prefix_by_config: true,
};
const BERT: TokenizerClass = {
  special: {
    unk_token: "[UNK]",
    sep_token: "[SEP]",
    pad_token: "[PAD]",
    cls_token: "[CLS]",
    mask_token: "[MASK]",
  },
};
const TYPED_BERT: TokenizerClass = { ...BERT, typed: true };
/** The names of fairseq's models. */
const FAIRSEQ = {
  bos_token: "<s>",
  eos_token: "</s>",
  unk_token: "<unk>",
  sep_token: "</s>",
  pad_token: "<pad>",
  cls_token: "<s>",
  mask_token: "<mask>",
};
const ROBERTA: TokenizerClass = { special: FAIRSEQ, prefix_by_config: true };
const LLAMA: TokenizerClass = {
  special: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" },
  pads_left: true,
};
const DEBERTA = {
  ...BERT.special,
  bos_token: "[CLS]",
  eos_token: "[SEP]",
};
const { bos_token: _bos, ...WITHOUT_BOS } = FAIRSEQ;
const { cls_token: _cls, mask_token: _mask, ...M2M } = FAIRSEQ;

export const CLASSES: Readonly<Record<string, TokenizerClass>> = {
  GPT2Tokenizer: GPT,
  CodeGenTokenizer: GPT,
  GPTNeoXTokenizer: { ...GPT, special: { ...GPT.special, pad_token: "<|padding|>" } },
  WhisperTokenizer: { special: GPT.special },
  Qwen2Tokenizer: { special: { eos_token: END, pad_token: END, unk_token: END }, prefix_by_config: true },
  CLIPTokenizer: {
    special: { bos_token: "<|startoftext|>", eos_token: END, unk_token: END, pad_token: END },
  },
  CohereTokenizer: { special: {}, prefix_by_config: true, pads_left: true },
  BertTokenizer: TYPED_BERT,
  DistilBertTokenizer: BERT,
  ElectraTokenizer: TYPED_BERT,
  MobileBertTokenizer: TYPED_BERT,
  MPNetTokenizer: { special: { ...FAIRSEQ, unk_token: "[UNK]" }, mask_lstrip: true },
  RobertaTokenizer: ROBERTA,
  BartTokenizer: ROBERTA,
  LongformerTokenizer: ROBERTA,
  LEDTokenizer: ROBERTA,
  BlenderbotTokenizer: { special: FAIRSEQ, mask_lstrip: true },
  DebertaTokenizer: { special: DEBERTA, prefix_by_config: true, typed: true },
  DebertaV2Tokenizer: { special: DEBERTA, typed: true },
  BloomTokenizer: { special: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" } },
  LlamaTokenizer: LLAMA,
  CodeLlamaTokenizer: LLAMA,
  GemmaTokenizer: {
    special: {
      bos_token: "<bos>",
      eos_token: "<eos>",
      unk_token: "<unk>",
      pad_token: "<pad>",
      mask_token: "<mask>",
    },
    pads_left: true,
  },
  T5Tokenizer: { special: { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" } },
  AlbertTokenizer: {
    special: { ...DEBERTA, unk_token: "<unk>", pad_token: "<pad>" },
  },
  XLMRobertaTokenizer: { special: FAIRSEQ },
  CamembertTokenizer: { special: FAIRSEQ, mask_lstrip: true },
  MBartTokenizer: { special: FAIRSEQ, mask_lstrip: true },
  NllbTokenizer: { special: FAIRSEQ, mask_lstrip: true },
  M2M100Tokenizer: { special: M2M },
  MarianTokenizer: { special: { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" } },
  PegasusTokenizer: {
    special: { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>", mask_token: "<mask_2>" },
  },
  MBart50Tokenizer: { special: WITHOUT_BOS, mask_lstrip: true },
  XLNetTokenizer: {
    special: { ...FAIRSEQ, sep_token: "<sep>", cls_token: "<cls>" },
    pads_left: true,
  },
  Wav2Vec2CTCTokenizer: {
    special: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" },
  },
};

/** Classes of the same kind under other names. */
const ALIASES: Readonly<Record<string, string>> = {
  MT5Tokenizer: "T5Tokenizer",
  DistilRobertaTokenizer: "RobertaTokenizer",
  HubertTokenizer: "Wav2Vec2CTCTokenizer",
};

/** Classes that say nothing about how text is cut: the file alone does. */
const GENERIC = /^(?:PreTrainedTokenizer|TokenizersBackend|PythonBackend)$/;

const OF_MODEL: Readonly<Record<string, string>> = {
  albert: "AlbertTokenizer",
  bart: "BartTokenizer",
  bert: "BertTokenizer",
  blenderbot: "BlenderbotTokenizer",
  bloom: "BloomTokenizer",
  camembert: "CamembertTokenizer",
  clip: "CLIPTokenizer",
  codegen: "CodeGenTokenizer",
  deberta: "DebertaTokenizer",
  "deberta-v2": "DebertaV2Tokenizer",
  distilbert: "DistilBertTokenizer",
  electra: "ElectraTokenizer",
  gemma: "GemmaTokenizer",
  gemma2: "GemmaTokenizer",
  gemma3: "GemmaTokenizer",
  gemma3_text: "GemmaTokenizer",
  gpt2: "GPT2Tokenizer",
  gpt_neo: "GPT2Tokenizer",
  gpt_neox: "GPTNeoXTokenizer",
  gptj: "GPT2Tokenizer",
  hubert: "Wav2Vec2CTCTokenizer",
  longformer: "LongformerTokenizer",
  m2m_100: "M2M100Tokenizer",
  marian: "MarianTokenizer",
  mbart: "MBartTokenizer",
  mpnet: "MPNetTokenizer",
  mt5: "T5Tokenizer",
  nomic_bert: "BertTokenizer",
  opt: "GPT2Tokenizer",
  pegasus: "PegasusTokenizer",
  qwen2: "Qwen2Tokenizer",
  qwen3: "Qwen2Tokenizer",
  qwen3_moe: "Qwen2Tokenizer",
  roberta: "RobertaTokenizer",
  t5: "T5Tokenizer",
  umt5: "T5Tokenizer",
  wav2vec2: "Wav2Vec2CTCTokenizer",
  whisper: "WhisperTokenizer",
  "xlm-roberta": "XLMRobertaTokenizer",
  xlnet: "XLNetTokenizer",
};

/** Models whose SentencePiece files are cut as Llama's, though no class is registered for them. */
const LIKE_LLAMA = /^(?:llama|mistral|mixtral|phi3)$/;

/** The class by whose rules older files of a model are read where no file names one. */
export function modelClass(model_type: unknown): string | undefined {
  return typeof model_type === "string" && LIKE_LLAMA.test(model_type) ? "LlamaTokenizer" : undefined;
}

/**
 * The name of a class as it stands in CLASSES, from what the files say; undefined if they say nothing, or only that there is a
 * tokenizer. Names that are not known stay as they are.
 */
export function className(named: unknown, model_type: unknown): string | undefined {
  const name = typeof named === "string" ? named.replace(/Fast$/, "") : undefined;
  if (name !== undefined && !GENERIC.test(name)) return Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  if (name !== undefined) return undefined;
  return typeof model_type === "string" && Object.hasOwn(OF_MODEL, model_type) ? OF_MODEL[model_type] : undefined;
}

const NOTHING: TokenizerClass = { special: {} };

export function classFacts(name: string | undefined): TokenizerClass {
  return name !== undefined && Object.hasOwn(CLASSES, name) ? CLASSES[name]! : NOTHING;
}
