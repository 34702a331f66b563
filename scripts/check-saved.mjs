// Saves the fixtures' models with Octavo, dense and quantized, and lets the real libraries open them:
//   node scripts/check-saved.mjs [--python <executable with transformers, and bitsandbytes if it can be had>]
// Needs a build (npm run build). Every tensor must find its place there; logits of decoders must be Octavo's.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = process.argv.indexOf("--python");
const python = at < 0 ? "python3" : process.argv[at + 1];
const octavo = await import(join(root, "dist", "index.js"));

const CLASSES = [
  [/ForCausalLM$|LMHeadModel$/, "AutoModelForCausalLM"],
  [/WhisperForConditionalGeneration$/, "AutoModelForSpeechSeq2Seq"],
  [/ForConditionalGeneration$/, "AutoModelForSeq2SeqLM"],
  [/ForMaskedLM$/, "AutoModelForMaskedLM"],
  [/ForSequenceClassification$/, "AutoModelForSequenceClassification"],
  [/ForTokenClassification$/, "AutoModelForTokenClassification"],
  [/ForQuestionAnswering$/, "AutoModelForQuestionAnswering"],
  [/ForImageClassification$/, "AutoModelForImageClassification"],
  [/ForCTC$/, "AutoModelForCTC"],
];
const STORAGES = {
  dense: {},
  int8: { load_in_8bit: true },
  nf4: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true },
};
const IDS = [[5, 9, 2, 77, 31, 8, 40, 11]];
const TOLERANCE = 2e-4;

const folder = mkdtempSync(join(tmpdir(), "octavo-saved-"));
const jobs = [];
try {
  const models = join(root, "test", "fixtures", "models");
  for (const name of readdirSync(models)) {
    const config = JSON.parse(readFileSync(join(models, name, "config.json"), "utf8"));
    const architecture = config.architectures?.[0] ?? "";
    const known = CLASSES.find(([ending]) => ending.test(architecture))?.[1] ?? "AutoModel";
    const causal = known === "AutoModelForCausalLM";
    for (const [storage, quantization_config] of Object.entries(STORAGES)) {
      if (storage !== "dense" && !["llama", "bloom", "gpt2", "t5"].includes(name)) continue;
      const copy = join(folder, `${name}-${storage}`);
      const options = { device: "cpu", ...(storage === "dense" ? {} : { quantization_config }) };
      const model = await octavo[known].from_pretrained(join(models, name), options);
      await model.save_pretrained(copy);
      let logits = null;
      if (causal) {
        const output = model.forward({ input_ids: IDS });
        logits = [...(await output.logits.readFloats())];
        output.logits.dispose();
      }
      model.dispose();
      const quantized = storage !== "dense";
      // LLM.int8() rounds activations, which Python takes to f16 first.
      const tolerance = storage === "int8" ? 0.2 : TOLERANCE;
      jobs.push({
        name: `${name} ${storage}`,
        class: known,
        folder: copy,
        input_ids: IDS,
        logits,
        tolerance,
        quantized,
      });
    }
  }
  const input = jobs.map((job) => JSON.stringify(job)).join("\n");
  const { status, error } = spawnSync(python, [join(root, "scripts", "check-saved.py")], {
    input,
    stdio: ["pipe", "inherit", "inherit"],
    cwd: folder,
  });
  if (error) throw error;
  process.exitCode = status ?? 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
