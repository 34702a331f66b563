// Writes a llama as ONNX the way transformers.js' exports have it: GroupQueryAttention with a KV cache as inputs and
// outputs, SimplifiedLayerNormalization, and linears that are either dynamically quantized to int8 (as
// onnxruntime's quantize_dynamic writes them; the runtime fuses them when it loads) or MatMulNBits of 4 bits.
// Only the last position goes through the head, and sequence lengths come as inputs: both favour the peer.

import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { bytesOf, cached } from "./bytes.mjs";
import { ELEMENT, Graph } from "./onnx-proto.mjs";
import { DEVIATION, EPSILON, matrices, POSITIONS, ROPE_BASE } from "./shapes.mjs";

const MS = "com.microsoft";
const BLOCK = 32;
/** Scale of symmetric int8 codes uniform in -127..127. */
const INT8_SCALE = DEVIATION / Math.sqrt((255 ** 2 - 1) / 12);

/**
 * The model file of a shape, written on first use with its data file.
 * @param {string} folder @param {import("./shapes.mjs").Shape} s @param {"int8" | "q4" | "q4-int8"} kind
 */
export function onnxFile(folder, s, kind) {
  // Both 4-bit models are the same weights.
  const data = `${s.name}.${kind === "int8" ? "int8" : "q4"}.onnx.data`;
  const graph = new Graph(data);
  build(graph, s, kind);
  const file = join(folder, `${s.name}.${kind}.onnx`);
  cached(join(dirname(file), data), (writer) => {
    for (const [format, length] of graph.data) {
      writer.random(format, length * elementsPerByte(format));
      writer.align(4096);
    }
  });
  writeFileSync(file, graph.encode());
  return file;
}

/** @param {string} format */
const elementsPerByte = (format) => 1 / (bytesOf(format, 2) / 2);

/** @param {Graph} g @param {import("./shapes.mjs").Shape} s @param {string} kind */
function build(g, s, kind) {
  const { f32, u8, i8, i32, i64 } = ELEMENT;
  const head = s.hidden / s.heads;

  g.input("input_ids", i64, ["batch", "steps"]);
  g.input("seqlens_k", i32, ["batch"]);
  g.input("total_sequence_length", i32, []);
  const ids = "input_ids";
  const int8Scale = g.constant("int8_scale", f32, [], Float32Array.of(INT8_SCALE));
  const int8Zero = g.constant("int8_zero", i8, [], Int8Array.of(0));
  const { cos, sin } = rotary(head);
  g.constant("cos_cache", f32, [POSITIONS, head / 2], cos);
  g.constant("sin_cache", f32, [POSITIONS, head / 2], sin);

  /** Dynamically quantized activations by name: one DynamicQuantizeLinear for all readers of a tensor. */
  const quantized = new Map();
  const quantize = (x) => {
    if (!quantized.has(x)) {
      const outputs = [`${x}_q`, `${x}_scale`, `${x}_zero`];
      g.node("DynamicQuantizeLinear", [x], { outputs });
      quantized.set(x, outputs);
    }
    return quantized.get(x);
  };
  const linear = (name, x, outputs, inputs) => {
    if (kind === "int8") {
      const w = g.random(`${name}_quantized`, i8, [inputs, outputs], "I8", inputs * outputs);
      const [codes, scale, zero] = quantize(x);
      const product = g.node("MatMulInteger", [codes, w, zero, int8Zero]);
      const both = g.node("Mul", [scale, int8Scale]);
      return g.node("Mul", [g.node("Cast", [product], { to: f32 }), both]);
    }
    const blocks = inputs / BLOCK;
    const w = g.random(`${name}_Q4`, u8, [outputs, blocks, BLOCK / 2], "U4", (inputs * outputs) / 2);
    const scales = g.random(`${name}_scales`, f32, [outputs * blocks], "S4", outputs * blocks * 4);
    return g.node("MatMulNBits", [x, w, scales], {
      domain: MS,
      K: inputs,
      N: outputs,
      bits: 4,
      block_size: BLOCK,
      ...(kind === "q4-int8" ? { accuracy_level: 4 } : {}),
    });
  };
  const gamma = g.constant("ones", f32, [s.hidden], new Float32Array(s.hidden).fill(1));

  const table = g.random("embed_quantized", i8, [s.vocab, s.hidden], "I8", s.vocab * s.hidden);
  let h = g.node("DequantizeLinear", [g.node("Gather", [table, ids]), int8Scale, int8Zero]);
  let x = g.node("SimplifiedLayerNormalization", [h, gamma], { axis: -1, epsilon: { f: EPSILON } });
  /** Adds `y` to the residual stream; the result is normed. */
  const addAndNorm = (name, y) => {
    const outputs = [`${name}_normed`, "", "", `${name}_sum`];
    x = g.node("SkipSimplifiedLayerNormalization", [h, y, gamma], { domain: MS, outputs, epsilon: { f: EPSILON } });
    h = outputs[3];
  };
  for (let layer = 0; layer < s.layers; layer++) {
    const sizes = new Map(matrices(s).map(([name, n, k]) => [name, [n, k]]));
    const apply = (name, input) => linear(`l${layer}_${name}`, input, ...sizes.get(name));
    const past = ["key", "value"].map((part) =>
      g.input(`past_key_values.${layer}.${part}`, f32, ["batch", s.groups, "past", head]),
    );
    const present = ["key", "value"].map((part) =>
      g.output(`present.${layer}.${part}`, f32, ["batch", s.groups, "total", head]),
    );
    const attended = g.node(
      "GroupQueryAttention",
      [
        apply("q", x),
        apply("k", x),
        apply("v", x),
        ...past,
        "seqlens_k",
        "total_sequence_length",
        "cos_cache",
        "sin_cache",
      ],
      {
        domain: MS,
        outputs: [`l${layer}_attended`, ...present],
        num_heads: s.heads,
        kv_num_heads: s.groups,
        do_rotary: 1,
        scale: { f: head ** -0.5 },
      },
    );
    addAndNorm(`l${layer}_a`, apply("o", attended));
    const gate = apply("gate", x);
    const silu = g.node("Mul", [gate, g.node("Sigmoid", [gate])]);
    addAndNorm(`l${layer}_m`, apply("down", g.node("Mul", [silu, apply("up", x)])));
  }
  const last = g.node("Gather", [x, g.constant("last", i64, [], BigInt64Array.of(-1n))], { axis: 1 });
  const logits = linear("lm_head", last, s.vocab, s.hidden);
  g.node("Identity", [logits], { outputs: ["logits"] });
  g.output("logits", f32, ["batch", s.vocab]);
}

/** @param {number} head */
function rotary(head) {
  const half = head / 2;
  const cos = new Float32Array(POSITIONS * half);
  const sin = new Float32Array(POSITIONS * half);
  for (let p = 0; p < POSITIONS; p++) {
    for (let i = 0; i < half; i++) {
      const angle = p * ROPE_BASE ** (-i / half);
      cos[p * half + i] = Math.cos(angle);
      sin[p * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}
