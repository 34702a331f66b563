// What a model chooses behind the last certain token of a text and behind each draft: as single steps would, with the same
// processors and random numbers, so that drafts change nothing but the number of passes.

import { scope, Tensor } from "../core/tensor.js";
import { argmax } from "../ops/argmax.js";
import { sample } from "../ops/sample.js";
import { tokenLogprobs } from "../ops/token-logprobs.js";
import { paramsOf, UNUSED } from "./choice.js";
import type { HostProcessor } from "./processors/host-processor.js";
import type { Sequence } from "./sequence.js";

/** A text with the first of its drafts. */
export interface Lane {
  readonly sequence: Readonly<Sequence>;
  readonly drafts: readonly number[];
}

/** The lanes of a text's tokens: none for those before the last certain one. */
export function lanesOf(sequence: Readonly<Sequence>, drafts: readonly number[], tokens: number): (Lane | undefined)[] {
  const first = tokens - drafts.length - 1;
  return Array.from({ length: tokens }, (_, at) =>
    at < first ? undefined : { sequence, drafts: drafts.slice(0, at - first) },
  );
}

/**
 * The token of each lane, and its log-probability if `scored`. Disposes the logits.
 * @param logits f32[lanes,vocab]
 */
export async function chooseAll(
  logits: Tensor,
  lanes: readonly (Lane | undefined)[],
  processors: readonly HostProcessor[],
  scored: boolean,
): Promise<{ ids: Int32Array; scores: Float32Array | undefined }> {
  try {
    if (processors.length > 0) await process(logits, lanes, processors);
    const [chosen, shares] = scope(() => {
      const ids = choose(logits, lanes);
      return scored ? [ids, tokenLogprobs(logits, ids)] : [ids];
    }) as [Tensor, Tensor | undefined];
    try {
      return { ids: (await chosen.read()) as Int32Array, scores: await shares?.readFloats() };
    } finally {
      chosen.dispose();
      shares?.dispose();
    }
  } finally {
    logits.dispose();
  }
}

async function process(
  logits: Tensor,
  lanes: readonly (Lane | undefined)[],
  processors: readonly HostProcessor[],
): Promise<void> {
  const all = await logits.readFloats();
  const vocab = logits.shape[1]!;
  for (const [n, lane] of lanes.entries()) {
    if (!lane) continue;
    const { row, ids, prompt } = lane.sequence;
    const text = [...ids, ...lane.drafts];
    const at = { row, ids: text, prompt, step: text.length - prompt };
    for (const processor of processors) await processor.process(all.subarray(n * vocab, (n + 1) * vocab), at);
  }
  logits.write(all);
}

function choose(logits: Tensor, lanes: readonly (Lane | undefined)[]): Tensor {
  if (!lanes.some((lane) => lane?.sequence.config.do_sample)) return argmax(logits);
  const params = lanes.flatMap((lane) => (lane ? [...paramsOf(lane.sequence.config)] : [UNUSED, 0, 0, 0]));
  const draws = lanes.flatMap((lane) => {
    if (!lane) return [0, 0, 0];
    const { config, sequence, ids, prompt } = lane.sequence;
    return [config.seed, sequence, ids.length + lane.drafts.length - prompt];
  });
  const rows = lanes.length;
  return sample(
    logits,
    Tensor.from(logits.device, Float32Array.from(params), [rows, 4]),
    Tensor.from(logits.device, Int32Array.from(draws), [rows, 3], "i32"),
  );
}
