// Decoders as features, and as judges of texts and of tokens, without their head over the vocabulary. A text is judged by the state of its
// last token, as transformers' ...ForSequenceClassification do.

import { ConfigError, OptionError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { rowsAt } from "../ops/pool.js";
import type { Architecture, ConfigJson } from "./architecture.js";
import { type CausalLM, DecoderForCausalLM } from "./decoder.js";
import { type BatchIds, EncoderForTask, type EncoderModel } from "./encoder.js";
import { Linear } from "./module.js";
import type { Pass } from "./pass.js";

/** Types whose judges of tokens call their head "classifier"; it is "score" in all others. */
const CLASSIFIERS = new Set(["gpt2", "gpt_neo", "gpt_neox", "bloom", "falcon", "mpt"]);

/** The last token of each row that is no padding, among all tokens of the batch. @throws OptionError */
function lastTokens({ ids, rows, steps }: BatchIds, pad: unknown): Int32Array {
  if (typeof pad !== "number" && rows > 1) {
    throw new OptionError("Cannot handle batch sizes > 1 if no padding token is defined.", {
      hint: "config.json needs a pad_token_id, or pass one text at a time",
      details: { option: "input_ids" },
    });
  }
  return Int32Array.from({ length: rows }, (_, row) => {
    let at = steps - 1;
    if (typeof pad === "number") while (at > 0 && ids[row * steps + at] === pad) at--;
    return row * steps + at;
  });
}

/**
 * The tasks of a decoder that need no head over its vocabulary.
 * @param causal builds the decoder with one
 * @param labels of a config.json
 */
export function decoderTasks(
  model_type: string,
  causal: (json: ConfigJson) => CausalLM,
  labels: (json: ConfigJson) => number,
): Pick<Architecture["tasks"], "base" | "sequence-classification" | "token-classification"> {
  const partsOf = (json: ConfigJson) => {
    const decoder = causal(json);
    if (!(decoder instanceof DecoderForCausalLM))
      throw new ConfigError(`config.json: ${model_type} is no decoder with a head`);
    const { parts, geometry } = decoder;
    const width = parts.words.weight.shape[1];
    const { vocab, max_positions, layers } = geometry;
    const base = {
      geometry: { layers, hidden: width, vocab, token_types: 0, max_positions, causal: true },
      blocks: parts.layers,
      words: parts.words,
      forward: (pass: Pass, ids: Tensor) => parts.base.forward(pass, ids),
    };
    const shared = { base, tree: parts.base, notes: parts.notes };
    return { shared, width, prefix: parts.prefix, name: parts.name.replace(/ForCausalLM$|LMHeadModel$/, "") };
  };
  return {
    base: (json): EncoderModel => {
      const { shared, name, prefix } = partsOf(json);
      // MPT's layers are called `blocks`, which every model has: there they keep the name that they have under a head.
      const named = Object.hasOwn(shared.tree, "blocks") ? { prefix } : {};
      return new EncoderForTask({
        ...{ ...shared, ...named, name: `${name}Model`, unquantized: [] },
        outputs: (hidden) => ({ last_hidden_state: hidden.alias() }),
      });
    },
    "sequence-classification": (json): EncoderModel => {
      const { shared, name, prefix, width } = partsOf(json);
      const score = new Linear(width, labels(json));
      return new EncoderForTask({
        ...{ ...shared, name: `${name}ForSequenceClassification`, prefix, heads: { score }, unquantized: ["score"] },
        beside: (batch) => ({ chosen: lastTokens(batch, json.pad_token_id) }),
        outputs: (hidden, pass) => ({ logits: score.forward(rowsAt(hidden, pass.input.judged!.chosen!)) }),
      });
    },
    "token-classification": (json): EncoderModel => {
      const { shared, name, prefix, width } = partsOf(json);
      const head = CLASSIFIERS.has(model_type) ? "classifier" : "score";
      const linear = new Linear(width, labels(json), { bias: true });
      return new EncoderForTask({
        ...{ ...shared, name: `${name}ForTokenClassification`, prefix, heads: { [head]: linear }, unquantized: [head] },
        per_token: true,
        outputs: (hidden) => ({ logits: linear.forward(hidden) }),
      });
    },
  };
}
