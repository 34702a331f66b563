// Encodes op calls as 32-bit words, the only form in which they reach a backend. native/call.h reads the same layout.
//
//   kernel, words, site, operand*, attr*
//   operand (absent):  0
//   operand (present): header, buffer, offset low, offset high, dim*, stride*
//     header = 1<<31 | strided<<24 | panels<<16 | dtype<<8 | rank; strides (in elements) only if strided
//   attr: the i32 itself, or the bits of the f32
// Operands are in signature order, inputs first, then outputs. The offset is in bytes.
//
//   -1, 4, 0, buffer     not an op: the buffer has no owner any more, and the failures that spoilt it are forgotten

import { DTYPE_CODE, type DType } from "./dtype.js";

/** What the encoder needs of a tensor. */
export interface EncodableTensor {
  readonly buffer: number;
  readonly offset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Strides in elements, or null when contiguous. */
  readonly strides: readonly number[] | null;
  readonly panels: boolean;
}

const INITIAL_WORDS = 1 << 14;

/** Replaces the kernel number: see above. */
export const FORGET = -1;

/** A growing buffer of encoded commands. */
export class CommandBuffer {
  words: Int32Array = new Int32Array(INITIAL_WORDS);
  length = 0;
  commands = 0;
  #floats: Float32Array = new Float32Array(this.words.buffer);
  #start = 0;

  begin(kernel: number, site: number): void {
    if (this.length + 512 > this.words.length) this.#grow();
    this.#start = this.length;
    this.words[this.length] = kernel;
    this.words[this.length + 2] = site;
    this.length += 3;
  }

  tensor(t: EncodableTensor | undefined): void {
    const { words } = this;
    let at = this.length;
    if (t === undefined) {
      words[at] = 0;
      this.length = at + 1;
      return;
    }
    const { shape, strides } = t;
    const rank = shape.length;
    words[at] = 0x80000000 | (strides ? 1 << 24 : 0) | (t.panels ? 1 << 16 : 0) | (DTYPE_CODE[t.dtype] << 8) | rank;
    words[at + 1] = t.buffer;
    words[at + 2] = t.offset | 0;
    words[at + 3] = Math.floor(t.offset / 4294967296);
    at += 4;
    for (let d = 0; d < rank; d++) words[at++] = shape[d]!;
    if (strides) for (let d = 0; d < rank; d++) words[at++] = strides[d]!;
    this.length = at;
  }

  int(value: number): void {
    this.words[this.length++] = value;
  }

  float(value: number): void {
    this.#floats[this.length++] = value;
  }

  end(): void {
    this.words[this.#start + 1] = this.length - this.#start;
    this.commands++;
  }

  /** Records that a buffer has lost its owner; not counted as a command. */
  forget(buffer: number): void {
    if (this.length + 512 > this.words.length) this.#grow();
    const { words, length } = this;
    words[length] = FORGET;
    words[length + 1] = 4;
    words[length + 2] = 0;
    words[length + 3] = buffer;
    this.length += 4;
  }

  reset(): void {
    this.length = 0;
    this.commands = 0;
  }

  #grow(): void {
    const wider = new Int32Array(this.words.length * 2);
    wider.set(this.words);
    this.words = wider;
    this.#floats = new Float32Array(wider.buffer);
  }
}
