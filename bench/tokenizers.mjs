// What processor time tokenizers take for 1 MB of text: prose, many languages, and texts that some methods are superlinear on, with the time for
// half of it, so that growth shows. Needs a build (npm run build).
//   node bench/tokenizers.mjs [kind ...]
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { AutoTokenizer } = await import(join(root, "dist", "index.js"));
const fixtures = join(root, "test", "fixtures", "tokenizers");
const MEGABYTE = 2 ** 20;
const bytes = new TextEncoder();

/** Text of exactly so many bytes, or just below, of what `next` gives. */
function fill(next, size) {
  const parts = [];
  let made = 0;
  for (let i = 0; made < size; i++) {
    const part = next(i);
    parts.push(part);
    made += bytes.encode(part).length;
  }
  return parts.join("");
}

let seed = 1;
const random = (n) => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
};
const story = readFileSync(join(root, "models", "storyteller-eval.txt"), "utf8").split(" ");
const word = () => Array.from({ length: 2 + random(9) }, () => String.fromCharCode(97 + random(26))).join("");
const RANGES = [
  [0x41, 0x5a],
  [0xc0, 0x24f],
  [0x391, 0x3c9],
  [0x410, 0x44f],
  [0x5d0, 0x5ea],
  [0x905, 0x939],
  [0x3041, 0x3096],
  [0x4e00, 0x9fa5],
  [0xac00, 0xd7a3],
  [0x1f600, 0x1f64f],
];
const mixed = () => {
  const [low, high] = RANGES[random(RANGES.length)];
  return `${Array.from({ length: 1 + random(8) }, () => String.fromCodePoint(low + random(high - low))).join("")} `;
};
const TEXTS = {
  prose: () => `${story[random(story.length)]} `,
  "new words": () => `${word()} `,
  languages: mixed,
  "one letter": () => "a",
  "one word": () => word(),
  spaces: () => " ",
  marks: () => "e\u0301",
  "line ends": () => "\n",
  punctuation: () => "!?.,;:"[random(6)],
  emoji: () => "👩‍👩‍👧",
  ideographs: () => String.fromCodePoint(0x4e00 + random(20000)),
  specials: () => "</s>",
};
const KINDS = {
  "BPE of bytes": [
    { "vocab.json": "byte-vocab.json", "merges.txt": "byte-merges.txt" },
    { tokenizer_class: "GPT2Tokenizer" },
  ],
  "BPE of bytes, Qwen2": [
    { "vocab.json": "byte-vocab.json", "merges.txt": "byte-merges.txt" },
    { tokenizer_class: "Qwen2Tokenizer" },
  ],
  "BPE of pieces": [{ "tokenizer.model": "llama.model" }, { tokenizer_class: "LlamaTokenizer" }],
  WordPiece: [{ "vocab.txt": "words-vocab.txt" }, { tokenizer_class: "BertTokenizer" }],
  "Unigram, T5": [{ "spiece.model": "t5.model" }, { tokenizer_class: "T5Tokenizer" }],
  "Unigram, whole text": [{ "tokenizer.model": "t5.model" }, { tokenizer_class: "PreTrainedTokenizerFast" }],
};

const folder = mkdtempSync(join(tmpdir(), "octavo-tokenizers-"));
const wanted = process.argv.slice(2);
try {
  for (const [kind, [files, config]] of Object.entries(KINDS)) {
    if (wanted.length > 0 && !wanted.some((one) => kind.includes(one))) continue;
    const at = mkdtempSync(join(folder, "t-"));
    for (const [name, file] of Object.entries(files)) copyFileSync(join(fixtures, file), join(at, name));
    writeFileSync(join(at, "tokenizer_config.json"), JSON.stringify(config));
    console.log(kind);
    for (const [name, next] of Object.entries(TEXTS)) {
      const text = fill(next, MEGABYTE);
      const half = text.slice(0, text.length / 2);
      const time = async (given) => {
        const tokenizer = await AutoTokenizer.from_pretrained(at); // nothing is known from the run before
        const from = process.cpuUsage();
        const { length } = tokenizer.encode(given);
        const { user, system } = process.cpuUsage(from); // on a busy machine the clock would count others' work
        return [(user + system) / 1000, length];
      };
      const [first] = await time(half);
      const [ms, tokens] = await time(text);
      const note = ms > 1000 ? "  above 1 s" : "";
      console.log(
        `  ${name.padEnd(12)} ${ms.toFixed(0).padStart(6)} ms  ${(ms / first).toFixed(2)} times its half  ${tokens} tokens${note}`,
      );
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}
