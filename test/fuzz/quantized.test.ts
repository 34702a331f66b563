// Mutants of checkpoints that bitsandbytes has quantized: what config.json says, the JSON beside each matrix's codes, the
// tables and scales, and their shapes.

import type { FromPretrainedOptions } from "../../src/generate/loading-options.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { schemeOf } from "../../src/quant/index.js";
import { mutateBytes } from "./support/bytes.js";
import type { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { device, type Folder, left, load, tinyOf } from "./support/models.js";
import { json, layOut, safetensors, TINY, type TinyTensor, tinyTensors } from "./support/tiny.js";

const KINDS: readonly (readonly [string, BitsAndBytesOptions])[] = [
  ["llama", { load_in_8bit: true }],
  ["llama", { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true }],
  ["llama", { load_in_4bit: true, bnb_4bit_quant_type: "fp4" }],
  ["mixtral", { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }],
  ["llama", { load_in_4bit: true, bnb_4bit_quant_type: "o4" }],
  ["mixtral", { load_in_4bit: true, bnb_4bit_quant_type: "o4" }],
];
const bases = await Promise.all(
  KINDS.map(async ([type, options]) => {
    const quantization = new BitsAndBytesConfig(options);
    const tensors = await tinyTensors(device, tinyOf(type), schemeOf(quantization));
    const config = { ...TINY[tinyOf(type)]!.config, quantization_config: quantization.to_dict() };
    return { config, tensors };
  }),
);

const STATE: Words = {
  values: [
    ...texts("nf4", "fp4", "float32", "bfloat16", "float16", "torch.float16", "uint8", "toString", "__proto__"),
    ..."[8,8] [16,8] [8,16] [64] [4,16] [-8,-8] [8.5,8] 64 128 256 4096 32 0 1e400".split(" "),
    ...['["8","8"]', "[[8],[8]]", "[null,8]", "[0,8]", "[8,null]"],
  ],
  keys: texts(..."quant_type blocksize dtype shape nested_blocksize nested_dtype nested_offset absmax".split(" ")),
};
const CONFIG: Words = {
  values: [
    ...texts("bitsandbytes", "octavo", "gptq", "nf4", "fp4", "o4", "int4", "bfloat16", "float8", "lm_head"),
    "true",
    "false",
    "6",
    "-1",
    '["lm_head"]',
    "[1]",
  ],
  keys: texts(
    ..."quantization_config quant_method load_in_8bit load_in_4bit _load_in_8bit _load_in_4bit".split(" "),
    ..."llm_int8_threshold llm_int8_skip_modules llm_int8_has_fp16_weight bnb_4bit_quant_type".split(" "),
    ..."bnb_4bit_use_double_quant bnb_4bit_compute_dtype bnb_4bit_quant_storage bnb_4bit_blocksize".split(" "),
  ),
};
const HEADER: Words = {
  values: texts("U8", "I8", "F32", "F16", "I64", "F4"),
  keys: texts("dtype", "shape", "data_offsets", "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.SCB"),
};
const ROLES = [
  "",
  ".absmax",
  ".quant_map",
  ".nested_absmax",
  ".nested_quant_map",
  ".SCB",
  ".weight_format",
  ".quant_state.bitsandbytes__nf4",
  ".o4_scales",
  ".o4_group_scales",
  ".o4_table",
];
const WAYS: readonly FromPretrainedOptions[] = [
  {},
  {},
  {},
  { load_in_4bit: true },
  { dtype: "float32" },
  { head_dtype: "int8" },
];

/** A tensor beside the codes, changed: a state as JSON, others in bytes, type, shape or name. */
function change(chance: Chance, tensor: TinyTensor): TinyTensor {
  const { name, bytes } = tensor;
  if (name.includes(".quant_state.") && chance.is(0.8)) {
    const state = mutateJson(chance, JSON.parse(Buffer.from(bytes).toString()), STATE);
    return { ...tensor, shape: [state.length], bytes: state };
  }
  switch (chance.below(4)) {
    case 0: {
      const other = mutateBytes(chance, bytes);
      return { ...tensor, dtype: "U8", shape: [other.length], bytes: other };
    }
    case 1:
      return { ...tensor, bytes: Buffer.concat([mutateBytes(chance, bytes), bytes]).subarray(0, bytes.length) };
    case 2:
      return {
        ...tensor,
        shape: chance.one([[1, ...tensor.shape], [...tensor.shape, 1], [...tensor.shape].reverse()]),
      };
    default:
      return { ...tensor, name: name.replace(/\.(weight|SCB)?[^.]*(\.[^.]*)?$/, `.weight${chance.one(ROLES)}`) };
  }
}

fuzz<Folder>({
  name: "quantized",
  make(chance) {
    const base = chance.one(bases);
    const kind = chance.below(10);
    const config = kind < 3 ? mutateJson(chance, base.config, CONFIG) : json(base.config);
    const beside = base.tensors.filter(({ name }) => !/(?:norm|embed_tokens|lm_head|gate)\.weight$/.test(name));
    const tensors = [...base.tensors];
    for (let changes = kind < 3 ? 0 : kind < 9 ? chance.few() : 0; changes > 0; changes--) {
      const at = tensors.indexOf(chance.one(beside));
      if (at < 0) continue; // changed already
      if (chance.is(0.1)) tensors.splice(at, 1);
      else tensors[at] = change(chance, tensors[at]!);
    }
    const { header, data } = layOut(tensors);
    const text = kind === 9 ? mutateJson(chance, header, HEADER) : json(header);
    return {
      files: { "config.json": config, "model.safetensors": safetensors(text, data) },
      task: "causal-lm",
      options: chance.one(WAYS),
    };
  },
  // What states say is read with the weights.
  read: (folder, chance) => load(folder, chance, { loaded: 0.4, computed: 0.05 }),
  left,
});
