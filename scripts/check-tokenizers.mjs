// Encodes and decodes many random texts with tokenizers of every kind, and compares each with what Python's `tokenizers` gives:
//   node scripts/check-tokenizers.mjs [--python <executable with transformers>] [--texts 10000] [--only <part of a kind's name>]
// Needs a build (npm run build). Kinds of SentencePiece need `sentencepiece` and `protobuf` there, or are skipped by name.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    texts: { type: "string", default: "10000" },
    only: { type: "string" },
  },
});
const { AutoTokenizer } = await import(join(root, "dist", "index.js"));
const linesOf = (file) =>
  readFileSync(file, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

/** Kinds by name: which of Python's classes opens them, and the files of a repository. */
function kindsIn(folder) {
  const fixtures = join(root, "test", "fixtures", "tokenizers");
  const story = join(root, "models", "storyteller");
  const kinds = [];
  const add = (name, opener, files) => {
    if (values.only && !name.includes(values.only)) return;
    const own = join(folder, name);
    mkdirSync(own);
    for (const [file, from] of Object.entries(files)) {
      if (typeof from === "string") copyFileSync(from, join(own, file));
      else writeFileSync(join(own, file), JSON.stringify(from));
    }
    kinds.push({ name, opener, folder: own, out: join(folder, `${name}.jsonl`) });
  };
  for (const { name, json } of linesOf(join(root, "test", "tokenizer", "golden.jsonl"))) {
    add(`json-${name}`, "tokenizers", { "tokenizer.json": json ?? join(story, "tokenizer.json") });
  }
  const [, ...older] = linesOf(join(fixtures, "cases.jsonl"));
  for (const { name, files, settings } of older) {
    const paths = Object.entries(files).map(([file, from]) => [file, join(fixtures, from)]);
    add(`older-${name}`, "transformers", { ...Object.fromEntries(paths), ...settings });
  }
  const { size } = JSON.parse(readFileSync(join(fixtures, "tiktoken.json"), "utf8"));
  const token = (content) => ({ content, special: true });
  const added_tokens_decoder = {
    [size]: token("<|begin|>"),
    [size + 1]: token("<|between|>"),
    [size + 2]: token("<|eot|>"),
  };
  add("tiktoken", "tiktoken", {
    "tokenizer.model": join(fixtures, "small.tiktoken"),
    "tokenizer_config.json": { tokenizer_class: "PreTrainedTokenizerFast", added_tokens_decoder },
  });
  return kinds;
}

const folder = mkdtempSync(join(tmpdir(), "octavo-tokenizers-"));
let failed = 0;
try {
  const kinds = kindsIn(folder);
  const jobs = join(folder, "jobs.json");
  writeFileSync(
    jobs,
    JSON.stringify({ texts: Number(values.texts), story: join(root, "models", "storyteller-eval.txt"), kinds }),
  );
  const { status, error } = spawnSync(values.python, [join(root, "scripts", "check-tokenizers.py"), jobs], {
    stdio: ["ignore", "inherit", "inherit"],
    cwd: folder,
  });
  if (error) throw error;
  if (status !== 0) throw new Error(`${values.python} ended with ${status}`);
  for (const { name, folder: own, out } of kinds) {
    const [first, ...cases] = linesOf(out);
    if (first.skipped) {
      console.log(`${name.padEnd(32)} skipped: ${first.skipped}`);
      continue;
    }
    const tokenizer = await AutoTokenizer.from_pretrained(own);
    let differ = 0;
    let example;
    for (const [text, ids, plain, decoded, skipped, random, loose] of cases) {
      const got = [
        [tokenizer.encode(text), ids, "ids"],
        [tokenizer.encode(text, { add_special_tokens: false }), plain, "ids without special tokens"],
        [tokenizer.decode(ids), decoded, "text"],
        [tokenizer.decode(ids, { skip_special_tokens: true }), skipped, "text without special tokens"],
        [tokenizer.decode(random), loose, "text of random ids"],
      ].find(([mine, theirs]) => JSON.stringify(mine) !== JSON.stringify(theirs));
      if (!got) continue;
      differ++;
      example ??= `\n  ${got[2]} of ${JSON.stringify(got[2] === "text of random ids" ? random : text)}\n  here   ${JSON.stringify(got[0])}\n  Python ${JSON.stringify(got[1])}`;
    }
    failed += differ > 0 ? 1 : 0;
    console.log(`${name.padEnd(32)} ${cases.length} texts: ${differ ? `${differ} DIFFER${example}` : "all alike"}`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failed > 0 ? 1 : 0;
