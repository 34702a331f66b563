// The part of the ONNX protobuf that a model file needs, encoded by hand: nodes, initializers (inline or in a data file
// beside the model), inputs and outputs. Field numbers are onnx.proto's.

/** @param {number} value */
function varint(value) {
  const bytes = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

/** @param {number} field @param {number} value */
const int = (field, value) => Buffer.concat([varint(field * 8), varint(value)]);
/** @param {number} field @param {number} value */
const float = (field, value) => {
  const b = Buffer.alloc(4);
  b.writeFloatLE(value);
  return Buffer.concat([varint(field * 8 + 5), b]);
};
/** @param {number} field @param {Uint8Array | string} value */
const bytes = (field, value) => {
  const b = typeof value === "string" ? Buffer.from(value) : value;
  return Buffer.concat([varint(field * 8 + 2), varint(b.length), b]);
};
/** @param {number} field @param {Uint8Array[]} parts */
const message = (field, ...parts) => bytes(field, Buffer.concat(parts));

/** TensorProto.DataType */
export const ELEMENT = { f32: 1, u8: 2, i8: 3, i32: 6, i64: 7 };

/** Attributes: whole numbers are INT, `{ f: x }` is FLOAT. @param {[string, number | { f: number }]} entry */
const attribute = ([name, value]) =>
  typeof value === "number"
    ? message(5, bytes(1, name), int(3, value), int(20, 2))
    : message(5, bytes(1, name), float(2, value.f), int(20, 1));

/** @param {number} field @param {string} name @param {number} type @param {(number | string)[]} dims */
function value(field, name, type, dims) {
  const shape = dims.map((d) => message(1, typeof d === "number" ? int(1, d) : bytes(2, d)));
  return message(field, bytes(1, name), message(2, message(1, int(1, type), message(2, ...shape))));
}

/** A graph under construction. */
export class Graph {
  /** @type {Uint8Array[]} */
  #parts = [];
  #count = 0;
  #dataFile;
  /** Tensors of the data file, in order: format (bytes.mjs) and elements. @type {[string, number][]} */
  data = [];
  #offset = 0;

  /** @param {string} dataFile Name of the file beside the model. */
  constructor(dataFile) {
    this.#dataFile = dataFile;
  }

  /**
   * Adds a node; gives its (first) output's name.
   * @param {string} op @param {string[]} inputs
   * @param {{ domain?: string, outputs?: string[], [attribute: string]: any }} options
   */
  node(op, inputs, { domain = "", outputs, ...attributes } = {}) {
    const id = this.#count++;
    const results = outputs ?? [`${op}_${id}`];
    this.#parts.push(
      message(
        1,
        ...inputs.map((name) => bytes(1, name)),
        ...results.map((name) => bytes(2, name)),
        bytes(3, `n${id}`),
        bytes(4, op),
        ...Object.entries(attributes).map(attribute),
        ...(domain ? [bytes(7, domain)] : []),
      ),
    );
    return results[0];
  }

  /** A small constant inside the model file. @param {string} name @param {number} type @param {number[]} dims @param {ArrayBufferView} values */
  constant(name, type, dims, values) {
    const raw = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    this.#parts.push(message(5, ...dims.map((d) => int(1, d)), int(2, type), bytes(8, name), bytes(9, raw)));
    return name;
  }

  /**
   * A large one in the data file, of random values.
   * @param {string} name @param {number} type @param {number[]} dims @param {string} format @param {number} length Bytes.
   */
  random(name, type, dims, format, length) {
    const place = { location: this.#dataFile, offset: `${this.#offset}`, length: `${length}` };
    const external = Object.entries(place).map(([key, text]) => message(13, bytes(1, key), bytes(2, text)));
    this.#parts.push(message(5, ...dims.map((d) => int(1, d)), int(2, type), bytes(8, name), ...external, int(14, 1)));
    this.data.push([format, length]);
    // Whole pages, so that the runtime may map them.
    this.#offset += Math.ceil(length / 4096) * 4096;
    return name;
  }

  /** @param {string} name @param {number} type @param {(number | string)[]} dims */
  input(name, type, dims) {
    this.#parts.push(value(11, name, type, dims));
    return name;
  }

  /** @param {string} name @param {number} type @param {(number | string)[]} dims */
  output(name, type, dims) {
    this.#parts.push(value(12, name, type, dims));
    return name;
  }

  /** The ModelProto. */
  encode() {
    return Buffer.concat([
      int(1, 10),
      bytes(2, "octavo bench"),
      message(7, bytes(2, "llama"), ...this.#parts),
      message(8, bytes(1, ""), int(2, 21)),
      message(8, bytes(1, "com.microsoft"), int(2, 1)),
    ]);
  }
}
