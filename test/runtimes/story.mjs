// What a user writes, in plain JavaScript for any runtime: loads the storyteller in several forms on one device and prints
// the greedy text of each. The test runs it from a folder in which "octavo" is a dependency.
//
//   <runtime> story.mjs <device> <folder or address of the model> <tokens> <form>...

import { AutoModelForCausalLM, AutoTokenizer } from "octavo";

const FORMS = {
  float32: { dtype: "float32" },
  int8: { load_in_8bit: true },
  nf4: { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } },
};

const [device, folder, tokens, ...forms] = process.argv.slice(2);
const texts = {};
let description = "";
for (const form of forms) {
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...FORMS[form] });
  const tokenizer = await AutoTokenizer.from_pretrained(folder);
  const { input_ids } = tokenizer("Once upon a time");
  const [ids] = await model.generate({ input_ids: [input_ids], max_new_tokens: Number(tokens), do_sample: false });
  texts[form] = tokenizer.decode(ids);
  description = model.device.backend.description;
  model.dispose();
}
console.log(JSON.stringify({ description, texts }));
