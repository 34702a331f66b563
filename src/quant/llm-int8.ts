// LLM.int8() as a weight: int8 codes with one absmax per output row, activations quantized per row with their outliers
// taken out (Dettmers et al. 2022). The arithmetic is in ops/llm-int8.ts.

import type { Device } from "../core/device.js";
import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { kept, scope, Tensor } from "../core/tensor.js";
import { dividedBy, elementsOn, joinMatrices, joinVectors, type RowPiece, rowsOn } from "../nn/divide.js";
import {
  chosenExperts,
  copied,
  type FloatDType,
  joinedShape,
  type MatrixShape,
  movedMatrix,
  noExperts,
  noStack,
  PANEL_ROWS,
  readRows,
  type Scheme,
  type StoredRows,
  stackOf,
  type Weight,
  type WeightPart,
} from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import { llmInt8ExpertLinear } from "../ops/experts.js";
import type { Compute, LinearOptions } from "../ops/linear.js";
import { llmInt8Dequantize, llmInt8Embedding, llmInt8Linear, llmInt8Quantize } from "../ops/llm-int8.js";
import { pack } from "../ops/pack.js";

class LlmInt8Weight implements Weight {
  readonly shape: MatrixShape;
  readonly scheme = "llm_int8";
  readonly experts: number;
  readonly threshold: number;
  /** How gradients through it may round. */
  readonly backward: Compute;
  /** i8[N,K] */
  readonly codes: Tensor;
  /** f32[N]: row absmax. */
  readonly scb: Tensor;
  /** u8[K]: 1 where any activation has been an outlier since the weight was made. */
  readonly seen: Tensor;

  constructor(codes: Tensor, scb: Tensor, seen: Tensor, threshold: number, backward: Compute, experts: number) {
    this.experts = experts;
    this.shape = codes.shape as MatrixShape;
    this.codes = codes;
    this.scb = scb;
    this.seen = seen;
    this.threshold = threshold;
    this.backward = backward;
  }

  get alike(): Scheme {
    return llmInt8Scheme(this.threshold, this.backward);
  }

  get nbytes(): number {
    return this.tensors.reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  get footprint(): number {
    return this.shape[0] * this.shape[1];
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    const { experts, seen, threshold, backward } = this;
    if (experts === 1) {
      noExperts(options);
      return llmInt8Linear(x, this, options);
    }
    const chosen = chosenExperts(options);
    return scope(() => {
      const codes = this.codes.view(experts, -1, this.shape[1]);
      return llmInt8ExpertLinear(x, { codes, scb: this.scb.view(experts, -1), seen, threshold, backward }, chosen);
    });
  }

  rows(ids: Tensor): Tensor {
    noStack(this.experts);
    return llmInt8Embedding(this.codes, this.scb, ids);
  }

  async parts(name: string, at = 0, rows = this.shape[0]): Promise<readonly WeightPart[]> {
    const { SCB, weight_format } = namesOf(name);
    return [
      { name, dtype: "I8", shape: [rows, this.shape[1]], bytes: () => readRows(this.codes, at, rows) },
      { name: SCB, dtype: "F32", shape: [rows], bytes: () => readRows(this.scb, at, rows) },
      { name: weight_format, dtype: "U8", shape: [], bytes: async () => Uint8Array.of(ROW_FORMAT) },
    ];
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => contiguous(llmInt8Dequantize(this.codes, this.scb), dtype));
  }

  async statistics(): Promise<{ outlier_columns: number }> {
    let outlier_columns = 0;
    for (const mark of await this.seen.read()) outlier_columns += mark;
    return { outlier_columns };
  }

  moved(to: Device): Weight {
    const { codes, experts, shape, scb, seen } = this;
    const there = kept(() => ({
      codes: movedMatrix(codes, () => stackOf(to, shape, "i8", "llm_int8", experts)),
      scb: copied(scb, to),
      seen: copied(seen, to),
    }));
    return new LlmInt8Weight(there.codes, there.scb, there.seen, this.threshold, this.backward, experts);
  }

  get divisor(): number | undefined {
    return this.experts === 1 ? PANEL_ROWS : undefined;
  }

  divided(pieces: readonly RowPiece[]): Weight[] {
    return dividedBy(this.codes, pieces, (rows, piece) => {
      const there = kept(() => ({
        codes: rowsOn(rows, piece, (shape) => stackOf(piece.to, shape, "i8", "llm_int8", 1)),
        scb: elementsOn(this.scb, piece.at, piece.rows, piece.to),
        seen: elementsOn(this.seen, 0, this.seen.size, piece.to),
      }));
      return new LlmInt8Weight(there.codes, there.scb, there.seen, this.threshold, this.backward, 1);
    });
  }

  joined(pieces: readonly LlmInt8Weight[], to: Device): Weight {
    const all = (role: "codes" | "scb"): Tensor[] => pieces.map((piece) => piece[role]);
    const whole = kept(() => ({
      codes: joinMatrices(all("codes"), stackOf(to, joinedShape(pieces), "i8", "llm_int8", 1)),
      scb: joinVectors(all("scb"), to),
      // All pieces have seen the same activations.
      seen: elementsOn(this.seen, 0, this.seen.size, to),
    }));
    return new LlmInt8Weight(whole.codes, whole.scb, whole.seen, this.threshold, this.backward, 1);
  }

  get tensors(): readonly Tensor[] {
    return [this.codes, this.scb, this.seen];
  }

  readonly trainable: readonly Tensor[] = [];

  dispose(): void {
    for (const tensor of this.tensors) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Codes and scales of a weight in this scheme; undefined for others. */
export function int8Parts(weight: Weight): { readonly codes: Tensor; readonly scb: Tensor } | undefined {
  return weight instanceof LlmInt8Weight ? weight : undefined;
}

/** The threshold of a weight in this scheme; undefined for others. */
export function int8Threshold(weight: Weight): number | undefined {
  return weight instanceof LlmInt8Weight ? weight.threshold : undefined;
}

/** Number of the only layout that bitsandbytes still writes: rows. */
const ROW_FORMAT = 0;
/** GPU layouts that files of bitsandbytes 0.43.1 to 0.44.1 may hold, by number. */
const OTHER_FORMATS = ["row", "col32", "col_turing", "col_ampere"];

/** Names of the tensors beside the codes called `name`: "a.b.weight" has "a.b.SCB". */
function namesOf(name: string): { readonly SCB: string; readonly weight_format: string } {
  const module = name.endsWith(".weight") ? name.slice(0, -".weight".length) : name;
  return { SCB: `${module}.SCB`, weight_format: `${module}.weight_format` };
}

/** @throws FormatError unless the codes are int8 in rows, with a scale for each */
function check({ rows, stored: { tensors }, notes }: StoredRows, inputs: number): void {
  const codes = tensors.get("weight")!;
  const scb = tensors.get("SCB")!;
  const { shape, file, name } = codes;
  const wanted = `I8 [${rows}, ${inputs}]`;
  if (codes.dtype !== "I8" || shape.length !== 2 || shape[0] !== rows || shape[1] !== inputs) {
    throw new FormatError(`tensor ${name}: expected codes ${wanted}, got ${codes.dtype} [${shape.join(", ")}]`, {
      details: { file, key: name, expected: wanted, got: `${codes.dtype} [${shape.join(", ")}]` },
    });
  }
  if (scb.shape.reduce((n, size) => n * size, 1) !== rows) {
    throw new FormatError(`tensor ${scb.name}: expected ${rows} scales, got [${scb.shape.join(", ")}]`, {
      details: { file, key: scb.name, expected: rows, got: scb.shape },
    });
  }
  const format = notes.get("weight_format");
  if (format === undefined) return;
  const text = new TextDecoder().decode(format);
  const layout = format.length === 1 ? (OTHER_FORMATS[format[0]!] ?? String(format[0])) : text;
  if (layout === "row") return;
  throw new FormatError(`${name}: codes in the layout ${show(layout)} of a GPU cannot be read`, {
    details: { file, key: tensors.get("weight_format")!.name, expected: "row", got: layout },
    hint: "save the model again with bitsandbytes 0.45 or newer, or quantize the original checkpoint",
  });
}

/**
 * @param threshold magnitude from which an activation is an outlier; 0 for none
 * @param backward "bf16" lets kernels round the operands of gradients to bf16, as in a bf16 model in Python
 */
export function llmInt8Scheme(threshold: number, backward: Compute = "f32"): Scheme {
  const allocate = (device: Device, shape: MatrixShape, label: string, experts: number): LlmInt8Weight => {
    const [outputs, inputs] = shape;
    const { codes, scb, seen } = kept(() => ({
      codes: stackOf(device, shape, "i8", label, experts),
      scb: Tensor.empty(device, [outputs], "f32", `${label} SCB`),
      seen: Tensor.from(device, new Uint8Array(inputs), [inputs], "u8", `${label} outliers`),
    }));
    return new LlmInt8Weight(codes, scb, seen, threshold, backward, experts);
  };
  const scheme: Scheme = {
    name: "llm_int8",
    bytes: ([outputs, inputs]) => outputs * inputs + 4 * outputs + inputs,
    begin(device, shape, label, experts = 1) {
      const weight = allocate(device, shape, label, experts);
      return {
        granularity: PANEL_ROWS,
        put: (rows, at) => llmInt8Quantize(rows, weight.codes, weight.scb, at),
        finish: () => weight,
        [Symbol.dispose]: () => weight.dispose(),
      };
    },
    claims(name, has) {
      const { SCB, weight_format } = namesOf(name);
      if (!has(SCB)) return undefined;
      const names = new Map([
        ["weight", name],
        ["SCB", SCB],
      ]);
      if (!has(weight_format)) return { scheme, names, notes: [] };
      return { scheme, names: names.set("weight_format", weight_format), notes: ["weight_format"] };
    },
    restore(device, shape, label, pieces, experts = 1) {
      for (const piece of pieces) check(piece, shape[1]);
      const weight = allocate(device, shape, label, experts);
      return {
        granularity: PANEL_ROWS,
        dtype: "i8",
        targets: ({ at, rows }) => [["SCB", weight.scb.narrow(0, at, rows)]],
        put: (codes, at) => pack(codes, weight.codes, at),
        finish: () => weight,
        [Symbol.dispose]: () => weight.dispose(),
      };
    },
  };
  return scheme;
}
