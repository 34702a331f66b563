// What is measured: the shapes (llama architecture, random weights), the variants of each peer, the cases, and which
// variants are set against each other. Data only; nothing here runs anything.

/**
 * @typedef {object} Shape
 * @property {string} name
 * @property {number} hidden
 * @property {number} layers
 * @property {number} ffn
 * @property {number} heads
 * @property {number} groups Key-value heads.
 * @property {number} vocab
 */

/** @type {Record<string, Shape>} */
export const SHAPES = {
  tiny: { name: "tiny", hidden: 256, layers: 2, ffn: 512, heads: 4, groups: 2, vocab: 2048 },
  S: { name: "S", hidden: 1024, layers: 16, ffn: 2816, heads: 16, groups: 8, vocab: 32000 },
  M: { name: "M", hidden: 2048, layers: 22, ffn: 5632, heads: 32, groups: 4, vocab: 32000 },
};

export const ROPE_BASE = 10000;
export const EPSILON = 1e-5;
/** Positions that the models are declared for. */
export const POSITIONS = 4096;
/** Standard deviation of the random weights. */
export const DEVIATION = 0.02;

/**
 * Matrices of one layer: name, outputs (N), inputs (K).
 * @param {Shape} s
 * @returns {[string, number, number][]}
 */
export function matrices(s) {
  const head = s.hidden / s.heads;
  return [
    ["q", s.hidden, s.hidden],
    ["k", s.groups * head, s.hidden],
    ["v", s.groups * head, s.hidden],
    ["o", s.hidden, s.hidden],
    ["gate", s.ffn, s.hidden],
    ["up", s.ffn, s.hidden],
    ["down", s.hidden, s.ffn],
  ];
}

/** Bytes per weight in the layers and in the output head, scales included. @type {Record<string, [number, number]>} */
const WEIGHT_BYTES = {
  "octavo:int8": [1, 2],
  "octavo:int8-h8": [1, 1],
  "octavo:int8-kv8": [1, 2],
  "octavo:nf4": [0.5 + 4 / 64, 2],
  "octavo:nf4-bf16": [0.5 + 4 / 64, 2],
  "octavo:nf4-int8": [0.5 + 4 / 64, 2],
  "octavo:nf4-int8-h8": [0.5 + 4 / 64, 1],
  "octavo:nf4-dq": [0.5 + 1 / 64 + 4 / 16384, 2],
  "octavo:fp4": [0.5 + 4 / 64, 2],
  "octavo:bf16": [2, 2],
  "octavo:bf16-f32": [2, 2],
  "octavo:f16": [2, 2],
  "octavo:f32": [4, 4],
  "llama.cpp:Q8_0": [34 / 32, 34 / 32],
  "llama.cpp:Q4_0": [18 / 32, 210 / 256],
  "llama.cpp:Q4_K": [144 / 256, 210 / 256],
  "llama.cpp:BF16": [2, 2],
  "onnx:int8": [1, 1],
  "onnx:q4": [0.5 + 4 / 32, 0.5 + 4 / 32],
  "onnx:q4-int8": [0.5 + 4 / 32, 0.5 + 4 / 32],
  "torch:bf16": [2, 2],
  "torch:f32": [4, 4],
  "torch:int8-dynamic": [1, 1],
};

/**
 * Bytes of weights that one decoded token must read; undefined for variants that are not known.
 * @param {Shape} s @param {string} name
 */
export function tokenBytes(s, name) {
  const [layer, head] = WEIGHT_BYTES[name.replace(/-shared$| \(.*\)$/, "")] ?? [];
  if (layer === undefined) return undefined;
  const parameters = matrices(s).reduce((sum, [, outputs, inputs]) => sum + outputs * inputs, 0);
  return s.layers * parameters * layer + s.vocab * s.hidden * head;
}

/**
 * Peers and their variants. `by` is the default selection; the others run when they are named in --only.
 * llama.cpp: the type of the layers; the head is Q6_K in the 4-bit files, as llama-quantize writes them.
 * onnx: q4 is MatMulNBits as transformers.js publishes it, q4-int8 the same with accuracy_level 4 (int8 arithmetic);
 * `-shared` keeps the KV cache in one preallocated buffer, which transformers.js does not do.
 */
export const PEERS = {
  octavo: {
    by: ["int8", "int8-h8", "nf4-int8", "nf4-int8-h8", "bf16", "nf4-bf16", "nf4", "f32"],
    also: ["int8-kv8", "nf4-dq", "fp4", "bf16-f32", "f16"],
  },
  "llama.cpp": { by: ["Q8_0", "Q4_0", "Q4_K", "BF16"], also: [] },
  onnx: { by: ["int8", "q4", "q4-int8"], also: ["int8-shared", "q4-shared", "q4-int8-shared"] },
  torch: { by: ["bf16", "f32", "int8-dynamic"], also: ["bnb-int8", "bnb-nf4"] },
};

/** What is compared with what: ours, theirs, and what shape M has to reach, by case. */
export const RATIOS = [
  ["octavo:int8", "llama.cpp:Q8_0", { prefill512: 8, prefill2048: 10, decode: 1.05, decode2048: 1.3, batch8: 1.6 }],
  // The peers' heads are in 8 or 6 bits as well.
  ["octavo:int8-h8", "llama.cpp:Q8_0", { decode: 1.05, decode2048: 1.3, batch8: 1.6 }],
  ["octavo:int8", "onnx:int8", { prefill512: 4, prefill2048: 5 }],
  // llama.cpp rounds activations to 8 bits per block of 32 numbers; nf4-int8 does per block of 64.
  ["octavo:nf4-int8", "llama.cpp:Q4_0", { prefill512: 4, decode: 1.15, decode2048: 1.5, batch8: 1.6 }],
  ["octavo:nf4-int8-h8", "llama.cpp:Q4_0", { decode: 1.15, decode2048: 1.5, batch8: 1.6 }],
  ["octavo:nf4-bf16", "llama.cpp:Q4_0", {}],
  ["octavo:nf4", "llama.cpp:Q4_0", {}],
  ["octavo:nf4-int8", "llama.cpp:Q4_K", {}],
  ["octavo:nf4", "onnx:q4", {}],
  ["octavo:nf4-int8", "onnx:q4-int8", {}],
  ["octavo:bf16", "llama.cpp:BF16", { prefill512: 3 }],
  ["octavo:bf16", "torch:bf16", {}],
  ["octavo:int8", "torch:int8-dynamic", {}],
  ["octavo:int8", "octavo:bf16", { prefill512: 1.6, decode: 1.6 }],
  ["octavo:nf4-int8", "octavo:int8", {}],
];

/** Cases in the order of the table. */
export const CASES = {
  prefill128: "prefill 128",
  prefill512: "prefill 512",
  prefill2048: "prefill 2048",
  decode: "decode",
  decode2048: "decode @2048",
  batch8: "batch of 8",
};

/**
 * How much is run in one child.
 * @param {string} shape @param {boolean} quick
 */
export function planOf(shape, quick) {
  const tiny = shape === "tiny";
  return {
    prefill: tiny ? [128] : [128, 512, 2048],
    steps: tiny ? 4 : quick ? 16 : 32,
    reps: tiny ? 1 : quick ? 2 : 3,
    // Once per child is enough for what takes seconds.
    longReps: tiny ? 0 : quick ? 1 : 2,
    batch: 8,
  };
}
