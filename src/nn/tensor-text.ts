// Tensors as text: values in the layout in which torch prints them, then shape, dtype and device.

import { type HostArray, isFloat, torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { number, type Options, readOptions, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import { StateTensor, stateTensor } from "./state.js";

const TEXT = {
  /** Digits after the point (default: 4). */
  precision: number((n) => Number.isInteger(n) && n >= 0 && n <= 20, "a whole number from 0 to 20"),
  /** A tensor of more elements is printed in part (default: 1000). */
  threshold: whole(0),
  /** How much of each end of a dim is printed then (default: 3). */
  edgeitems: whole(1),
  /** Characters of a line (default: 80). */
  linewidth: whole(1),
};

export interface TextOptions extends Options<typeof TEXT> {}

type Settings = Required<TextOptions>;

/**
 * The values of a tensor as torch prints them, with its shape, dtype and device:
 * "tensor([[ 1.0000, -2.5000]], device='cpu', size=(1, 2), dtype=torch.float32)". Waits for the values.
 * @throws OptionError if it is no tensor; what reading it throws
 */
export async function text(tensor: Tensor | StateTensor, options: TextOptions = {}): Promise<string> {
  const defaults = { precision: 4, threshold: 1000, edgeitems: 3, linewidth: 80 };
  const settings: Settings = { ...defaults, ...readOptions("text", TEXT, options) };
  if (!Tensor.is(tensor) && !StateTensor.is(tensor)) {
    throw new OptionError(`text: it takes a Tensor, got ${show(tensor)}`);
  }
  const facts = Tensor.is(tensor)
    ? [`device='${tensor.device.name}'`, sizeOf(tensor.shape), `dtype=${nameOf(tensor)}`]
    : [sizeOf(tensor.shape), `dtype=${STORED[tensor.dtype] ?? tensor.dtype}`];
  const stored = Tensor.is(tensor) ? stateTensor(tensor) : tensor;
  const values = await stored.read();
  const floats = /^B?F\d/.test(stored.dtype);
  const body = values.length === 0 ? "[]" : layout(values, stored.shape, floats, settings);
  return `tensor(${body}${facts.map((fact) => `, ${fact}`).join("")})`;
}

const STORED: Readonly<Record<string, string>> = {
  ...{ F32: "torch.float32", F16: "torch.float16", BF16: "torch.bfloat16", F64: "torch.float64" },
  ...{ I8: "torch.int8", U8: "torch.uint8", I32: "torch.int32", I64: "torch.int64", BOOL: "torch.bool" },
};

function nameOf({ dtype }: Tensor): string {
  if (isFloat(dtype)) return `torch.${torchName(dtype)}`;
  return dtype === "u4" ? "u4, two codes to a byte" : STORED[dtype.toUpperCase()]!;
}

/** Python's tuple. */
const sizeOf = (shape: readonly number[]): string => `size=(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

function layout(values: HostArray, shape: readonly number[], floats: boolean, settings: Settings): string {
  const partly = values.length > settings.threshold;
  const shown = [...shownOf(values, shape, partly ? settings.edgeitems : Number.POSITIVE_INFINITY)];
  const format = floats ? floatFormat(shown, settings) : integerFormat(shown);
  return block(values, shape, 0, 0, format, partly, settings);
}

/** Indices of a dim that are printed; undefined stands for those between. */
function indices(size: number, edge: number): (number | undefined)[] {
  const all = Array.from({ length: Math.min(size, 2 * edge) }, (_, i) => i);
  if (size <= 2 * edge) return Array.from({ length: size }, (_, i) => i);
  return [...all.slice(0, edge), undefined, ...all.slice(0, edge).map((i) => size - edge + i)];
}

function* shownOf(values: HostArray, shape: readonly number[], edge: number, at = 0): Iterable<number> {
  const [size, ...rest] = shape;
  if (size === undefined) {
    yield values[at]!;
    return;
  }
  const step = rest.reduce((n, one) => n * one, 1);
  for (const i of indices(size, edge)) if (i !== undefined) yield* shownOf(values, rest, edge, at + i * step);
}

type Format = (value: number) => string;

const special = (value: number): string => (Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf");

function integerFormat(shown: readonly number[]): Format {
  const width = shown.reduce((most, value) => Math.max(most, String(value).length), 1);
  return (value) => String(value).padStart(width);
}

/** Whole numbers as "1.", others with `precision` digits; in powers of ten if they differ too much in size. */
function floatFormat(shown: readonly number[], { precision }: Settings): Format {
  const sizes = shown.filter((value) => Number.isFinite(value) && value !== 0).map(Math.abs);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const whole = sizes.every((value) => value === Math.ceil(value));
  const powers = sizes.length > 0 && (most / least > 1000 || most > 1e8 || (!whole && least < 1e-4));
  const write: Format = (value) => {
    if (!Number.isFinite(value)) return special(value);
    if (powers) return exponential(value, precision).replace(/e([+-])(\d)$/, "e$10$2");
    return whole ? `${value.toFixed(0)}.` : fixed(value, precision);
  };
  const signed: Format = (value) => (Object.is(value, -0) ? `-${write(0)}` : write(value));
  const counted = shown.filter((value) => Number.isFinite(value) && value !== 0);
  const width = counted.reduce((widest, value) => Math.max(widest, signed(value).length), 1);
  return (value) => signed(value).padStart(width);
}

const fixed = halfEven((value, digits) => value.toFixed(digits));
const exponential = halfEven((value, digits) => value.toExponential(digits));

/** JavaScript rounds a number in the middle between two texts up; C, and with it Python, to the even one. */
function halfEven(write: (value: number, digits: number) => string): (value: number, digits: number) => string {
  return (value, digits) => {
    const [mantissa = "", power = ""] = write(value, digits + 1).split(/(?=e)/);
    const middle = Number(mantissa + power) === value && mantissa.endsWith("5") && /[02468]\.?.$/.test(mantissa);
    return middle ? mantissa.slice(0, -1).replace(/\.$/, "") + power : write(value, digits);
  };
}

function block(
  values: HostArray,
  shape: readonly number[],
  at: number,
  depth: number,
  format: Format,
  partly: boolean,
  settings: Settings,
): string {
  const [size, ...rest] = shape;
  if (size === undefined) return format(values[at]!);
  const edge = partly ? settings.edgeitems : Number.POSITIVE_INFINITY;
  const step = rest.reduce((n, one) => n * one, 1);
  const indent = "tensor(".length + depth + 1;
  if (rest.length > 0) {
    const parts = indices(size, edge).map((i) =>
      i === undefined ? "..." : block(values, rest, at + i * step, depth + 1, format, partly, settings),
    );
    return `[${parts.join(`,${"\n".repeat(rest.length)}${" ".repeat(indent)}`)}]`;
  }
  const items = indices(size, edge).map((i) => (i === undefined ? " ..." : format(values[at + i]!)));
  const each = Math.max(1, Math.floor((settings.linewidth - indent + 1) / (format(values[at]!).length + 2)));
  const lines: string[] = [];
  for (let i = 0; i < items.length; i += each) lines.push(items.slice(i, i + each).join(", "));
  return `[${lines.join(`,\n${" ".repeat(indent)}`)}]`;
}
