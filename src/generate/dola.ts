// DoLa (Chuang et al. 2024, "DoLa: Decoding by Contrasting Layers Improves Factuality in Large Language Models"): the scores of a token are
// those of the last layer less those that an earlier layer would give, the one of several that differs most. The rules are those of
// transformers 4 (_dola_decoding), for each text by itself: there the layer is chosen for a whole batch.
//
// A session sees a model whose hidden states are those of all layers side by side, and whose logits are, too; the first processor makes
// the scores of one vocabulary of them.

import { OptionError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { CausalLM, type Decoder, type DecoderGeometry } from "../nn/decoder.js";
import type { Pass, PassInput, PassOptions } from "../nn/pass.js";
import { contiguous, copyInto } from "../ops/copy.js";
import type { DolaLayers } from "./mode-options.js";
import { logSoftmax } from "./processors/host/base.js";
import type { HostProcessor, HostState } from "./processors/host-processor.js";

/** Least share of the likeliest token's probability. */
const RELATIVE_TOP = Math.log(0.1);
/** Models with more layers take candidates from as many as this at either end. */
const DEEP = 40;

function every2(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, Math.ceil((to - from) / 2)) }, (_, n) => from + 2 * n);
}

/**
 * The layers that are compared with the last one: 0 is the embedding.
 * @throws OptionError if none of them comes before the last
 */
export function candidateLayers(layers: DolaLayers, { blocks, tied }: { blocks: number; tied: boolean }): number[] {
  if (typeof layers !== "string") {
    const before = [...new Set(layers)].filter((layer) => layer < blocks);
    if (before.length > 0) return before;
    throw new OptionError(`dola_layers: none of ${layers.join(", ")} is below ${blocks}, the last layer`, {
      details: { option: "dola_layers" },
    });
  }
  const half = Math.floor(blocks / 2);
  if (layers === "high") return blocks <= DEEP ? every2(half, blocks) : every2(blocks - DEEP / 2, blocks);
  // A head that shares the embedding's matrix gives the token itself back after layer 0.
  const first = !tied ? 0 : blocks > 2 ? 2 : blocks === 2 ? 1 : 0;
  const low = blocks <= DEEP ? every2(first, half) : every2(first, DEEP / 2);
  return low.length > 0 ? low : [first];
}

/** A decoder whose logits are those of the last layer, then those of earlier ones. */
class LayeredDecoder implements Decoder {
  readonly geometry: DecoderGeometry;
  readonly layers: readonly number[];
  readonly #model: CausalLM;

  /** @throws OptionError for layers that are not there */
  constructor(model: CausalLM, layers: DolaLayers) {
    const blocks = model.blocks[0]!.length;
    const tied = model.vocabulary()?.words.weight === model.output_embeddings()?.weight;
    this.layers = candidateLayers(layers, { blocks, tied });
    this.#model = model;
    this.geometry = { ...model.geometry, vocab: model.geometry.vocab * (1 + this.layers.length) };
  }

  get placement(): Decoder["placement"] {
    return this.#model.placement;
  }

  get blocks(): Decoder["blocks"] {
    return this.#model.blocks;
  }

  pass(input: PassInput, options: PassOptions = {}): Pass {
    return this.#model.pass(input, { ...options, capture: true });
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    const last = this.#model.hidden(pass, ids);
    const states = pass.take_hidden_states();
    try {
      const chosen = this.layers.map((layer) => pass.at(last.device, states[layer]!));
      return sideBySide([last, ...chosen]);
    } finally {
      for (const state of states) state.dispose();
    }
  }

  head(hidden: Tensor): Tensor {
    const width = this.#model.geometry.hidden;
    const parts = hidden.shape.at(-1)! / width;
    const head = this.#model.output_embeddings()!;
    const part = (n: number): Tensor => contiguous(hidden.narrow(hidden.shape.length - 1, n * width, width));
    const logits = Array.from({ length: parts }, (_, n) =>
      n === 0 ? this.#model.head(part(n)) : head.forward(part(n)),
    );
    return sideBySide(logits);
  }
}

/** Tensors [..,n] of one shape as one [..,n * count]. */
function sideBySide(tensors: readonly Tensor[]): Tensor {
  const [first] = tensors as [Tensor];
  const [lead, width] = [first.shape.slice(0, -1), first.shape.at(-1)!];
  const all = Tensor.empty(first.device, [...lead, width * tensors.length], "f32", "layers");
  for (const [n, tensor] of tensors.entries()) copyInto(tensor, all.narrow(lead.length, n * width, width));
  return all;
}

/** Makes the scores of one vocabulary from those of several layers; the rest can not be chosen. */
export class LayerContrast implements HostProcessor {
  readonly #vocab: number;

  constructor(vocab: number) {
    this.#vocab = vocab;
  }

  process(logits: Float32Array): void {
    const vocab = this.#vocab;
    const last = logits.subarray(0, vocab);
    logSoftmax(last);
    const shares = Float64Array.from(last, Math.exp);
    let chosen: Float32Array | undefined;
    let most = Number.NEGATIVE_INFINITY;
    for (let at = vocab; at < logits.length; at += vocab) {
      const early = logits.subarray(at, at + vocab);
      logSoftmax(early);
      const apart = divergence(last, shares, early);
      if (chosen && !(apart > most)) continue;
      [chosen, most] = [early, apart];
    }
    let top = Number.NEGATIVE_INFINITY;
    for (const score of last) if (score > top) top = score;
    for (let id = 0; id < vocab; id++) {
      last[id] = last[id]! < top + RELATIVE_TOP ? Number.NEGATIVE_INFINITY : last[id]! - chosen![id]!;
    }
    logits.fill(Number.NEGATIVE_INFINITY, vocab);
  }
}

/** Twice the Jensen-Shannon divergence of two distributions, given as logarithms. */
function divergence(last: Float32Array, shares: Float64Array, early: Float32Array): number {
  let sum = 0;
  for (let id = 0; id < last.length; id++) {
    const mean = (shares[id]! + Math.exp(early[id]!)) / 2;
    if (mean > 0) sum += mean * (2 * Math.log(mean) - last[id]! - early[id]!);
  }
  return sum;
}

/** A processor of one vocabulary, after LayerContrast. */
export function narrowed(processor: HostProcessor, vocab: number): HostProcessor {
  if (processor instanceof LayerContrast) return processor;
  return {
    process: (logits: Float32Array, state: HostState) => processor.process(logits.subarray(0, vocab), state),
  };
}

/** @throws OptionError for models that are no decoders alone */
export function layeredDecoder(model: Decoder, layers: DolaLayers): LayeredDecoder {
  if (model instanceof CausalLM) return new LayeredDecoder(model, layers);
  throw new OptionError("dola_layers: only models without an encoder have layers to compare", {
    details: { option: "dola_layers" },
  });
}
