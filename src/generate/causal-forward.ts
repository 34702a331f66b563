// The forward pass of a loaded language model: the logits of a batch, in chunks if it is long, and in one pass where texts share rows, or
// gradients or captured states are asked for.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import type { Options } from "../core/options.js";
import { scope, Tensor } from "../core/tensor.js";
import { KVCache, layerShapes } from "../nn/cache.js";
import { type CausalLM, logits } from "../nn/decoder.js";
import { evenUseLoss } from "../nn/even-use.js";
import type { AttentionChoice, Pass } from "../nn/pass.js";
import { layerDevices } from "../nn/placement.js";
import { TextLengths } from "../nn/text-lengths.js";
import { add } from "../ops/add.js";
import { copyInto } from "../ops/copy.js";
import { scale } from "../ops/scale.js";
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
  /** With `output_router_logits`: f32[1]. */
  aux_loss?: Tensor;
  /** With `output_router_logits`: f32[B·T,experts] of each layer with experts. */
  router_logits?: Tensor[];
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
  const routes = evenUse(module, inputs, learned);
  const keep = Math.min(batch.steps, inputs.logits_to_keep || batch.steps);
  // Texts in one row see only themselves, so no cache links them: they run in one chunk. So does what is differentiated.
  const whole =
    segments !== undefined ||
    learned !== undefined ||
    tapes.open !== undefined ||
    routes !== undefined ||
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
    using pass = module.pass(input, {
      ...{ capture, capture_attentions, attention, checkpoint, once },
      capture_routers: routes !== undefined,
    });
    const ids = Tensor.from(device, batch.ids, shape);
    let computed: { readonly loss?: Tensor; readonly logits?: Tensor };
    if (learned && inputs.skip_logits) {
      const hidden = module.hidden(pass, ids);
      pass.capture(hidden);
      computed = { loss: lossOfStates(module, hidden, learned, inputs) };
    } else {
      const result = logits(module, pass, ids, { logits_to_keep: keep });
      computed = { ...(learned ? { loss: lossOf(result, learned, inputs) } : {}), logits: result };
    }
    const { added, ...routed } = routes?.(pass, batch) ?? {};
    const loss = computed.loss && added ? add(computed.loss, added) : computed.loss;
    return {
      ...computed,
      ...(loss && { loss }),
      ...routed,
      ...(capture ? { hidden_states: pass.take_hidden_states() } : {}),
      ...(capture_attentions ? { attentions: pass.take_attentions("self") } : {}),
    };
  });
  return outputs as unknown as CausalLMOutput | CausalLMLoss; // one or the other, as the inputs say
}

/** What a pass says of the use of experts; `added` is what comes to its loss. */
interface Routed {
  readonly added?: Tensor;
  readonly aux_loss?: Tensor;
  readonly router_logits?: Tensor[];
}

/** How that is found out of a pass; undefined if nobody asks. @throws OptionError for a model without experts */
function evenUse(
  { even_use, class_name }: CausalLM,
  { output_router_logits: asked, router_aux_loss_coef, label_smoothing = 0 }: Options<typeof FORWARD>,
  learned: NextLabels | undefined,
): ((pass: Pass, batch: Batch) => Routed) | undefined {
  if (!even_use) {
    if (!asked) return undefined;
    throw new OptionError(`output_router_logits: ${class_name} has no experts`, {
      details: { option: "output_router_logits" },
    });
  }
  // With smoothed labels Python's Trainer has a loss of its own, and preferences have another one.
  const adds = (asked ?? even_use.by_default) && learned !== undefined && !learned.each && label_smoothing === 0;
  if (!asked && !adds) return undefined;
  return (pass, { mask }) => {
    const taken = pass.take_router_logits();
    const router_logits = taken.map((one) => one.view(-1, one.shape.at(-1)!));
    for (const one of taken) one.dispose();
    const aux_loss = evenUseLoss(router_logits, even_use.each, mask);
    const coefficient = router_aux_loss_coef ?? even_use.coefficient;
    return {
      ...(adds ? { added: scale(aux_loss, coefficient) } : {}),
      ...(asked ? { aux_loss, router_logits } : {}),
    };
  };
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
