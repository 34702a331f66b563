// The choice of tokens: from the logits of all rows to one token each, and to the lanes of the next forward pass, all on the
// device. It has a recording of its own, so the host can act between a forward pass and the choice.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { advanceLanes } from "../ops/advance.js";
import { copyInto } from "../ops/copy.js";
import { sample } from "../ops/sample.js";
import { tokenLogprobs } from "../ops/token-logprobs.js";
import type { SamplingConfig } from "./config.js";
import { Edited, Green, type TextChanges } from "./processors/edited.js";
import { Masked } from "./processors/masked.js";
import { Penalties } from "./processors/penalties.js";
import type { LogitsProcessor, RowStart } from "./processors/processor.js";
import { copyRow, keptTogether, reorderRows, writeAt, writeRow } from "./processors/rows.js";
import { Suppressed } from "./processors/suppressed.js";
import { Warped, warps } from "./processors/warped.js";

/** A row that is not sampled: its logits are not read. */
export const UNUSED = -1;

/** Parameters of a request for `sample`: temperature (0 for the likeliest token), top_k, top_p, min_p, unless `warp` applies them. */
export function paramsOf(config: SamplingConfig): Float32Array {
  const { do_sample, temperature, top_k, top_p, min_p } = config;
  if (warps(config)) return Float32Array.of(1, 0, 1, 0);
  return Float32Array.of(do_sample ? temperature : 0, top_k, top_p, min_p);
}

type Own = [Tensor, Tensor, Tensor, Tensor, Tensor | undefined];

export class Choice implements Disposable {
  /** i32[R]: the tokens chosen last. */
  readonly tokens: Tensor;
  /** i32[2,R,1]: the row of each lane (-1: unused), and the position of its token. */
  readonly lanes: Tensor;
  /** f32[R]: their log-probabilities among all tokens, after the processors; absent unless requested. */
  readonly scores: Tensor | undefined;
  /**
   * In the order of transformers: edits that come before the penalties, these, the other edits, then suppressed tokens and masks. The
   * host processors follow, then temperature, top-k, top-p and min-p, which `sample` applies, or `warp` with what follows them.
   */
  readonly processors: readonly LogitsProcessor[];
  /** The one whose masks the session sets. */
  readonly masked: Masked;
  readonly #early: Edited;
  readonly #late: Edited;
  readonly #warped: Warped;
  readonly #green: Green;
  /** f32[R,4] and i32[R,3]: operands of `sample`. */
  readonly #params: Tensor;
  readonly #draws: Tensor;
  readonly #guided: boolean;

  /**
   * @param capacity most tokens of a row's text
   * @param guided the second half of the rows gets the tokens of the first
   */
  constructor(device: Device, rows: number, capacity: number, vocab: number, { scores = false, guided = false }) {
    this.#guided = guided;
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
    this.masked = new Masked(device, rows, vocab);
    this.#early = new Edited(device, rows);
    this.#late = new Edited(device, rows);
    const [penalties, suppressed] = [new Penalties(device, rows, capacity), new Suppressed(device, rows, vocab)];
    this.processors = [this.#early, penalties, this.#late, suppressed, this.masked];
    this.#warped = new Warped(device, rows);
    this.#green = new Green(device, rows, vocab);
  }

  /** The active processors: a recording of the choice is valid as long as they stay the same. */
  get active(): number {
    const behind = [this.#warped, this.#green];
    const bits = [...this.processors, ...behind].reduce((all, { idle }, n) => (idle ? all : all | (1 << n)), 0);
    return this.processors.reduce((all, { version = 0 }) => all + 2 ** 8 * version, bits);
  }

  /**
   * Adds a row whose cache holds the whole text and whose logits are there. The request draws the random numbers of
   * `sequence`, starting at the step of its next token, counted from `drawn`.
   */
  begin(start: RowStart, { sequence, drawn }: { readonly sequence: number; readonly drawn: number }): void {
    const { row, ids, prompt, options } = start;
    this.#seat(row, ids.length - 1); // the choice advances it
    writeRow(this.#params, row, paramsOf(options));
    writeRow(this.#draws, row, Int32Array.of(options.seed, sequence, drawn + ids.length - prompt));
    for (const processor of [...this.processors, this.#warped]) processor.begin(start);
  }

  /** Ignores a row from now on. */
  end(row: number): void {
    writeAt(this.lanes, row, Int32Array.of(-1));
    writeRow(this.#params, row, Float32Array.of(UNUSED));
    for (const processor of [...this.processors, this.#warped]) processor.end(row);
  }

  /** What a row's text changes in its next step. */
  change(row: number, { early, late, green }: TextChanges): void {
    if (early) this.#early.set(row, early);
    if (late) this.#late.set(row, late);
    if (green) this.#green.set(row, green);
  }

  /** Records the processors on logits[R,vocab]. */
  process(logits: Tensor): void {
    for (const processor of this.processors) processor.record(logits);
  }

  /** Records the choice from logits[R,vocab]. */
  choose(logits: Tensor): void {
    scope(() => {
      const scores = this.#green.added(this.#warped.left(logits));
      copyInto(sample(scores, this.#params, this.#draws), this.tokens);
      const half = this.tokens.shape[0]! / 2;
      if (this.#guided) copyInto(this.tokens.narrow(0, 0, half), this.tokens.narrow(0, half, half));
      if (this.scores) copyInto(tokenLogprobs(logits, this.tokens), this.scores);
      for (const processor of this.processors) processor.keep(this.tokens);
      advanceLanes(this.lanes, 1);
    });
  }

  /** Records that row `to` continues from the state of row `from`, as the request `options` that has taken `step` steps. */
  fork(from: number, to: number, options: SamplingConfig, at: { sequence: number; step: number; held: number }): void {
    const { sequence, step, held } = at;
    this.#seat(to, held);
    copyRow(this.tokens, from, to);
    writeRow(this.#params, to, paramsOf(options));
    writeRow(this.#draws, to, Int32Array.of(options.seed, sequence, step));
    for (const processor of this.processors) processor.fork(from, to);
    this.#warped.fork(from, to);
  }

  reorder(parents: readonly number[]): void {
    scope(() => reorderRows(this.lanes.select(0, 1), parents));
    for (const tensor of [this.tokens, this.#params, this.#draws]) reorderRows(tensor, parents);
    for (const processor of this.processors) processor.reorder(parents);
    this.#warped.reorder(parents);
  }

  #seat(row: number, position: number): void {
    writeAt(this.lanes, row, Int32Array.of(row));
    writeAt(this.lanes, this.lanes.shape[1]! + row, Int32Array.of(position));
  }

  dispose(): void {
    for (const tensor of [this.tokens, this.lanes, this.#params, this.#draws]) tensor.dispose();
    this.scores?.dispose();
    for (const processor of [...this.processors, this.#warped, this.#green]) processor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
