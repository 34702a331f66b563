// Chooses a scheme for each linear of a checkpoint so that the weights fit into a number of bytes, by the error that each scheme
// makes on each matrix. Errors are measured while the matrices stream through the device: nothing stays there.
//
// The rule. The error of a matrix W in a scheme is |W - W'|^2 / |W|^2, which is that of its products with inputs without
// structure. All matrices begin in the model's dtype. Of all steps from one scheme of a matrix to a smaller one, the step with
// the least error per byte saved is taken, again and again, until the weights fit. Then steps are taken back, the dearest first,
// where the weights still fit. A scheme that lies above the line between two others of its matrix (more error than a mixture of
// the two would make at that size) is passed over. The output head, if it has a matrix of its own, keeps 8 bits or more.

import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import { bytes as bytesText } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import { architectureOf, taskFor } from "../models/index.js";
import type { Matrix } from "../nn/module.js";
import { type Scheme, storeRows } from "../nn/weight.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { type LinearScheme, SelectiveConfig } from "../quant/selective.js";
import type { Source } from "../sources/source.js";
import { prepareModel, type StorageChoice } from "./index.js";
import { names, notQuantized, ownLinears, schemeFor } from "./linears.js";
import { itemBytes, type PlanItem } from "./plan.js";
import { readMatrix } from "./rows.js";
import { storedBytes } from "./survey.js";

/** Schemes from the largest to the smallest. */
const CANDIDATES = ["bf16", "int8", "nf4", "nf4-dq"] as const satisfies readonly LinearScheme[];
/** Of the output head. */
const OF_HEADS = CANDIDATES.slice(0, 2);
type Candidate = (typeof CANDIDATES)[number];

/** Makes the schemes of the candidates. */
const ALL = new SelectiveConfig({ default: "int8" });

/** What a scheme would cost one matrix. */
export interface Cost {
  readonly scheme: Candidate | "auto";
  readonly bytes: number;
  /** |W - W'|^2 / |W|^2 */
  readonly error: number;
}

/** The scheme chosen for one linear. */
export interface ChosenScheme extends Cost {
  readonly path: string;
}

export interface ChosenPlan {
  readonly config: SelectiveConfig;
  /** All linears, in the order of the tree. */
  readonly linears: readonly ChosenScheme[];
  /** Of all weights, in memory. */
  readonly bytes: number;
}

export interface ChooseOptions extends Pick<StorageChoice, "dtype" | "weights"> {
  readonly device: Device;
  /** Most bytes of the weights in memory. */
  readonly target_bytes: number;
  readonly signal?: AbortSignal | undefined;
  /** Called with the measured share, 0 to 1. */
  readonly progress?: ((done: number) => void) | undefined;
}

/** A linear with what each scheme would cost it, the largest first. */
interface Measured {
  readonly path: string;
  readonly costs: readonly Cost[];
}

/**
 * Measures the linears of a checkpoint, and chooses their schemes.
 * @throws OptionError for a checkpoint that is quantized already, and if its weights fit as they are, or in no scheme; AbortError;
 * what loading throws before it reads weights; FormatError
 */
export async function choosePlan(source: Source, options: ChooseOptions): Promise<ChosenPlan> {
  const { target_bytes } = options;
  const { model, planned, dtype, packed, stored } = await prepareModel(
    source,
    async (config) => taskFor(config, await architectureOf(config)),
    { dtype: options.dtype, weights: options.weights, quantization: undefined },
  );
  const say = (bytes: number): string => `${bytesText(bytes)} (${bytes} bytes)`;
  if (packed || stored) {
    throw new OptionError(`${source.location} is quantized already: there is nothing to measure errors against`);
  }
  const items = new Map(planned.items.map((item) => [item.parameter, item]));
  const dense = planned.items.reduce((sum, item) => sum + storedBytes(item, dtype), 0);
  if (dense <= target_bytes) {
    throw new OptionError(`the weights take ${say(dense)}: they fit into ${say(target_bytes)} as they are`, {
      details: { option: "target_bytes", bytes: dense },
    });
  }
  const linears = ownLinears(model).flatMap(([path, linear]) => {
    const item = items.get(linear.weight);
    return item ? [{ path, linear, item }] : [];
  });
  const costsOf = (path: string, linear: (typeof linears)[number]["linear"]): Omit<Cost, "error">[] => {
    const { shape, experts } = linear.weight;
    const allowed = names(notQuantized(model), path) ? OF_HEADS : CANDIDATES;
    const sizes = (["auto", ...allowed] as const).map((scheme) => ({
      scheme,
      bytes: schemeFor({ linear, scheme }, ALL, dtype).bytes(shape, experts),
    }));
    return sizes.filter(({ bytes }, i) => i === 0 || bytes < sizes[0]!.bytes);
  };
  const least = linears.reduce((sum, { path, linear }) => {
    const sizes = costsOf(path, linear).map(({ bytes }) => bytes);
    return sum + Math.min(...sizes) - sizes[0]!;
  }, dense);
  if (least > target_bytes) {
    throw new OptionError(`the weights do not fit into ${say(target_bytes)}: the smallest schemes take ${say(least)}`, {
      details: { option: "target_bytes", least },
    });
  }
  const total = linears.reduce((sum, { item }) => sum + itemBytes(item), 0) || 1;
  let read = 0;
  const measured: Measured[] = [];
  for (const { path, linear, item } of linears) {
    const sizes = costsOf(path, linear);
    const schemes = sizes.slice(1).map(({ scheme }) => schemeFor({ linear, scheme }, ALL, dtype));
    const errors = await errorsOf(options.device, source, item, schemes, async (bytes) => {
      throwIfAborted(options.signal, "measuring");
      options.progress?.((read += bytes) / total);
    });
    measured.push({ path, costs: sizes.map((cost, i) => ({ ...cost, error: i === 0 ? 0 : errors[i - 1]! })) });
  }
  const chosen = choose(measured, dense - target_bytes);
  const coded = chosen.filter(({ scheme }) => scheme !== "auto");
  // A path may be the end of another one: the longer one must come first to count.
  const entries = coded.map(({ path, scheme }) => [path, scheme] as const);
  entries.sort(([a], [b]) => b.split(".").length - a.split(".").length);
  return {
    config: new SelectiveConfig({ modules: Object.fromEntries(entries) }),
    linears: chosen,
    bytes: measured.reduce((sum, { costs }, i) => sum + chosen[i]!.bytes - costs[0]!.bytes, dense),
  };
}

/** The relative squared error of a matrix in each of these schemes. Scales of "-dq" are quantized piece by piece here. */
async function errorsOf(
  device: Device,
  source: Source,
  item: PlanItem,
  schemes: readonly Scheme[],
  breathe: (bytes: number) => Promise<void>,
): Promise<number[]> {
  const { shape } = item.parameter as Matrix;
  const granularity = Math.max(
    1,
    ...schemes.map((scheme) => {
      using builder = scheme.begin(device, [1, shape[1]], scheme.name);
      return builder.granularity;
    }),
  );
  const sums = new Float64Array(schemes.length);
  let norm = 0;
  const put = async (piece: Tensor): Promise<void> => {
    const squares = schemes.map((scheme) =>
      scope(() => {
        const rows = contiguous(piece, "f32");
        using weight = storeRows(scheme, rows, scheme.name);
        const off = add(weight.dense("f32"), scale(rows, -1));
        return sumRows(multiply(off, off));
      }),
    );
    const whole = scope(() => {
      const rows = contiguous(piece, "f32");
      return sumRows(multiply(rows, rows));
    });
    const [all, ...each] = await Promise.all([whole, ...squares].map(summed));
    norm += all!;
    each.forEach((sum, i) => {
      sums[i]! += sum;
    });
  };
  await readMatrix({ device, files: source, breathe }, item, () => ({ granularity, put }));
  return [...sums].map((sum) => (norm === 0 ? 0 : sum / norm));
}

/** The sum of a tensor's elements. Disposes it. */
async function summed(x: Tensor): Promise<number> {
  using values = x;
  let sum = 0;
  for (const value of await values.readFloats()) sum += value;
  return sum;
}

/** One step of a matrix to a smaller scheme. */
interface Step {
  readonly matrix: number;
  /** The index of the cost that it leads to, and from. */
  readonly to: number;
  readonly from: number;
  readonly saved: number;
  /** Error per byte saved. */
  readonly slope: number;
}

/** Costs that no line between two others lies below, the largest first: by index. */
function hull(costs: readonly Cost[]): number[] {
  const kept: number[] = [];
  const slope = (a: number, b: number): number =>
    (costs[b]!.error - costs[a]!.error) / (costs[a]!.bytes - costs[b]!.bytes);
  for (let i = 0; i < costs.length; i++) {
    if (i > 0 && costs[i]!.bytes >= costs[kept.at(-1)!]!.bytes) continue; // saves nothing
    while (kept.length > 1 && slope(kept.at(-2)!, kept.at(-1)!) >= slope(kept.at(-1)!, i)) kept.pop();
    kept.push(i);
  }
  return kept;
}

/** The choice that saves at least `needed` bytes: see the rule above. */
export function choose(measured: readonly Measured[], needed: number): ChosenScheme[] {
  const at = measured.map(() => 0);
  const steps: Step[] = measured.flatMap(({ costs }, matrix) => {
    const corners = hull(costs);
    return corners.slice(1).map((to, i) => {
      const from = corners[i]!;
      const saved = costs[from]!.bytes - costs[to]!.bytes;
      return { matrix, from, to, saved, slope: (costs[to]!.error - costs[from]!.error) / saved };
    });
  });
  // Along a hull slopes grow, so a stable order keeps the steps of a matrix in theirs.
  steps.sort((a, b) => a.slope - b.slope);
  const taken: Step[] = [];
  let saved = 0;
  for (const step of steps) {
    if (saved >= needed) break;
    at[step.matrix] = step.to;
    saved += step.saved;
    taken.push(step);
  }
  for (const step of taken.reverse()) {
    if (at[step.matrix] !== step.to || saved - step.saved < needed) continue;
    at[step.matrix] = step.from;
    saved -= step.saved;
  }
  return measured.map(({ path, costs }, i) => ({ path, ...costs[at[i]!]! }));
}
