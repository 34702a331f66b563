// The choice of tokens: from the logits of all rows to one token each, and to the lanes that these have in the next forward
// pass, all on the device. It is a recording of its own, so that something can happen between a forward pass and the choice.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { advanceLanes } from "../ops/advance.js";
import { copyInto } from "../ops/copy.js";
import { sample } from "../ops/sample.js";
import { tokenLogprobs } from "../ops/token-logprobs.js";
import type { SamplingConfig } from "./config.js";
import { Penalties } from "./processors/penalties.js";
import type { LogitsProcessor, RowStart } from "./processors/processor.js";
import { copyRow, keptTogether, reorderRows, writeAt, writeRow } from "./processors/rows.js";

/** A row that is not sampled: its logits are not looked at. */
const UNUSED = -1;

/** What `sample` takes of a request: temperature (0 for the likeliest token), top_k, top_p, min_p. */
function paramsOf({ do_sample, temperature, top_k, top_p, min_p }: SamplingConfig): Float32Array {
  return Float32Array.of(do_sample ? temperature : 0, top_k, top_p, min_p);
}

type Own = [Tensor, Tensor, Tensor, Tensor, Tensor | undefined];

export class Choice implements Disposable {
  /** i32[R]: the tokens that were chosen last. */
  readonly tokens: Tensor;
  /** i32[2,R,1]: the row of each lane (-1: unused), and the position of its token. */
  readonly lanes: Tensor;
  /** f32[R]: their log-probabilities among all tokens, after the processors; absent where nobody asked for them. */
  readonly scores: Tensor | undefined;
  /**
   * In the order of transformers' list: the penalties come first; what the host does follows them, and temperature, top-k,
   * top-p and min-p, which `sample` applies, follow that.
   */
  readonly processors: readonly LogitsProcessor[];
  /** f32[R,4] and i32[R,3], as `sample` takes them. */
  readonly #params: Tensor;
  readonly #draws: Tensor;

  /** @param capacity tokens that a row's text can have */
  constructor(device: Device, rows: number, capacity: number, scores: boolean) {
    const params = new Float32Array(4 * rows).fill(UNUSED);
    const lanes = new Int32Array(2 * rows).fill(-1, 0, rows);
    const own = keptTogether(
      () => Tensor.from(device, new Int32Array(rows), [rows], "i32", "tokens"),
      () => Tensor.from(device, lanes, [2, rows, 1], "i32", "lanes"),
      () => Tensor.from(device, params, [rows, 4], "f32", "sampling"),
      () => Tensor.from(device, new Int32Array(3 * rows), [rows, 3], "i32", "draws"),
      ...(scores ? [() => Tensor.empty(device, [rows], "f32", "scores")] : []),
    );
    [this.tokens, this.lanes, this.#params, this.#draws, this.scores] = own as unknown as Own;
    this.processors = [new Penalties(device, rows, capacity)];
  }

  /** Which processors take part now: a recording of the choice holds for as long as this stays the same. */
  get active(): number {
    return this.processors.reduce((bits, { idle }, n) => (idle ? bits : bits | (1 << n)), 0);
  }

  /**
   * Takes a row in whose cache holds the whole text, and whose logits are there: a request whose random numbers are those
   * of `sequence`, from that of its next token on.
   */
  begin(start: RowStart, sequence: number): void {
    const { row, ids, prompt, options } = start;
    this.#seat(row, ids.length - 1); // the choice moves it on
    writeRow(this.#params, row, paramsOf(options));
    writeRow(this.#draws, row, Int32Array.of(options.seed, sequence, ids.length - prompt));
    for (const processor of this.processors) processor.begin(start);
  }

  /** Leaves a row alone from now on. */
  end(row: number): void {
    writeAt(this.lanes, row, Int32Array.of(-1));
    writeRow(this.#params, row, Float32Array.of(UNUSED));
    for (const processor of this.processors) processor.end(row);
  }

  /** Records what the processors do to logits[R,vocab]. */
  process(logits: Tensor): void {
    for (const processor of this.processors) processor.record(logits);
  }

  /** Records the choice from logits[R,vocab]. */
  choose(logits: Tensor): void {
    scope(() => {
      copyInto(sample(logits, this.#params, this.#draws), this.tokens);
      if (this.scores) copyInto(tokenLogprobs(logits, this.tokens), this.scores);
      for (const processor of this.processors) processor.keep(this.tokens);
      advanceLanes(this.lanes, 1);
    });
  }

  /** Records that row `to` goes on from the state of row `from`, as the request `options` that has taken `step` steps. */
  fork(from: number, to: number, options: SamplingConfig, at: { sequence: number; step: number; held: number }): void {
    const { sequence, step, held } = at;
    this.#seat(to, held);
    copyRow(this.tokens, from, to);
    writeRow(this.#params, to, paramsOf(options));
    writeRow(this.#draws, to, Int32Array.of(options.seed, sequence, step));
    for (const processor of this.processors) processor.fork(from, to);
  }

  reorder(parents: readonly number[]): void {
    scope(() => reorderRows(this.lanes.select(0, 1), parents));
    for (const tensor of [this.tokens, this.#params, this.#draws]) reorderRows(tensor, parents);
    for (const processor of this.processors) processor.reorder(parents);
  }

  #seat(row: number, position: number): void {
    writeAt(this.lanes, row, Int32Array.of(row));
    writeAt(this.lanes, this.lanes.shape[1]! + row, Int32Array.of(position));
  }

  dispose(): void {
    for (const tensor of [this.tokens, this.lanes, this.#params, this.#draws]) tensor.dispose();
    this.scores?.dispose();
    for (const processor of this.processors) processor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
