// Op signatures: one line serves as documentation, check, shape rule, and the tag that a backend must match.
//
//   linear: x[..,K]:f32 weight[N,K]:f32|f16|bf16 bias[N]:f32? ; act:i32 -> y[..,N]:f32
//
// operand  = name [dims] :dtypes flags      dims: names bind, numbers must match, `..` stands for any leading dims
// dtypes   = one or several, separated by `|`; an output may say `=x` for "the dtype of operand x"
// flags    = `?` optional   `!` written in place   `!!` in place and completely   `!+` sticky flags: may only be set, and
//            survive a failed command   `~` may be strided (its last dim must still be contiguous)
//            `@` may be in the device's own panel layout
// attrs    = after `;`: name:i32 or name:f32, passed as one word each
// This file parses and checks; it knows nothing of devices or of what an op computes.

import { DTYPES, type DType } from "./dtype.js";
import { DTypeError, OctavoError, ShapeError } from "./errors.js";

export interface OperandSpec {
  readonly name: string;
  /** Dim names and literals, leading `..` removed. */
  readonly dims: readonly (string | number)[];
  /** Slot of each named dim in the binding table, or -1 - literal. */
  readonly slots: readonly number[];
  readonly leading: boolean;
  readonly dtypes: readonly DType[];
  /** For outputs: index of the input whose dtype it takes, or -1. */
  readonly sameAs: number;
  readonly optional: boolean;
  readonly mutated: boolean;
  /** Every element is overwritten: the old contents do not matter. */
  readonly replaced: boolean;
  /** Sticky flags, written in place: they survive failed commands, and no command depends on them. */
  readonly marked: boolean;
  readonly strided: boolean;
  readonly panels: boolean;
}

export interface AttrSpec {
  readonly name: string;
  readonly type: "i32" | "f32";
}

/** What a check needs to know of a tensor. */
export interface OperandLike {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly contiguous: boolean;
  readonly panels: boolean;
}

export class Signature {
  readonly text: string;
  readonly op: string;
  readonly inputs: readonly OperandSpec[];
  readonly attrs: readonly AttrSpec[];
  readonly outputs: readonly OperandSpec[];
  readonly #slotNames: readonly string[];
  readonly #bound: Float64Array;
  #leading: readonly number[] = [];

  constructor(text: string) {
    const slots = new Map<string, number>();
    const colon = text.indexOf(":");
    const arrow = text.lastIndexOf("->");
    if (colon < 0 || arrow < 0) throw bad(text, "needs `name:` and `->`");
    this.text = text.replace(/\s+/g, " ").trim();
    this.op = text.slice(0, colon).trim();
    const [operands = "", attrs = ""] = text.slice(colon + 1, arrow).split(";");
    const names: string[] = [];
    const parse = (word: string): OperandSpec => parseOperand(text, word, slots, names);
    this.inputs = words(operands).map((word) => {
      const spec = parse(word);
      names.push(spec.name);
      return spec;
    });
    this.attrs = words(attrs).map((word) => {
      const [name = "", type = ""] = word.split(":");
      if (type !== "i32" && type !== "f32") throw bad(text, `attribute ${word} must be i32 or f32`);
      return { name, type };
    });
    this.outputs = words(text.slice(arrow + 2)).map(parse);
    for (const { name, optional, mutated, strided, panels } of this.outputs) {
      if (optional || mutated || strided || panels) throw bad(text, `output \`${name}\` takes no flags`);
    }
    this.#slotNames = [...slots.keys()];
    this.#bound = new Float64Array(slots.size);
  }

  /**
   * Checks inputs and binds dims; the bindings hold until the next call.
   * @throws ShapeError, DTypeError naming op, operand, wanted and got.
   */
  bind(inputs: readonly (OperandLike | undefined)[]): void {
    const bound = this.#bound.fill(-1);
    this.#leading = [];
    let leadingFrom = "";
    if (inputs.length > this.inputs.length) {
      throw new ShapeError(`${this.op}: takes ${this.inputs.length} operands, got ${inputs.length}`);
    }
    for (let i = 0; i < this.inputs.length; i++) {
      const spec = this.inputs[i]!;
      const tensor = inputs[i];
      if (tensor === undefined) {
        if (spec.optional) continue;
        throw new ShapeError(`${this.op}: operand \`${spec.name}\` is missing`);
      }
      if (!spec.dtypes.includes(tensor.dtype)) this.#failDType(spec, tensor);
      if (!spec.strided && !tensor.contiguous) {
        throw new ShapeError(`${this.op}: operand \`${spec.name}\` must be contiguous`, {
          hint: "copy it to contiguous memory first",
        });
      }
      if (tensor.panels && !spec.panels) {
        throw new ShapeError(`${this.op}: operand \`${spec.name}\` must be in rows, not in a device's panel layout`, {
          hint: "unpack it first",
        });
      }
      const { shape } = tensor;
      const { slots } = spec;
      const extra = shape.length - slots.length;
      if (extra < 0 || (extra > 0 && !spec.leading)) this.#failShape(spec, tensor, leadingFrom);
      if (spec.leading) {
        if (leadingFrom === "") {
          this.#leading = extra === 0 ? [] : shape.slice(0, extra);
          leadingFrom = spec.name;
        } else {
          if (extra !== this.#leading.length) this.#failShape(spec, tensor, leadingFrom);
          for (let d = 0; d < extra; d++) {
            if (shape[d] !== this.#leading[d]) this.#failShape(spec, tensor, leadingFrom);
          }
        }
      }
      for (let d = 0; d < slots.length; d++) {
        const slot = slots[d]!;
        const size = shape[extra + d]!;
        if (slot < 0) {
          if (size !== -1 - slot) this.#failShape(spec, tensor, leadingFrom);
        } else if (bound[slot] === -1) bound[slot] = size;
        else if (bound[slot] !== size) this.#failShape(spec, tensor, leadingFrom);
      }
    }
  }

  /** The size bound to a dim name by the last `bind`. */
  dim(name: string): number {
    const slot = this.#slotNames.indexOf(name);
    const size = slot < 0 ? -1 : this.#bound[slot]!;
    if (size === -1) throw bad(this.text, `dim ${name} is not bound`);
    return size;
  }

  /** Shape of output `index` after `bind`. */
  outputShape(index: number): number[] {
    const spec = this.outputs[index]!;
    const shape = spec.leading ? this.#leading.slice() : [];
    for (let d = 0; d < spec.slots.length; d++) {
      const slot = spec.slots[d]!;
      const size = slot < 0 ? -1 - slot : this.#bound[slot]!;
      if (size === -1) throw bad(this.text, `dim ${String(spec.dims[d])} of output \`${spec.name}\` is not bound`);
      shape.push(size);
    }
    return shape;
  }

  /** All dims bound by the last `bind`, by name. */
  dims(): Record<string, number> {
    const dims: Record<string, number> = {};
    this.#slotNames.forEach((name, slot) => {
      if (this.#bound[slot]! >= 0) dims[name] = this.#bound[slot]!;
    });
    return dims;
  }

  /**
   * Rejects outputs that cannot be allocated: those without a known dtype, or (unless `shaped`: a function gives the shapes)
   * with a dim that no required operand binds.
   * @throws OctavoError
   */
  checkOutputs(shaped: boolean): void {
    const required = this.inputs.filter(({ optional }) => !optional);
    const bound = new Set(required.flatMap(({ dims }) => dims));
    for (const { name, dims, dtypes, sameAs, leading } of this.outputs) {
      if (sameAs >= 0 ? this.inputs[sameAs]!.optional : dtypes.length !== 1) {
        throw bad(this.text, `the dtype of output \`${name}\` is not known from the operands that are always there`);
      }
      if (shaped) continue;
      const unknown = dims.find((dim) => typeof dim === "string" && !bound.has(dim));
      if (unknown !== undefined || (leading && !required.some((input) => input.leading))) {
        throw bad(this.text, `${unknown ?? ".."} of output \`${name}\` is bound by no operand that is always there`);
      }
    }
  }

  /** Dtype of output `index`, given the inputs of the last `bind`. */
  outputDType(index: number, inputs: readonly (OperandLike | undefined)[]): DType {
    const spec = this.outputs[index]!;
    return spec.sameAs >= 0 ? inputs[spec.sameAs]!.dtype : spec.dtypes[0]!;
  }

  #failDType(spec: OperandSpec, got: OperandLike): never {
    throw new DTypeError(`${this.op}: operand \`${spec.name}\` wants ${spec.dtypes.join(" or ")}, got ${got.dtype}`, {
      details: { op: this.op, operand: spec.name, expected: spec.dtypes.join("|"), got: got.dtype },
    });
  }

  #failShape(spec: OperandSpec, got: OperandLike, leadingFrom: string): never {
    const dims = spec.dims.map((dim, d) => {
      const slot = spec.slots[d]!;
      const size = slot < 0 ? -1 : this.#bound[slot]!;
      return typeof dim === "string" && size >= 0 ? `${dim}=${size}` : String(dim);
    });
    if (spec.leading) dims.unshift(leadingFrom && leadingFrom !== spec.name ? `..=${this.#leading.join(",")}` : "..");
    throw new ShapeError(
      `${this.op}: operand \`${spec.name}\` wants [${dims.join(", ")}], got [${got.shape.join(", ")}]`,
      {
        details: { op: this.op, operand: spec.name, expected: dims.join(","), got: got.shape.join(",") },
        hint: `signature: ${this.text}`,
      },
    );
  }
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word.length > 0);
}

function bad(text: string, why: string): OctavoError {
  return new OctavoError("ERR_SIGNATURE", `signature "${text}": ${why}`);
}

const OPERAND = /^(\w+)\[([^\]]*)\](?::(=?[\w|]+))?([?!+~@]*)$/;

function parseOperand(text: string, word: string, slots: Map<string, number>, inputs: readonly string[]): OperandSpec {
  const match = OPERAND.exec(word);
  if (!match) throw bad(text, `cannot read operand "${word}"`);
  const [, name = "", dimText = "", types = "f32", flags = ""] = match;
  const parts = dimText.split(",").filter((part) => part.length > 0);
  const leading = parts[0] === "..";
  const dims = (leading ? parts.slice(1) : parts).map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  const slotList = dims.map((dim) => {
    if (typeof dim === "number") return -1 - dim;
    if (!slots.has(dim)) slots.set(dim, slots.size);
    return slots.get(dim)!;
  });
  const sameAs = types.startsWith("=") ? inputs.indexOf(types.slice(1)) : -1;
  if (types.startsWith("=") && sameAs < 0) throw bad(text, `output "${word}" names an unknown operand`);
  const dtypes = sameAs >= 0 ? [] : (types.split("|") as DType[]);
  for (const dtype of dtypes) if (!DTYPES.includes(dtype)) throw bad(text, `unknown dtype ${dtype}`);
  return {
    name,
    dims,
    slots: slotList,
    leading,
    dtypes,
    sameAs,
    optional: flags.includes("?"),
    mutated: flags.includes("!"),
    replaced: flags.includes("!!"),
    marked: flags.includes("!+"),
    strided: flags.includes("~"),
    panels: flags.includes("@"),
  };
}
