// Writes the same shapes as a Hugging Face folder (config.json, model.safetensors in bf16), for Octavo and transformers:
// both quantize while they load.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bf16, cached } from "./bytes.mjs";
import { EPSILON, matrices, POSITIONS, ROPE_BASE } from "./shapes.mjs";

const PLACES = { q: "self_attn", k: "self_attn", v: "self_attn", o: "self_attn", gate: "mlp", up: "mlp", down: "mlp" };

/**
 * The folder of a shape, written on first use.
 * @param {string} folder @param {import("./shapes.mjs").Shape} s
 */
export function checkpointFolder(folder, s) {
  const target = join(folder, `${s.name}.hf`);
  mkdirSync(target, { recursive: true });
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: s.vocab,
    hidden_size: s.hidden,
    intermediate_size: s.ffn,
    num_hidden_layers: s.layers,
    num_attention_heads: s.heads,
    num_key_value_heads: s.groups,
    hidden_act: "silu",
    max_position_embeddings: POSITIONS,
    rms_norm_eps: EPSILON,
    rope_theta: ROPE_BASE,
    tie_word_embeddings: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: "bfloat16",
  };
  writeFileSync(join(target, "config.json"), JSON.stringify(config, null, 2));

  /** @type {[string, number[]][]} */
  const tensors = [["model.embed_tokens", [s.vocab, s.hidden]]];
  for (let layer = 0; layer < s.layers; layer++) {
    const path = `model.layers.${layer}`;
    tensors.push([`${path}.input_layernorm`, [s.hidden]], [`${path}.post_attention_layernorm`, [s.hidden]]);
    for (const [name, outputs, inputs] of matrices(s)) {
      tensors.push([`${path}.${PLACES[name]}.${name}_proj`, [outputs, inputs]]);
    }
  }
  tensors.push(["model.norm", [s.hidden]], ["lm_head", [s.vocab, s.hidden]]);

  cached(join(target, "model.safetensors"), (writer) => {
    /** @type {Record<string, unknown>} */
    const header = { __metadata__: { format: "pt" } };
    let offset = 0;
    for (const [name, shape] of tensors) {
      const end = offset + 2 * shape.reduce((n, d) => n * d, 1);
      header[`${name}.weight`] = { dtype: "BF16", shape, data_offsets: [offset, end] };
      offset = end;
    }
    const json = Buffer.from(JSON.stringify(header));
    const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, " ")]);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(padded.length));
    writer.put(Buffer.concat([length, padded]));
    for (const [, shape] of tensors) {
      if (shape.length === 1) writer.put(Buffer.from(new Uint16Array(shape[0]).fill(bf16(1)).buffer));
      else writer.random("BF16", shape[0] * shape[1]);
    }
  });
  return target;
}
