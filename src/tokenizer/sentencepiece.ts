// Reads SentencePiece's model files (spiece.model, tokenizer.model, sentencepiece.bpe.model): the pieces, and the few settings
// that decide how text is cut. They are protocol buffers; only the fields below are read. Not here: what becomes of them
// (convert-spm.ts). Facts: sentencepiece_model.proto.

import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { MAX_ID } from "./components.js";
import { LONGEST_TOKEN } from "./model.js";

/** Kinds of pieces, as numbered in the file. */
export const PIECE = { normal: 1, unknown: 2, control: 3, user: 4, unused: 5, byte: 6 } as const;

export interface Piece {
  readonly piece: string;
  readonly score: number;
  readonly type: number;
}

export interface SentencePieceModel {
  readonly file: string;
  readonly model_type: "unigram" | "bpe";
  readonly pieces: readonly Piece[];
  readonly byte_fallback: boolean;
  /** Ids below 0 mean that there is none. */
  readonly ids: Readonly<Record<"unk" | "bos" | "eos" | "pad", number>>;
  readonly names: Readonly<Record<"unk" | "bos" | "eos" | "pad", string>>;
  /** Rules of normalization; empty for none. */
  readonly charsmap: Uint8Array;
}

/** A field of a message: a number, or the bytes of a text or message. */
type Field = readonly [number: number, value: number | Uint8Array];

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const NAMES = ["unk", "bos", "eos", "pad"] as const;
/** Field numbers of the trainer's settings. */
const SPEC = { model_type: 3, byte_fallback: 35, unk: 40, bos: 41, eos: 42, pad: 43, pieces: 45 } as const;

class Message {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #file: string;
  #at = 0;

  constructor(bytes: Uint8Array, file: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#file = file;
  }

  fail(what: string): never {
    throw new FormatError(`${this.#file}: not a SentencePiece model: ${what} at byte ${this.#at}`, {
      details: { file: this.#file, offset: this.#at },
      hint: "download the file again",
    });
  }

  /** A number of up to 64 bits, of which the lowest 32 count. */
  #varint(): number {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#bytes[this.#at++];
      if (byte === undefined) this.fail("a number is cut off");
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return this.fail("a number has too many bytes");
  }

  #take(count: number): number {
    if (count < 0 || count > this.#bytes.length - this.#at) this.fail(`${count >>> 0} bytes are missing`);
    this.#at += count;
    return this.#at - count;
  }

  *fields(): Generator<Field> {
    while (this.#at < this.#bytes.length) {
      const tag = this.#varint() >>> 0;
      const number = tag >>> 3;
      if (number === 0) this.fail("field 0");
      switch (tag & 7) {
        case 0:
          yield [number, this.#varint()];
          break;
        case 1:
          this.#take(8);
          break;
        case 2: {
          const length = this.#varint();
          const from = this.#take(length);
          yield [number, this.#bytes.subarray(from, from + length)];
          break;
        }
        case 5:
          yield [number, this.#view.getFloat32(this.#take(4), true)];
          break;
        default:
          this.fail(`wire type ${tag & 7}`);
      }
    }
  }

  bytes(value: number | Uint8Array): Uint8Array {
    return typeof value === "number" ? this.fail("a number in place of bytes") : value;
  }

  number(value: number | Uint8Array): number {
    return typeof value === "number" ? value : this.fail("bytes in place of a number");
  }

  text(value: number | Uint8Array): string {
    try {
      return UTF8.decode(this.bytes(value));
    } catch (cause) {
      if (cause instanceof FormatError) throw cause;
      return this.fail("text that is not UTF-8");
    }
  }
}

function readPiece(bytes: Uint8Array, file: string, id: number): Piece {
  const message = new Message(bytes, file);
  let [piece, score, type] = ["", 0, PIECE.normal as number];
  for (const [number, value] of message.fields()) {
    if (number === 1) piece = message.text(value);
    else if (number === 2) score = message.number(value);
    else if (number === 3) type = message.number(value);
  }
  const refuse = (what: string): never => {
    throw new FormatError(`${file}: piece ${id}: ${what}`, { details: { file, key: `pieces[${id}]` } });
  };
  if (piece === "") refuse("has no text");
  if (piece.length > LONGEST_TOKEN) refuse(`${piece.length} characters, at most ${LONGEST_TOKEN} are taken`);
  if (!Number.isFinite(score)) refuse(`${show(piece)} has the score ${score}`);
  return { piece, score, type };
}

/**
 * Reads a model file.
 * @throws FormatError when it is no SentencePiece model of unigram or BPE, when a piece is empty, doubled, longer than 512
 * characters or without a finite score, and when the special ids are outside the vocabulary
 */
export function readSentencePiece(bytes: Uint8Array, file: string): SentencePieceModel {
  const message = new Message(bytes, file);
  const pieces: Piece[] = [];
  const seen = new Set<string>();
  const ids = { unk: 0, bos: 1, eos: 2, pad: -1 };
  const names = { unk: "<unk>", bos: "<s>", eos: "</s>", pad: "<pad>" };
  let [model_type, byte_fallback, charsmap] = [1, false, new Uint8Array()];
  for (const [number, value] of message.fields()) {
    if (number === 1) {
      if (pieces.length > MAX_ID) message.fail(`more than ${MAX_ID} pieces`);
      const piece = readPiece(message.bytes(value), file, pieces.length);
      if (seen.has(piece.piece)) {
        throw new FormatError(`${file}: piece ${pieces.length}: ${show(piece.piece)} stands twice`, {
          details: { file, key: `pieces[${pieces.length}]` },
        });
      }
      seen.add(piece.piece);
      pieces.push(piece);
    } else if (number === 2) {
      const spec = new Message(message.bytes(value), file);
      for (const [field, setting] of spec.fields()) {
        if (field === SPEC.model_type) model_type = spec.number(setting);
        else if (field === SPEC.byte_fallback) byte_fallback = spec.number(setting) !== 0;
        for (const [i, name] of NAMES.entries()) {
          if (field === SPEC.unk + i) ids[name] = spec.number(setting);
          if (field === SPEC.pieces + i) names[name] = spec.text(setting);
        }
      }
    } else if (number === 3) {
      const spec = new Message(message.bytes(value), file);
      for (const [field, setting] of spec.fields()) if (field === 2) charsmap = spec.bytes(setting).slice();
    }
  }
  if (pieces.length === 0) message.fail("there are no pieces");
  if (model_type !== 1 && model_type !== 2) {
    throw new FormatError(`${file}: expected a unigram or BPE model, got type ${show(model_type)}`, {
      details: { file, key: "trainer_spec.model_type", got: model_type },
    });
  }
  for (const name of NAMES) {
    if (Number.isInteger(ids[name]) && ids[name] < pieces.length) continue;
    throw new FormatError(`${file}: ${name}_id is ${show(ids[name])}, of ${pieces.length} pieces`, {
      details: { file, key: `trainer_spec.${name}_id` },
    });
  }
  return { file, model_type: model_type === 1 ? "unigram" : "bpe", pieces, byte_fallback, ids, names, charsmap };
}
