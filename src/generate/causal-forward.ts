// The forward pass of a loaded language model: the logits of a batch, in chunks if it is long, and in one pass where texts share rows, or
// gradients or captured states are asked for.

import type { Device } from "../core/device.js";
import type { Options } from "../core/options.js";
import { scope, Tensor } from "../core/tensor.js";
import { KVCache, layerShapes } from "../nn/cache.js";
import { type CausalLM, logits } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import { layerDevices } from "../nn/placement.js";
import { TextLengths } from "../nn/text-lengths.js";
import { copyInto } from "../ops/copy.js";
import { tapes } from "../ops/tape.js";
import { type Batch, placesOf, textLengths } from "./inputs.js";
import { lossOf, lossOfStates, type NextLabels } from "./labels.js";
import type { FORWARD } from "./options.js";
import { type Chunk, chunksOf } from "./prefill.js";

/** The result of one forward pass; the caller disposes all of it. */
export interface CausalLMOutput {
  /** With `labels`: f32[1], the mean cross-entropy of the labels that count, in nats. */
  loss?: Tensor;
  /** f32[B,T,vocab], or f32[B,n,vocab] with `logits_to_keep`. */
  logits: Tensor;
  hidden_states?: Tensor[];
  attentions?: Tensor[];
}

/** The result of a pass with `skip_logits`. */
export interface CausalLMLoss extends Omit<CausalLMOutput, "logits" | "loss"> {
  loss: Tensor;
}

/** What a pass needs of a loaded model. */
interface CausalModel {
  readonly device: Device;
  readonly module: CausalLM;
  attending(output_attentions?: boolean): AttentionChoice;
}

/** Records the forward pass of a call whose options were read. @throws ShapeError, OptionError */
export function causalForward(
  model: CausalModel,
  batch: Batch,
  inputs: Options<typeof FORWARD>,
  learned: NextLabels | undefined,
): CausalLMOutput | CausalLMLoss {
  const { device, module } = model;
  const { max_positions } = module.geometry;
  const { positions, segments } = placesOf(batch, inputs, max_positions);
  const { lengths, texts } = textLengths(batch, positions, segments);
  using reach = new TextLengths(lengths);
  const keep = Math.min(batch.steps, inputs.logits_to_keep || batch.steps);
  // Texts in one row see only themselves, so no cache links them: they run in one chunk. So does what is differentiated.
  const whole =
    segments !== undefined ||
    learned !== undefined ||
    tapes.open !== undefined ||
    inputs.output_hidden_states === true ||
    inputs.output_attentions === true;
  const chunks = chunksOf(batch, positions, whole ? batch.steps : undefined);
  const attention = model.attending(inputs.output_attentions);
  if (chunks.length > 1) return { logits: scope(() => logitsOfChunks(model, batch, chunks, reach, keep, attention)) };
  const outputs = scope((): Record<string, Tensor | Tensor[]> => {
    const shape = [batch.rows, batch.steps];
    const { output_hidden_states: capture, output_attentions: capture_attentions } = inputs;
    // Blocks whose weights come and go run once, and those whose rows have adapters of their own for this pass.
    const once = module.placement !== undefined || inputs.adapter_names !== undefined || capture_attentions === true;
    const checkpoint = module.gradient_checkpointing && !once;
    const input = {
      positions: Tensor.from(device, positions, shape),
      mask: batch.mask && Tensor.from(device, batch.mask, shape, "u8"),
      segments: segments && Tensor.from(device, segments, shape),
      lengths: checkpoint ? new TextLengths(lengths) : reach,
      texts: texts && Tensor.from(device, texts, shape),
    };
    using pass = module.pass(input, { capture, capture_attentions, attention, checkpoint, once });
    const ids = Tensor.from(device, batch.ids, shape);
    let computed: { loss?: Tensor; logits?: Tensor };
    if (learned && inputs.skip_logits) {
      const hidden = module.hidden(pass, ids);
      pass.capture(hidden);
      computed = { loss: lossOfStates(module, hidden, learned, inputs) };
    } else {
      const result = logits(module, pass, ids, { logits_to_keep: keep });
      computed = { ...(learned ? { loss: lossOf(result, learned, inputs) } : {}), logits: result };
    }
    return {
      ...computed,
      ...(capture ? { hidden_states: pass.take_hidden_states() } : {}),
      ...(capture_attentions ? { attentions: pass.take_attentions("self") } : {}),
    };
  });
  return outputs as unknown as CausalLMOutput | CausalLMLoss; // one or the other, as the inputs say
}

/** Logits [B,keep,vocab] of the last positions of a batch that runs in chunks. */
function logitsOfChunks(
  { device, module }: CausalModel,
  { rows, steps }: Batch,
  chunks: readonly Chunk[],
  lengths: TextLengths,
  keep: number,
  attention: AttentionChoice,
): Tensor {
  const { geometry } = module;
  // Keys and values in f32, as without a cache: cutting into chunks changes only the memory it takes.
  using cache = new KVCache(layerDevices(module, device), {
    layers: layerShapes(geometry),
    rows,
    capacity: steps,
    dtype: "f32",
  });
  const kept = Tensor.empty(device, [rows, keep, geometry.vocab], "f32", "logits");
  for (const chunk of chunks) {
    scope(() => {
      const shape = [rows, chunk.steps];
      const ids = Tensor.from(device, chunk.ids, shape);
      const positions = Tensor.from(device, chunk.positions, shape);
      const lanes = Tensor.from(device, chunk.lanes, [2, ...shape]);
      cache.extend(chunk.counts);
      using pass = module.pass({ positions, lanes, cache, lengths }, { attention });
      const own = Math.min(chunk.steps, chunk.at + chunk.steps - (steps - keep));
      if (own <= 0) return void module.hidden(pass, ids);
      const part = logits(module, pass, ids, { logits_to_keep: own });
      return copyInto(part, kept.narrow(1, chunk.at + chunk.steps - own - (steps - keep), own));
    });
  }
  return kept;
}
