// Mutants of tiktoken's files and of the settings beside them. Those that are read encode and decode a few texts.

import { readFileSync } from "node:fs";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { mutateBytes, mutateLines } from "./support/bytes.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { MemorySource } from "./support/memory-source.js";

const FILE = readFileSync(new URL("../fixtures/tokenizers/small.tiktoken", import.meta.url), "utf8");
const ODD = [
  "",
  " ",
  "IQ== 0",
  "IQ== 1e3",
  "IQ== -1",
  "=== 5",
  "null",
  "IQ== 999999999",
  "AAAA 300",
  "/w== 4294967296",
  "IQ==\t3",
];
const TEXTS = ["hello the héllo", "ﬁ Ａ 123456", "a".repeat(300), "<|im_start|>x<|begin|>", "\ud800", ""];
const SETTINGS = {
  tokenizer_class: "PreTrainedTokenizerFast",
  added_tokens_decoder: { "700": { content: "<|begin|>", special: true } },
  extra_special_tokens: { image_token: "<image>" },
};
const WORDS: Words = {
  values: [
    ...texts("QWenTokenizer", "LlamaTokenizer", "<|begin|>", "IQ==", "__proto__", ""),
    ..."null [null] {} [] 0 -1 1e9 true".split(" "),
    '{"a":null}',
    '{"content":5}',
    '["<a>",null]',
  ],
  keys: texts(
    "extra_special_tokens",
    "additional_special_tokens",
    "added_tokens_decoder",
    "content",
    "bos_token",
    "999999999",
  ),
};

fuzz<Readonly<Record<string, Uint8Array>>>({
  name: "tiktoken",
  mutants: 600,
  make(chance) {
    const name = chance.one(["tokenizer.model", "tiktoken.model", "qwen.tiktoken"]);
    const whole = chance.is(0.3);
    const file = whole
      ? Buffer.from(FILE)
      : chance.is(0.5)
        ? mutateLines(chance, FILE, ODD)
        : mutateBytes(chance, Buffer.from(FILE));
    return chance.is(0.6) || whole
      ? { [name]: file, "tokenizer_config.json": mutateJson(chance, SETTINGS, WORDS) }
      : { [name]: file };
  },
  async read(files) {
    const tokenizer = await loadTokenizer(new MemorySource(files));
    for (const text of TEXTS) {
      const ids = tokenizer.encode(text);
      if (!ids.every((id) => Number.isInteger(id) && id >= 0)) return `ids ${ids.join()}`;
      tokenizer.decode(ids);
    }
    return undefined;
  },
});
