// Mutants of generation_config.json, for a model that is loaded once.

import { afterAll } from "vitest";
import { generationConfig } from "../../src/generate/config.js";
import { PreTrainedModel } from "../../src/generate/model.js";
import { loadModel } from "../../src/load/index.js";
import { parseJsonObject } from "../../src/sources/json.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { MemorySource } from "./support/memory-source.js";
import { device, problemOfWarnings, tinyOf } from "./support/models.js";
import { tinyFiles, tinyTensors } from "./support/tiny.js";

const FILE = "generation_config.json";
const at = tinyOf("llama");
const source = new MemorySource(tinyFiles(at, await tinyTensors(device, at)));
const options = { device, name: "tiny", dtype: "auto", quantization: undefined };
const loaded = await loadModel(source, "causal-lm", options);
const { live } = device.memory;
afterAll(() => loaded.model.dispose());

const BASE = {
  ...{
    _from_model_config: true,
    bos_token_id: 1,
    eos_token_id: [2, 3],
    pad_token_id: 0,
    transformers_version: "4.46.0",
  },
  ...{ do_sample: true, temperature: 0.7, top_k: 4, top_p: 0.9, max_new_tokens: 2, repetition_penalty: 1.1 },
};
const WORDS: Words = {
  values: [
    "[0]",
    "[15]",
    "[16]",
    "[-1]",
    "[[1]]",
    '["2"]',
    "16",
    "15",
    "1e-31",
    "1e-30",
    "1e30",
    "0.1",
    ...texts("static", "quantized", "beam"),
  ],
  keys: texts(
    ..."max_new_tokens max_length min_length min_new_tokens do_sample temperature top_k top_p min_p typical_p seed".split(
      " ",
    ),
    ..."repetition_penalty presence_penalty frequency_penalty eos_token_id pad_token_id bos_token_id".split(" "),
    ..."prompt_lookup_num_tokens num_assistant_tokens cache_implementation cache_config num_beams".split(" "),
    ..."num_return_sequences no_repeat_ngram_size bad_words_ids suppress_tokens epsilon_cutoff eta_cutoff".split(" "),
    ..."penalty_alpha stop_strings forced_eos_token_id length_penalty early_stopping use_cache".split(" "),
  ),
};
/** Share of the mutants that generate. */
const GENERATED = 0.02;

fuzz<Buffer>({
  name: "generation-config",
  make: (chance) => mutateJson(chance, BASE, WORDS),
  async read(bytes, chance) {
    const generation_config = parseJsonObject(bytes, FILE, FILE, true);
    const model = new PreTrainedModel({ ...loaded, generation_config }, device, false);
    // Lengths that a file may name are bounded by its caller's patience alone.
    const given = chance.is(0.5)
      ? { max_new_tokens: 2 }
      : { max_new_tokens: 2, do_sample: false, temperature: 1, seed: 3 };
    generationConfig(chance.is(0.5) ? {} : given, generation_config, loaded.config, 3, 16);
    if (chance.is(GENERATED)) await model.generate({ input_ids: [[1, 2, 3]] }, given);
    return problemOfWarnings(model.warnings);
  },
  left: () => (device.memory.live === live ? undefined : `${device.memory.live - live} bytes on the device`),
});
