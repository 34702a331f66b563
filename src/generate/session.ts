// A decode session: rows of a cache, each with its own request, that get one token per step. All steps replay the same two
// recordings: the forward pass over one token per row, and the choice of the next ones. Between the two, new rows copy in the
// logits of their prompts, and host processors run. The next step starts before the host has seen a token. A finished row is
// free for another request; the recordings stay.

import type { Device } from "../core/device.js";
import { AbortError, OptionError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Decoder } from "../nn/decoder.js";
import { copyInto } from "../ops/copy.js";
import { Choice } from "./choice.js";
import type { Drafts } from "./drafters/drafter.js";
import { RowForward } from "./forward.js";
import { type FlatChunk, flatChunks, runChunks } from "./prefill.js";
import type { TextEdits } from "./processors/edited.js";
import type { HostProcessor } from "./processors/host-processor.js";
import type { TokenMasks } from "./processors/masked.js";
import { leaves } from "./processors/suppressed.js";
import { StepRecordings } from "./recordings.js";
import { placesOf, RowStates } from "./row-states.js";
import type { RequestConfig, RowRequest, RowToken, Sequence } from "./sequence.js";
import type { PrefillOptions, SessionOptions } from "./session-options.js";
import { SessionRows } from "./session-rows.js";
import { chooseAll, lanesOf } from "./verify.js";

const NOTHING_LEFT = "no token is left that may follow";

export class DecodeSession implements Disposable {
  readonly rows: number;
  readonly capacity: number;
  readonly #forward: RowForward;
  readonly #choice: Choice;
  readonly #processors: readonly HostProcessor[];
  readonly #masks: TokenMasks | undefined;
  readonly #edits: TextEdits | undefined;
  readonly #watch: SessionOptions["watch"];
  readonly #keep: boolean;
  /** Rows that choose tokens. */
  readonly #choosing: number;
  readonly #rows: SessionRows;
  /** Tokens that each row gets in the step being recorded. */
  readonly #counts: number[];
  readonly #recordings: StepRecordings;
  readonly #states: RowStates | undefined;
  #last: Promise<unknown> = Promise.resolve();
  /** When the choice of the last step was recorded, of steps that the host takes part in. */
  #chosen: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** @throws OutOfMemoryError */
  constructor(device: Device, model: Decoder, options: SessionOptions) {
    const { rows, capacity } = options;
    this.rows = rows;
    this.capacity = capacity;
    this.#processors = options.processors ?? [];
    this.#masks = options.masks;
    this.#edits = options.edits;
    this.#watch = options.watch;
    this.#keep = options.keep ?? options.held !== undefined;
    this.#choosing = options.guided ? rows / 2 : rows;
    this.#counts = new Array<number>(rows).fill(0);
    this.#choice = new Choice(device, rows, capacity, model.geometry.vocab, options);
    try {
      this.#forward = new RowForward(device, model, options);
    } catch (error) {
      this.#choice.dispose();
      throw error;
    }
    this.#rows = new SessionRows(rows, this.#forward, this.#choice, options.held);
    this.#recordings = new StepRecordings(device, this.#forward, this.#choice, {
      apart: this.#processors.length > 0,
      states: options.states,
    });
    this.#states = options.states ? new RowStates() : undefined;
  }

  /** The sequence of each row; undefined for a free row. */
  get sequences(): readonly (Readonly<Sequence> | undefined)[] {
    return this.#rows.sequences;
  }

  /** i32[R]: the tokens of the last step. */
  get tokens(): Tensor {
    return this.#choice.tokens;
  }

  /**
   * Adds texts to free rows, a chunk at a time; when it resolves, the last chunk is in flight, and the next step gives the
   * rows their first tokens. Steps of the other rows can go on meanwhile.
   * @throws OptionError for a row in use or a text that does not fit; AbortError, KernelError, OutOfMemoryError
   */
  async add(requests: readonly RowRequest[], options: PrefillOptions = {}): Promise<void> {
    await this.#fill(this.#rows.seat(requests, this.capacity), options, 0);
  }

  /** The same for rows that get their tokens from `verify`, which also processes the last token of each prompt. */
  async addForDrafts(requests: readonly RowRequest[], options: PrefillOptions = {}): Promise<void> {
    await this.#fill(this.#rows.seat(requests, this.capacity), options, 1);
  }

  /** Frees a row, finished or not, and adds another request. */
  async replace(request: RowRequest, options: PrefillOptions = {}): Promise<void> {
    this.remove(request.row);
    await this.add([request], options);
  }

  /**
   * Frees a row: its text is forgotten, and its tokens in flight are dropped.
   * @throws OptionError while the row's prompt is being processed: abort that by its signal
   */
  remove(row: number): void {
    const sequence = this.#rows.sequences[row];
    if (sequence && !sequence.ready) throw new OptionError(`the prompt of row ${row} is still being processed`);
    if (sequence) this.#rows.free(sequence);
  }

  /**
   * Continues rows with other texts, as new requests: the prefix that a row's text shares with the new one stays in the cache.
   * For a free row it is the same as `add`. Where positions depend on a text's length, a request that may grow longer can need
   * other keys, and shares nothing (nn/text-lengths.ts).
   * @returns tokens of each text that were in the cache
   */
  async resume(requests: readonly RowRequest[], options: PrefillOptions = {}): Promise<number[]> {
    return await this.#resume(requests, options, 0);
  }

  /** The same for rows that get their tokens from `verify`. */
  async resumeForDrafts(requests: readonly RowRequest[], options: PrefillOptions = {}): Promise<number[]> {
    return await this.#resume(requests, options, 1);
  }

  async #resume(requests: readonly RowRequest[], options: PrefillOptions, leave: number): Promise<number[]> {
    const resumed = this.#rows.succeed(requests, this.capacity);
    const shared = resumed.map(({ cached }) => cached);
    await this.#fill(resumed, options, leave);
    return shared;
  }

  /**
   * A free row continues the text of row `from` as a request of its own: several samples of one prompt. It shares the keys, so
   * where positions depend on a text's length it keeps that of row `from`.
   * @throws OptionError while a step of row `from` is in flight
   */
  fork(from: number, to: number, config: RequestConfig, sequence: number): void {
    const parent = this.#rows.sequences[from];
    if (!parent?.ready || parent.unread) throw new OptionError(`row ${from} has no text to fork, or unread tokens`);
    this.#rows.checkFree(to);
    this.#forward.cache.fork(from, to);
    this.#forward.lengths.fork(from, to);
    const fork = parent.fork(to, config, sequence);
    this.#rows.sequences[to] = fork;
    if (fork.logits) return; // the next step adds it like any other
    this.#choice.fork(from, to, config, { sequence, step: fork.asked, held: fork.cached });
  }

  /**
   * Each row r continues the text of row `parents[r]` (beams), with `tokens[r]` in place of that one's last token.
   * @throws OptionError unless all rows have taken a step, and all steps were read
   */
  reorder(parents: readonly number[], tokens?: readonly number[]): void {
    const before = parents.map((parent) => this.#rows.sequences[parent]);
    if (before.length !== this.rows || !before.every((own) => own?.ready && !own.logits && !own.unread)) {
      throw new OptionError("rows can be reordered only after all have taken a step and all tokens were read");
    }
    this.#forward.cache.reorder(parents);
    this.#forward.lengths.reorder(parents);
    this.#choice.reorder(parents);
    before.forEach((own, row) => {
      this.#rows.sequences[row] = own!.row === row ? own : own!.fork(row, own!.config, own!.sequence);
    });
    if (!tokens) return;
    this.tokens.write(Int32Array.from(tokens));
    for (const [row, sequence] of this.#rows.sequences.entries())
      sequence!.ids[sequence!.ids.length - 1] = tokens[row]!;
  }

  /**
   * One step: a token for every row with a text, including those added since the last one. Everything is recorded when this
   * returns, unless there are host processors or masks; the promise gives the tokens. Rows whose tokens are all in flight take no part,
   * and finished rows are free once they were read. Undefined if no row takes part.
   */
  step(): Promise<RowToken[]> | undefined {
    if (!this.#rows.sequences.some((sequence) => sequence?.ready && !sequence.complete)) return undefined;
    if (this.#processors.length > 0 || this.#masks || this.#edits) return this.#between();
    const live = this.#forwardStep();
    const seen = this.#watch && this.#recordings.forward.logits.readFloats();
    for (const recording of this.#recordings.choice) recording.replay();
    const read = this.#read(live);
    return seen ? this.#watched(seen, read) : read;
  }

  /** A step whose logits are read before the choice changes them. */
  async #watched(seen: Promise<Float32Array>, read: Promise<RowToken[]>): Promise<RowToken[]> {
    const [logits, taken] = await Promise.all([seen, read]);
    this.#watch!(logits);
    return taken;
  }

  /**
   * A step split in two: the host makes masks and edits in between, or sees the logits. Its forward pass is recorded as soon as the tokens of the
   * step before are chosen; the rest waits until these were read. If a step fails, the one after it does.
   */
  #between(): Promise<RowToken[]> {
    const [before, read] = [this.#chosen, this.#last];
    const chosen = before.then(async () => {
      const live = this.#closed ? [] : this.#forwardStep();
      const hosted = live.length > 0 && this.#processors.length > 0;
      const early = hosted && !this.#edits ? this.#seen() : undefined;
      await read;
      const running = live.filter(({ ended }) => !ended);
      if (this.#closed || running.length === 0) return [];
      for (const sequence of running) this.#tell(sequence);
      if (hosted) await this.#process(running, await (early ?? this.#seen()));
      if (this.#closed) return [];
      this.#recordings.choice.at(-1)!.replay();
      return running;
    });
    const step = chosen.then(async (running) => (running.length === 0 ? [] : await this.#read(running)));
    this.#chosen = chosen;
    this.#last = step;
    for (const promise of [chosen, step]) promise.catch(() => {}); // the caller has `step`
    return step;
  }

  /** Tells the device what a row's text changes and allows. */
  #tell({ row, ids, prompt, config }: Sequence): void {
    const changes = this.#edits?.of({ row, ids, prompt });
    if (changes) this.#choice.change(row, changes);
    if (!this.#masks) return;
    const bits = this.#masks.of({ ids, prompt });
    const edits = [changes?.early, changes?.late];
    const bans = (id: number): boolean => edits.some((own) => own?.bans(id));
    if (!leaves(bits, config, ids.length === prompt, bans)) this.#masks.nothingLeft(NOTHING_LEFT);
    this.#choice.masked.set(row, bits);
  }

  /** The logits of all rows, behind the processors on the device. */
  #seen(): Promise<Float32Array> {
    this.#recordings.choice[0]!.replay();
    const reading = this.#recordings.forward.logits.readFloats();
    reading.catch(() => {}); // awaited later, if at all
    return reading;
  }

  /** Lets the host's processors change the logits of rows. */
  async #process(running: readonly Sequence[], all: Float32Array): Promise<void> {
    const { logits } = this.#recordings.forward;
    const vocab = logits.shape[1]!;
    const of = (row: number): Float32Array => all.subarray(row * vocab, (row + 1) * vocab);
    for (const { row, ids, prompt } of running) {
      if (row >= this.#choosing) continue;
      const unconditional = this.#choosing < this.rows ? of(row + this.#choosing) : undefined;
      const states = await this.#states?.take(row);
      const at = { row, ids, prompt, step: ids.length - prompt, unconditional, states };
      for (const processor of this.#processors) await processor.process(of(row), at);
    }
    if (!this.#closed) logits.write(all);
  }

  /**
   * Checks drafts of all rows in one pass: each row gets the same tokens as from single steps, and more than one if drafts
   * were right. Rows must come from `addForDrafts`.
   */
  async verify(drafts: Drafts): Promise<RowToken[]> {
    const live = this.#rows.live;
    const texts = live.map(({ row, ids, cached }) => ({
      row,
      ids: [...ids.slice(cached), ...drafts[row]!],
      from: cached,
    }));
    const [chunk] = flatChunks(texts, Number.POSITIVE_INFINITY);
    if (!chunk) return [];
    this.#extend(chunk, live);
    const lanes = live.flatMap((sequence, n) => lanesOf(sequence, drafts[sequence.row]!, texts[n]!.ids.length));
    const logits = this.#forward.logits(chunk);
    const { ids, scores } = await chooseAll(logits, lanes, this.#processors, this.#choice.scores !== undefined);
    let lane = 0;
    return live.flatMap((sequence, n) => {
      const own = drafts[sequence.row]!;
      const end = lane + texts[n]!.ids.length;
      const first = end - own.length - 1; // the last certain token
      lane = end;
      const tokens = sequence.accept(own, ids.subarray(first, end), scores?.subarray(first, end));
      this.#rows.rewindTo(sequence, sequence.ids.length - 1);
      if (sequence.ended) this.#keep ? this.#rows.end(sequence) : this.#rows.free(sequence);
      return tokens;
    });
  }

  /** Runs the part of each text that the cache lacks, except the last `leave` tokens. */
  async #fill(sequences: readonly Sequence[], { signal, chunk, ran }: PrefillOptions, leave: number): Promise<void> {
    const texts = sequences.map(({ row, ids, cached }) => ({
      row,
      ids: ids.slice(cached, ids.length - leave),
      from: cached,
    }));
    try {
      await runChunks(flatChunks(texts, chunk), (tokens) => this.#runChunk(tokens, sequences, leave > 0), signal, ran);
      for (const sequence of sequences) sequence.ready = true;
    } catch (error) {
      const keeps = this.#keep && error instanceof AbortError; // the chunks that ran stay
      for (const sequence of sequences) keeps ? this.#rows.end(sequence) : this.#rows.free(sequence);
      throw error;
    }
  }

  /** Records a chunk of texts; keeps the logits of the texts that end in it, unless their last tokens are left. */
  #runChunk(chunk: FlatChunk, sequences: readonly Sequence[], left: boolean): Tensor {
    this.#extend(chunk, sequences);
    return scope(() => {
      const hidden = this.#forward.hidden(chunk);
      this.#states?.add(hidden, placesOf(chunk.counts));
      if (left || chunk.ends.length === 0) return hidden;
      const logits = this.#forward.lastLogits(chunk, hidden);
      chunk.ends.forEach(([text], n) => {
        sequences[text]!.logits = logits.narrow(0, n, 1).keep();
      });
      return logits;
    });
  }

  /** Makes room for the tokens of a chunk. */
  #extend({ counts }: FlatChunk, sequences: readonly Sequence[]): void {
    this.#forward.cache.extend(this.#rows.sequences.map((_, row) => counts.get(row) ?? 0));
    for (const sequence of sequences) sequence.cached += counts.get(sequence.row) ?? 0;
  }

  /** Records the forward pass of running rows; returns all rows whose logits are then available. */
  #forwardStep(): Sequence[] {
    const live: Sequence[] = [];
    const counts = this.#counts.fill(0);
    for (const sequence of this.#rows.sequences) {
      if (!sequence?.ready) continue;
      if (sequence.complete) {
        this.#choice.end(sequence.row); // its last token is still to be read
        continue;
      }
      live.push(sequence);
      if (!sequence.logits) counts[sequence.row] = 1;
    }
    const { recording, logits, states } = this.#recordings.forward;
    if (counts.includes(1)) {
      this.#forward.cache.extend(counts);
      recording.replay();
      const read = counts.flatMap((count, row) => (count > 0 ? [{ row, at: row, count }] : []));
      if (states) this.#states?.add(states, read);
    }
    for (const sequence of live) {
      sequence.cached += counts[sequence.row]!;
      sequence.asked++;
      if (sequence.logits) this.#enter(sequence, sequence.logits, logits);
    }
    return live;
  }

  /** Adds a row whose prompt has run: the choice will see its logits. */
  #enter(sequence: Sequence, own: Tensor, logits: Tensor): void {
    const { row, ids, prompt, config: options } = sequence;
    scope(() => copyInto(own, logits.narrow(0, row, 1)));
    own.dispose();
    sequence.logits = undefined;
    this.#choice.begin({ row, ids, prompt, options }, sequence);
  }

  /** Ends a row's text where it is, as a criterion would: tokens in flight are dropped. It keeps its place in the cache. */
  halt(row: number): void {
    const sequence = this.#rows.sequences[row];
    if (sequence?.ready) this.#rows.end(sequence);
  }

  /** The tokens of a step, for the rows that had not ended before it. */
  async #read(live: readonly Sequence[]): Promise<RowToken[]> {
    const { tokens, scores } = this.#choice;
    const reading = tokens.read() as Promise<Int32Array>;
    const scoring = scores?.readFloats();
    scoring?.catch(() => {}); // awaited below; avoids an unhandled rejection
    const ids = await reading;
    const score = scoring && (await scoring);
    const taken: RowToken[] = [];
    for (const sequence of live) {
      if (sequence.ended) continue;
      const { row } = sequence;
      if (this.#masks && !this.#choice.masked.allows(row, ids[row]!)) {
        this.#masks.nothingLeft(NOTHING_LEFT);
      }
      const token = sequence.take(ids[row]!, score?.[row], false);
      if (row < this.#choosing) taken.push(token);
      const beside = this.#choosing < this.rows ? this.#rows.sequences[row + this.#choosing] : undefined;
      if (sequence.ended)
        for (const one of [sequence, beside]) if (one) this.#keep ? this.#rows.end(one) : this.#rows.free(one);
    }
    return taken;
  }

  dispose(): void {
    if (!this.#closed) this.#rows.giveBack();
    this.#closed = true;
    this.#recordings.dispose();
    for (const sequence of this.#rows.sequences) sequence?.logits?.dispose();
    this.#choice.dispose();
    this.#forward.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
