// What quantization does to a model: the outliers in the inputs of its linears, and the error that each way to quantize makes on
// their outputs and on the logits. The model stays as it is loaded: matrices are quantized for one product at a time, so the memory
// is that of the model, one matrix more, and on the host the inputs of all linears of one window.

import { OptionError, throwIfAborted } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { PreTrainedModel } from "../generate/model.js";
import { quantizedModules } from "../load/storage.js";
import { Linear, plainBytes } from "../nn/module.js";
import type { FloatDType, MatrixShape } from "../nn/weight.js";
import { add } from "../ops/add.js";
import { multiply } from "../ops/gated.js";
import type { LinearOptions } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { type Method, type MethodName, methodsOf } from "./explain-methods.js";
import { logitsGap } from "./logits-gap.js";
import { StandIn } from "./stand-in.js";

export interface ExplainOptions {
  /** Tokens that the model sees at once (default: 512); windows do not overlap. */
  window?: number;
  /** Magnitude from which an activation is an outlier (default: 6, as LLM.int8() has it). */
  threshold?: number;
  /** Dtype of what is not quantized, for the bytes that are told (default: the model's). */
  dtype?: FloatDType;
  signal?: AbortSignal;
  /** Called with the finished share, 0 to 1. */
  progress?: (done: number) => void;
}

/** A column of a linear's inputs that holds outliers. */
export interface OutlierColumn {
  readonly column: number;
  /** Share of the tokens that have an outlier there, 0 to 1. */
  readonly share: number;
  /** The largest magnitude. */
  readonly largest: number;
}

export interface LinearFacts {
  /** In the tree, which is that of the checkpoint. */
  readonly path: string;
  readonly shape: MatrixShape;
  /** Matrices of a stack. */
  readonly experts: number;
  /** The largest magnitude of its inputs. */
  readonly largest: number;
  readonly outlier_columns: number;
  /** Share of the tokens with an outlier in any column. */
  readonly outlier_share: number;
  /** The columns with the largest outliers, at most 32. */
  readonly columns: readonly OutlierColumn[];
  /** Relative error of its products, |y' - y| / |y| over all tokens. */
  readonly errors: Readonly<Record<MethodName, number>>;
  readonly bytes: Readonly<Record<MethodName, number>>;
}

export interface MethodFacts {
  readonly name: MethodName;
  readonly title: string;
  /** Root mean square of the linears' relative errors. */
  readonly error: number;
  /** Mean over the tokens of KL(p || p'), in nats. */
  readonly kl: number;
  /** Relative error of the logits. */
  readonly logits_error: number;
  /** Share of the tokens after which the most likely one stays the same. */
  readonly same_top: number;
  /** Bytes of all weights of the model. */
  readonly bytes: number;
}

export interface Explanation {
  readonly tokens: number;
  readonly threshold: number;
  /** Bytes of all weights, not quantized. */
  readonly bytes: number;
  readonly methods: readonly MethodFacts[];
  /** The linears that quantization applies to, in the order of the tree. */
  readonly linears: readonly LinearFacts[];
}

/** Columns that are told of a linear. */
const MOST_COLUMNS = 32;

/** What is gathered of one linear, over all windows. */
class Gathered {
  readonly path: string;
  readonly linear: Linear;
  tokens = 0;
  outlier_tokens = 0;
  /** By column. */
  readonly counts: Int32Array;
  readonly largest: Float32Array;
  /** Sums of squares: of the outputs, and of each method's errors. */
  norm = 0;
  readonly off: number[];

  constructor(path: string, linear: Linear, methods: number) {
    this.path = path;
    this.linear = linear;
    const inputs = linear.weight.shape[1];
    this.counts = new Int32Array(inputs);
    this.largest = new Float32Array(inputs);
    this.off = new Array<number>(methods).fill(0);
  }

  /** Adds rows of inputs. */
  see(x: Float32Array, threshold: number): void {
    const { counts, largest } = this;
    const columns = counts.length;
    for (let at = 0; at < x.length; at += columns) {
      let outliers = 0;
      for (let k = 0; k < columns; k++) {
        const size = Math.abs(x[at + k]!);
        if (size > largest[k]!) largest[k] = size;
        if (size < threshold) continue;
        counts[k]!++;
        outliers++;
      }
      this.tokens++;
      if (outliers > 0) this.outlier_tokens++;
    }
  }

  facts(methods: readonly Method[]): LinearFacts {
    const { path, linear, counts, largest, tokens, norm } = this;
    const { shape, experts } = linear.weight;
    const marked = [...counts.keys()].filter((k) => counts[k]! > 0).sort((a, b) => largest[b]! - largest[a]!);
    return {
      path,
      shape,
      experts,
      largest: largest.reduce((most, one) => Math.max(most, one), 0),
      outlier_columns: marked.length,
      outlier_share: this.outlier_tokens / (tokens || 1),
      columns: marked.slice(0, MOST_COLUMNS).map((column) => ({
        column,
        share: counts[column]! / tokens,
        largest: largest[column]!,
      })),
      errors: byMethod(methods, (_, i) => Math.sqrt(this.off[i]! / (norm || 1))),
      bytes: byMethod(methods, (method) => method.bytes(shape, experts)),
    };
  }
}

function byMethod(
  methods: readonly Method[],
  value: (method: Method, i: number) => number,
): Record<MethodName, number> {
  return Object.fromEntries(methods.map((method, i) => [method.name, value(method, i)])) as Record<MethodName, number>;
}

/**
 * Compares ways to quantize a model on a text.
 * @param model with its linears in floats; float32 gives the errors against exact products
 * @param ids tokens of the text
 * @throws OptionError for a text of fewer than two tokens, and a model whose linears are quantized or have adapters; OctavoError
 * while it generates; AbortError
 */
export async function explain(
  model: PreTrainedModel,
  ids: ArrayLike<number>,
  options: ExplainOptions = {},
): Promise<Explanation> {
  const { window = 512, threshold = 6, dtype = model.dtype, signal, progress } = options;
  if (ids.length < 2) throw new OptionError(`explain needs at least two tokens, got ${ids.length}`);
  if (!(window >= 2 && window <= 512)) throw new OptionError(`window must be from 2 to 512, got ${window}`);
  if (!(threshold > 0)) throw new OptionError(`threshold must be above 0, got ${threshold}`);
  const methods = methodsOf(threshold);
  const gathered = linearsOf(model).map(([path, linear]) => new Gathered(path, linear, methods.length));
  const gaps = methods.map(() => ({ kl: 0, off: 0, norm: 0, same: 0 }));
  const windows = Math.ceil(ids.length / window);
  let done = 0;
  const step = (): void => {
    throwIfAborted(signal, "explaining");
    progress?.(++done / (windows * (1 + methods.length)));
  };
  model.hold();
  try {
    for (let at = 0; at < ids.length; at += window) {
      const part = Array.from({ length: Math.min(window, ids.length - at) }, (_, i) => ids[at + i]!);
      using exact = await observe(model, gathered, methods, threshold, part);
      step();
      for (const [i, method] of methods.entries()) {
        using logits = standingIn(gathered, method.product, () => forward(model, part));
        const gap = await logitsGap(exact, logits);
        for (const key of ["kl", "off", "norm", "same"] as const) gaps[i]![key] += gap[key];
        step();
      }
    }
  } finally {
    await model.release();
  }
  const linears = gathered.map((one) => one.facts(methods));
  return {
    tokens: ids.length,
    threshold,
    bytes: bytesIn(model, gathered, dtype),
    linears,
    methods: methods.map(({ name, title }, i) => ({
      name,
      title,
      error: Math.sqrt(linears.reduce((sum, { errors }) => sum + errors[name] ** 2, 0) / (linears.length || 1)),
      kl: gaps[i]!.kl / ids.length,
      logits_error: Math.sqrt(gaps[i]!.off / (gaps[i]!.norm || 1)),
      same_top: gaps[i]!.same / ids.length,
      bytes: bytesIn(model, gathered, dtype, (one) => methods[i]!.bytes(one.weight.shape, one.weight.experts)),
    })),
  };
}

/** The linears that quantization applies to. @throws OptionError unless all are floats, without adapters */
function linearsOf({ module }: PreTrainedModel): [string, Linear][] {
  const paths = new Set(quantizedModules(module, null));
  const linears = [...module.named_modules()].filter(
    (entry): entry is [string, Linear] => paths.has(entry[0]) && entry[1] instanceof Linear && entry[1].weight.filled,
  );
  for (const [path, { weight }] of linears) {
    if (weight.weight.scheme === "dense" && weight.weight === weight.inner) continue;
    throw new OptionError(`explain needs the original weights: ${path} is stored as ${weight.weight.scheme}`, {
      hint: "load the model that was quantized, without adapters",
    });
  }
  return linears;
}

/** Bytes of all weights, with those of the linears as `bytes` says (default: floats too). */
function bytesIn(
  { module }: PreTrainedModel,
  gathered: readonly Gathered[],
  dtype: FloatDType,
  bytes?: (linear: Linear) => number,
): number {
  const own = new Map(gathered.map(({ linear }) => [linear.weight, linear]));
  let sum = 0;
  for (const parameter of module.parameters()) {
    const linear = bytes && own.get(parameter as Linear["weight"]);
    sum += linear ? bytes(linear) : plainBytes(parameter, dtype);
  }
  return sum;
}

/** Logits f32[T,vocab] of a text. */
function forward(model: PreTrainedModel, part: number[]): Tensor {
  const { logits } = model.forward({ input_ids: [part] });
  using whole = logits;
  return scope(() => whole.view(part.length, -1).alias().keep());
}

/** Runs `body` with other products in the linears. */
function standingIn<T>(
  gathered: readonly Gathered[],
  product: (x: Tensor, weight: Linear["weight"]["weight"], options: LinearOptions | undefined, one: Gathered) => Tensor,
  body: () => T,
): T {
  let wrapped = 0;
  try {
    for (const one of gathered) {
      one.linear.weight.wrap((inner) => new StandIn(inner, (x, _, options) => product(x, inner, options, one)));
      wrapped++;
    }
    return body();
  } finally {
    for (const { linear } of gathered.slice(0, wrapped)) linear.weight.unwrap();
  }
}

/** Runs a window through the model as it is, and gathers inputs and errors of its linears. @returns the logits */
async function observe(
  model: PreTrainedModel,
  gathered: readonly Gathered[],
  methods: readonly Method[],
  threshold: number,
  part: number[],
): Promise<Tensor> {
  const reads: Promise<void>[] = [];
  /** Of inputs that several linears share. */
  const seen = new Map<Tensor, Promise<Float32Array>>();
  const hear = (x: Tensor, take: (values: Float32Array) => void): void => {
    reads.push(x.readFloats().then(take));
    x.dispose();
  };
  let logits: Tensor | undefined;
  try {
    logits = standingIn(
      gathered,
      (x, inner, options, one) => {
        const input = seen.get(x) ?? x.readFloats();
        seen.set(x, input);
        reads.push(input.then((values) => one.see(values, threshold)));
        // The product alone: with bias and residual an error would look smaller than it is.
        const plain = options?.experts ? { experts: options.experts } : undefined;
        const squares = scope(() => {
          const y = inner.linear(x, plain);
          const errors = methods.map((method) => {
            const off = add(method.product(x, inner, plain), scale(y, -1));
            return sumRows(multiply(off, off));
          });
          return [sumRows(multiply(y, y)), ...errors].map((tensor) => tensor.alias().keep());
        });
        for (const [i, tensor] of squares.entries()) {
          hear(tensor, (values) => {
            const sum = values.reduce((total, value) => total + value, 0);
            if (i === 0) one.norm += sum;
            else one.off[i - 1]! += sum;
          });
        }
        return inner.linear(x, options);
      },
      () => forward(model, part),
    );
    await Promise.all(reads);
    return logits;
  } catch (error) {
    logits?.dispose();
    await Promise.allSettled(reads);
    throw error;
  }
}
