// Saves tokenizers of every kind of file with Octavo, and lets transformers open them and compare ids and texts:
//   node scripts/check-saved-tokenizers.mjs [--python <executable with transformers>]
// Needs a build (npm run build).
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = process.argv.indexOf("--python");
const python = at < 0 ? "python3" : process.argv[at + 1];
const { AutoTokenizer } = await import(join(root, "dist", "index.js"));

const CHECK = `
import json, os, sys, warnings
os.environ["HF_HUB_OFFLINE"] = "1"; os.environ["TRANSFORMERS_VERBOSITY"] = "error"; warnings.filterwarnings("ignore")
from transformers import AutoTokenizer
jobs = json.load(open(sys.argv[1]))
bad = 0
for job in jobs["kinds"]:
    t = AutoTokenizer.from_pretrained(job["folder"])
    wrong = sum(t.encode(text) != ids or t.decode(ids) != decoded for text, (ids, _, decoded, _) in zip(jobs["texts"], job["encoded"]))
    wrong += len(t) != job["size"]
    bad += wrong > 0
    print(f"{job['name']:20} {type(t).__name__:24} {'ok' if not wrong else f'{wrong} differ'}")
sys.exit(1 if bad else 0)
`;

const folder = mkdtempSync(join(tmpdir(), "octavo-saved-tokenizers-"));
try {
  const fixtures = join(root, "test", "fixtures", "tokenizers");
  const [texts, ...kinds] = readFileSync(join(fixtures, "cases.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const jobs = [];
  for (const { name, files, settings, encoded, size } of kinds) {
    const from = join(folder, name);
    mkdirSync(from);
    for (const [file, source] of Object.entries(files)) copyFileSync(join(fixtures, source), join(from, file));
    for (const [file, value] of Object.entries(settings)) writeFileSync(join(from, file), JSON.stringify(value));
    const to = join(folder, `${name}-saved`);
    await (await AutoTokenizer.from_pretrained(from)).save_pretrained(to);
    jobs.push({ name, folder: to, encoded, size });
  }
  const list = join(folder, "jobs.json");
  writeFileSync(list, JSON.stringify({ texts, kinds: jobs }));
  process.exitCode = spawnSync(python, ["-c", CHECK, list], { stdio: "inherit", cwd: folder }).status ?? 1;
} finally {
  rmSync(folder, { recursive: true });
}
