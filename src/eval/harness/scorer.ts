// Log-probabilities of tokens given those before them, of many texts at once: no padding is computed, beginnings that texts share
// are computed once (their cache is forked), and only the hidden states of tokens that count reach the head. What a text gets
// depends on nothing but the text, because a token's bits depend on its own prefix.

import { throwIfAborted } from "../../core/errors.js";
import { scope, Tensor } from "../../core/tensor.js";
import { RowForward } from "../../generate/forward.js";
import type { PreTrainedModel } from "../../generate/model.js";
import { type FlatChunk, flatChunks, type RowText } from "../../generate/prefill.js";
import { type CacheDType, KVCache, layerShapes } from "../../nn/cache.js";
import { layerDevices } from "../../nn/placement.js";
import { TextLengths } from "../../nn/text-lengths.js";
import { argmax } from "../../ops/argmax.js";
import { copyInto } from "../../ops/copy.js";
import { tokenLogprobs } from "../../ops/token-logprobs.js";
import { type Branch, batches, neighbours, type TokenText, treeOf } from "./prefix-tree.js";

/** What a text's counted tokens get. */
export interface Scored {
  /** Sum of their log-probabilities, in nats. */
  readonly loglikelihood: number;
  /** True if each of them is the likeliest. */
  readonly is_greedy: boolean;
}

export interface ScoreOptions {
  /** Most texts of a batch. */
  readonly rows: number;
  /** Dtype of keys and values; f32 by default, which computes what a pass without a cache does. */
  readonly cache_dtype?: CacheDType | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called as soon as texts have their scores. */
  readonly scored?: (texts: readonly (readonly [text: number, scored: Scored])[]) => void | Promise<void>;
  /** Hears the tokens that each batch computes. */
  readonly ran?: (tokens: number) => void;
}

/** Tokens of a batch: its cache stays small, and passes of 512 tokens are full. */
const BATCH_TOKENS = 4096;
const PAGE = 16;
/** Bytes of logits that are held at once. */
export const LOGITS_BYTES = 64 << 20;
/** RoPE whose constants depend on a text's length: such texts share no keys. */
const BY_LENGTH = /"(?:rope_)?type":"(?:dynamic|longrope|su)"/;

/** A hidden state that predicts tokens of texts. */
interface Prediction {
  readonly lane: number;
  readonly targets: readonly (readonly [text: number, id: number])[];
}

/** Scores all texts. @throws AbortError, KernelError, OutOfMemoryError */
export async function scoreTexts(
  model: PreTrainedModel,
  texts: readonly TokenText[],
  options: ScoreOptions,
): Promise<void> {
  model.checkUsable();
  model.hold();
  try {
    const shares = !BY_LENGTH.test(JSON.stringify(model.config));
    for (const batch of batches(texts, neighbours(texts), { texts: options.rows, tokens: BATCH_TOKENS })) {
      throwIfAborted(options.signal, "evaluation");
      await scoreBatch(model, texts, batch, shares, options);
    }
  } finally {
    model.device.arena.trim();
    await model.release();
  }
}

/** The leaves below a branch, which are the rows that it needs. */
function rowsOf(branches: readonly Branch[]): number {
  return branches.reduce((sum, { branches: inside }) => sum + Math.max(1, rowsOf(inside)), 0);
}

/** Most pages that rows of a tree take: those of its tokens, and a copy of the last page at each fork. */
function pagesOf(branches: readonly Branch[]): number {
  return branches.reduce(
    (sum, { ids, branches: inside }) => sum + Math.ceil(ids.length / PAGE) + 1 + pagesOf(inside),
    0,
  );
}

async function scoreBatch(
  model: PreTrainedModel,
  texts: readonly TokenText[],
  batch: readonly number[],
  shares: boolean,
  options: ScoreOptions,
): Promise<void> {
  const { device, module } = model;
  const tree = treeOf(texts, batch, shares);
  const rows = rowsOf(tree);
  const longest = batch.reduce((most, text) => Math.max(most, texts[text]!.ids.length - 1), 0);
  const capacity = Math.ceil(longest / PAGE) * PAGE;
  using lengths = new TextLengths(new Array<number>(rows).fill(1));
  using cache = new KVCache(layerDevices(module, device), {
    layers: layerShapes(module.geometry),
    rows,
    capacity,
    dtype: options.cache_dtype ?? "f32",
    pages: { size: PAGE, count: pagesOf(tree) },
  });
  using forward = new RowForward(device, module, {
    rows,
    capacity,
    cache_dtype: cache.dtype,
    attention: model.attending(),
    held: { cache, lengths },
  });
  const sums = new Map(batch.map((text) => [text, { loglikelihood: 0, is_greedy: true }]));
  const reads: (() => Promise<void>)[] = [];
  let free = 0;
  let level: { branch: Branch; row: number }[] = tree.map((branch) => ({ branch, row: free++ }));
  try {
    while (level.length > 0) {
      for (const { branch, row } of level) lengths.set(row, shares ? longest : branch.ids.length);
      const pieces = level.map(({ branch, row }): RowText => ({ row, ids: branch.ids, from: branch.at }));
      const branchOf = new Map(level.map(({ branch, row }) => [row, branch]));
      for (const chunk of flatChunks(pieces)) {
        throwIfAborted(options.signal, "evaluation");
        cache.extend(Array.from({ length: rows }, (_, row) => chunk.counts.get(row) ?? 0));
        reads.push(recordChunk(forward, chunk, predictionsOf(chunk, branchOf, texts), sums));
        device.flush();
        // One chunk runs while the next is recorded.
        if (reads.length > 1) await reads.shift()!();
        options.ran?.(chunk.ids.length);
      }
      level = level.flatMap(({ branch, row }) =>
        branch.branches.map((inside, n) => {
          const own = n === 0 ? row : free++;
          if (own !== row) cache.fork(row, own);
          return { branch: inside, row: own };
        }),
      );
    }
    for (let read = reads.shift(); read; read = reads.shift()) await read();
  } finally {
    await Promise.allSettled(reads.map((read) => read()));
  }
  await options.scored?.([...sums]);
}

/** The tokens of a chunk after which tokens that count follow. */
function predictionsOf(
  { ids, lanes }: FlatChunk,
  branchOf: ReadonlyMap<number, Branch>,
  texts: readonly TokenText[],
): Prediction[] {
  const found: Prediction[] = [];
  for (let lane = 0; lane < ids.length; lane++) {
    const [row, position] = [lanes[lane]!, lanes[ids.length + lane]!];
    const targets = branchOf.get(row)!.texts.flatMap((text) => {
      const { ids: all, from } = texts[text]!;
      return position + 1 >= from && position + 1 < all.length ? [[text, all[position + 1]!] as const] : [];
    });
    if (targets.length > 0) found.push({ lane, targets });
  }
  return found;
}

/** Records a chunk; what it returns waits for the chunk, and adds to the sums. */
function recordChunk(
  forward: RowForward,
  chunk: FlatChunk,
  predictions: readonly Prediction[],
  sums: Map<number, { loglikelihood: number; is_greedy: boolean }>,
): () => Promise<void> {
  const hidden = forward.hidden(chunk).keep();
  const pieces: { of: readonly Prediction[]; rounds: Tensor[]; best: Tensor }[] = [];
  try {
    const size = Math.max(16, Math.floor(LOGITS_BYTES / (4 * forward.vocab)));
    for (let at = 0; at < predictions.length; at += size) {
      const of = predictions.slice(at, at + size);
      pieces.push({ of, ...recordHead(forward, hidden, of) });
    }
  } catch (error) {
    for (const { rounds, best } of pieces) for (const tensor of [...rounds, best]) tensor.dispose();
    hidden.dispose();
    throw error;
  }
  return async () => {
    try {
      await hidden.ready();
      for (const { of, rounds, best } of pieces) {
        const likeliest = await best.read();
        const values = await Promise.all(rounds.map((round) => round.readFloats()));
        of.forEach(({ targets }, n) => {
          targets.forEach(([text, id], round) => {
            const sum = sums.get(text)!;
            sum.loglikelihood += values[round]![n]!;
            if (likeliest[n] !== id) sum.is_greedy = false;
          });
        });
      }
    } finally {
      for (const { rounds, best } of pieces) for (const tensor of [...rounds, best]) tensor.dispose();
      hidden.dispose();
    }
  };
}

/** Log-probabilities of the targets, f32[n] for the first, second .. target of each prediction, and the likeliest tokens i32[n]. */
function recordHead(
  forward: RowForward,
  hidden: Tensor,
  of: readonly Prediction[],
): { rounds: Tensor[]; best: Tensor } {
  const rounds: Tensor[] = [];
  const best = scope(() => {
    const states = hidden.view(hidden.shape[1]!, -1);
    const picked = Tensor.empty(hidden.device, [of.length, states.shape[1]!], "f32", "hidden states that predict");
    for (let n = 0; n < of.length; ) {
      let end = n + 1;
      while (end < of.length && of[end]!.lane === of[end - 1]!.lane + 1) end++;
      copyInto(states.narrow(0, of[n]!.lane, end - n), picked.narrow(0, n, end - n));
      n = end;
    }
    const logits = forward.head(picked);
    const most = of.reduce((longest, { targets }) => Math.max(longest, targets.length), 0);
    for (let round = 0; round < most; round++) {
      // Predictions with fewer targets repeat their first one; nobody reads that.
      const targets = Int32Array.from(of, (one) => (one.targets[round] ?? one.targets[0]!)[1]);
      rounds.push(tokenLogprobs(logits, Tensor.from(hidden.device, targets, [of.length])).keep());
    }
    return argmax(logits);
  });
  return { rounds, best };
}
