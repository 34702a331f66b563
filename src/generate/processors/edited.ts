// Changes to the scores of single tokens that follow from each row's text: the host says which before a step's choice, while the forward
// pass runs, and the device makes them.

import type { Device } from "../../core/device.js";
import { Tensor } from "../../core/tensor.js";
import { add } from "../../ops/add.js";
import { edit } from "../../ops/edit.js";
import type { Edits } from "./host/edits.js";
import type { RowText } from "./masked.js";
import type { LogitsProcessor } from "./processor.js";
import { keptTogether, writeAt, writeRow } from "./rows.js";

/** What a row's text changes in its next step. */
export interface TextChanges {
  /** Before the penalties. */
  readonly early: Edits | undefined;
  /** Behind them. */
  readonly late: Edits | undefined;
  /** Added to the scores of these tokens, when those to choose from are left. */
  readonly green: { readonly ids: Int32Array; readonly bias: number } | undefined;
}

/** What processors of texts change. */
export interface TextEdits {
  of(text: RowText & { readonly row: number }): TextChanges;
}

/** Edits of a row at first; then as many as are needed, doubled. */
const FEW = 16;

interface Written {
  readonly ids: Int32Array;
  readonly numbers: Float32Array;
  readonly only: number;
}

const isSame = (a: Int32Array | Float32Array, b: Int32Array | Float32Array): boolean =>
  a.length === b.length && a.every((value, i) => value === b[i]);

export class Edited implements LogitsProcessor {
  readonly #device: Device;
  readonly #rows: number;
  #room = FEW;
  /** i32[R,N], f32[R,N,3] and i32[R]: operands of `edit`; made when the first row needs them. */
  #state: readonly [ids: Tensor, edits: Tensor, only: Tensor] | undefined;
  /** What each row holds. */
  readonly #held: (Written | undefined)[];
  readonly #from: (Edits | undefined)[];
  #version = 0;

  constructor(device: Device, rows: number) {
    this.#device = device;
    this.#rows = rows;
    this.#held = new Array<undefined>(rows).fill(undefined);
    this.#from = new Array<undefined>(rows).fill(undefined);
  }

  get idle(): boolean {
    return this.#state === undefined;
  }

  get version(): number {
    return this.#version;
  }

  /** Takes the place of what the row had. */
  set(row: number, edits: Edits): void {
    if (this.#from[row] === edits) return;
    this.#from[row] = edits;
    const { changes, only } = edits;
    if (!this.#state && changes.size === 0 && !only) return;
    const numbers = new Float32Array(3 * changes.size);
    let at = 0;
    for (const { add, penalty, growth } of changes.values()) {
      numbers.set([add, penalty, growth], at);
      at += 3;
    }
    const next: Written = { ids: Int32Array.from(changes.keys()), numbers, only: only ? 1 : 0 };
    const before = this.#held[row];
    if (before && before.only === next.only && isSame(before.ids, next.ids) && isSame(before.numbers, numbers)) return;
    this.#held[row] = next;
    if (this.#state && next.ids.length <= this.#room) this.#write(row, next, before?.ids.length ?? 0);
    else this.#make(next.ids.length);
  }

  /** Makes room for a number of edits, and writes all rows. */
  #make(count: number): void {
    while (this.#room < count) this.#room *= 2;
    this.dispose();
    const [rows, room] = [this.#rows, this.#room];
    const none = new Int32Array(rows * room).fill(-1);
    this.#state = keptTogether(
      () => Tensor.from(this.#device, none, [rows, room], "i32", "edited"),
      () => Tensor.from(this.#device, new Float32Array(3 * rows * room), [rows, room, 3], "f32", "edits"),
      () => Tensor.from(this.#device, new Int32Array(rows), [rows], "i32", "only"),
    );
    this.#version++;
    for (const [row, own] of this.#held.entries()) if (own) this.#write(row, own, 0);
  }

  #write(row: number, { ids, numbers, only }: Written, before: number): void {
    const [list, edits, alone] = this.#state!;
    const padded = new Int32Array(Math.max(ids.length, before)).fill(-1, ids.length);
    padded.set(ids);
    if (padded.length > 0) writeRow(list, row, padded);
    if (numbers.length > 0) writeRow(edits, row, numbers);
    writeAt(alone, row, Int32Array.of(only));
  }

  begin(): void {}

  end(): void {} // edits of a row that is not used have no effect

  record(logits: Tensor): void {
    if (this.#state) edit(logits, ...this.#state);
  }

  keep(): void {}

  /** Each step sets the edits of its rows, so a copied state needs none of another row. */
  fork(): void {}

  reorder(): void {}

  dispose(): void {
    for (const tensor of this.#state ?? []) tensor.dispose();
    this.#state = undefined;
  }
}

/** A bias for many tokens of each row: a watermark's. */
export class Green {
  readonly #device: Device;
  readonly #rows: number;
  readonly #vocab: number;
  /** f32[R,V], made when the first row needs it. */
  #bias: Tensor | undefined;
  readonly #row: Float32Array;

  constructor(device: Device, rows: number, vocab: number) {
    this.#device = device;
    this.#rows = rows;
    this.#vocab = vocab;
    this.#row = new Float32Array(vocab);
  }

  get idle(): boolean {
    return this.#bias === undefined;
  }

  /** Takes the place of what the row had. */
  set(row: number, { ids, bias }: NonNullable<TextChanges["green"]>): void {
    if (!this.#bias) {
      const none = new Float32Array(this.#rows * this.#vocab);
      [this.#bias] = keptTogether(() => Tensor.from(this.#device, none, [this.#rows, this.#vocab], "f32", "green"));
    }
    this.#row.fill(0);
    for (const id of ids) this.#row[id] = bias;
    writeRow(this.#bias, row, this.#row);
  }

  /** The scores with their biases. */
  added(scores: Tensor): Tensor {
    return this.#bias ? add(scores, this.#bias) : scores;
  }

  dispose(): void {
    this.#bias?.dispose();
    this.#bias = undefined;
  }
}
