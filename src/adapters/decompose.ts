// First values of an adapter that are parts of the model's weights: PiSSA (Meng et al. 2024, section 3), OLoRA (Büyükakyüz 2024, section 3)
// and LoftQ (Li et al. 2023, algorithm 1), as PEFT has them. They are computed on the host; the weights change when the adapter is put
// on the model, and stay so when it is taken off.

import type { Device } from "../core/device.js";
import { FormatError, OctavoError, OptionError } from "../core/errors.js";
import { shapeText } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { Turns } from "../core/turns.js";
import { uniformOf } from "../nn/init.js";
import type { Model } from "../nn/model.js";
import type { Matrix } from "../nn/module.js";
import { storeRows, type Weight } from "../nn/weight.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { linearBack } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import { taping } from "../ops/tape.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { schemeOf } from "../quant/index.js";
import { type Blueprint, deviceOf, type First, type Firsts } from "./adapter.js";
import type { AnyLoraConfig } from "./config.js";
import { type Decomposition, isDecomposition, type LoftQOptions } from "./first-values.js";
import { checkChangeable, storedAs } from "./matrices.js";
import { firstOfQR, largestSingular, type Rows, randomSingular, type Singular } from "./svd.js";

type Target = Blueprint["targets"][number];

/** Two thin matrices. */
type Thin = Pick<First, "a" | "b">;

/**
 * The first values that a config asks for; undefined if they are no parts of the weights. Nothing changes yet. They are the same whenever
 * they are computed, so that what is trained over the rest of the weights finds that rest again.
 * @throws OctavoError for weights that cannot be decomposed: codes (but for OLoRA), and matrices with several users; OptionError for a
 * rank above a side of the matrix, or a negative lora_alpha; FormatError for weights that are no numbers; OutOfMemoryError, AbortError
 */
export async function firstsOf(
  model: Model,
  { fields }: AnyLoraConfig,
  { targets }: Blueprint,
  signal?: AbortSignal,
): Promise<Firsts | undefined> {
  const { init_lora_weights: init, loftq_config } = fields;
  if (!isDecomposition(init)) return undefined;
  const own = targets.filter(({ role, path }) => {
    if (role === "lookup" && init === "loftq") {
      throw new OctavoError("ERR_UNSUPPORTED", `${path} is an embedding, for which there is no LoftQ`);
    }
    return role === "product";
  });
  check(model, init, own);
  const firsts = new Map<Target, First>();
  const turns = new Turns("an adapter's beginning", signal);
  for (const target of own) firsts.set(target, await firstOf(init, loftq_config ?? {}, target, turns));
  return firsts;
}

/** @throws OctavoError, OptionError, OutOfMemoryError */
function check(model: Model, init: Decomposition, targets: readonly Target[]): void {
  const bytes = new Map<Device, number>();
  for (const { path, module, rank, scale: s } of targets) {
    const { weight } = module;
    if (weight.inner!.scheme !== "dense" && init !== "olora") {
      throw new OctavoError(
        "ERR_UNSUPPORTED",
        `${path} is in ${weight.inner!.scheme}, and ${init} begins with floats`,
        {
          hint: "load the model without quantization; what is left of it can be saved and quantized then",
        },
      );
    }
    if (rank > Math.min(...weight.shape)) {
      throw new OptionError(`${path}: a rank of ${rank} is more than its matrix ${shapeText(weight.shape)} has`, {
        details: { option: "r" },
      });
    }
    if (s < 0 && init.startsWith("pissa")) {
      throw new OptionError(`${path}: the first values of PiSSA need a lora_alpha of at least 0`, {
        details: { option: "lora_alpha" },
      });
    }
    const device = deviceOf(weight);
    bytes.set(device, (bytes.get(device) ?? 0) + weight.inner!.nbytes);
  }
  const matrices = targets.map(({ module }) => module.weight);
  checkChangeable(model, matrices, `${init} would take a part of all of them`);
  for (const [device, count] of bytes) device.arena.checkRoom(count, "the weights that an adapter leaves");
}

async function firstOf(init: Decomposition, loftq: LoftQOptions, target: Target, turns: Turns): Promise<First> {
  const { path, module, rank, scale: s } = target;
  const matrix = module.weight;
  const stored = (rows: () => Tensor): Weight =>
    taping(undefined, () => scope(() => storedAs(matrix.inner!, rows(), path)));
  if (init === "loftq") {
    const [thin, before] = await loftQ(path, matrix, rank, loftq, turns);
    return { ...thin, residual: () => stored(() => rounded(matrix, loftq, before)) };
  }
  const w = await rowsOf(path, turns, () => matrix.inner!.dense("f32"));
  const thin = init === "olora" ? await qr(w, rank, turns) : halves(await singular(init, w, rank, turns), s);
  return { ...thin, residual: () => stored(() => without(matrix.inner!.dense("f32"), thin, s)) };
}

/** @throws FormatError for what is no number, of which there are no parts */
async function rowsOf(path: string, turns: Turns, make: () => Tensor): Promise<Rows> {
  using dense = taping(undefined, () => scope(make));
  const [rows = 0, columns = 0] = dense.shape;
  const data = (await dense.readFloats()).slice();
  for (let n = 0; n < rows; n++) {
    if (turns.due) await turns.take();
    const broken = data.subarray(n * columns, (n + 1) * columns).find((value) => !Number.isFinite(value));
    if (broken === undefined) continue;
    throw new FormatError(`${path}: row ${n} of its matrix holds ${broken}`, { details: { module: path } });
  }
  return { data, rows, columns };
}

/** The same numbers for every matrix. */
function draws(): () => number {
  return uniformOf(0, 0);
}

function singular(init: Decomposition, w: Rows, rank: number, turns: Turns): Promise<Singular> {
  const draw = draws();
  const iterations = /^pissa_niter_(\d+)$/.exec(init)?.[1];
  if (iterations === undefined) return largestSingular(w, rank, draw, turns);
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
  return randomSingular(w, rank, Number(iterations), normal, turns);
}

/** Rows of a and columns of b. */
function thinOf(rows: readonly Float64Array[], columns: readonly Float64Array[], factors: (i: number) => number): Thin {
  const [rank, inputs, outputs] = [rows.length, rows[0]!.length, columns[0]!.length];
  const a = Float32Array.from({ length: rank * inputs }, (_, at) => {
    return rows[Math.floor(at / inputs)]![at % inputs]! * factors(Math.floor(at / inputs));
  });
  const b = Float32Array.from({ length: outputs * rank }, (_, at) => {
    return columns[at % rank]![Math.floor(at / rank)]! * factors(at % rank);
  });
  return { a, b };
}

/** Each with the root of the singular values, of which the layer's scale is a part. */
function halves({ values, left, right }: Singular, s: number): Thin {
  return thinOf(right, left, (i) => (s === 0 ? 0 : Math.sqrt(values[i]! / s)));
}

async function qr(w: Rows, rank: number, turns: Turns): Promise<Thin> {
  const { q, r } = await firstOfQR(w, rank, turns);
  return thinOf(r, q, () => 1);
}

/** rows - s b a */
function without(rows: Tensor, { a, b }: Thin, s: number): Tensor {
  const [N = 0, K = 0] = rows.shape;
  const rank = a.length / K;
  const product = linearBack(Tensor.from(rows.device, b, [N, rank]), Tensor.from(rows.device, a, [rank, K]));
  return add(rows, scale(product, -s));
}

/** What quantizing a matrix without a product leaves of it, in floats. */
function rounded(matrix: Matrix, { loftq_bits = 4 }: LoftQOptions, before: Thin | undefined): Tensor {
  const codes = new BitsAndBytesConfig(
    loftq_bits === 8 ? { load_in_8bit: true } : { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
  );
  const dense = matrix.inner!.dense("f32");
  const left = before ? without(dense, before, 1) : dense;
  const rows = loftq_bits === 8 ? contiguous(left, "f16") : left; // bitsandbytes quantizes to 8 bits by way of float16
  using weight = storeRows(schemeOf(codes)!, rows, "weight");
  return weight.dense("f32");
}

/**
 * Product and quantized matrix in turn, each of what the other leaves.
 * @returns the last product, and the one before, of whose rest the matrix is
 */
async function loftQ(
  path: string,
  matrix: Matrix,
  rank: number,
  loftq: LoftQOptions,
  turns: Turns,
): Promise<readonly [Thin, Thin | undefined]> {
  let before: Thin | undefined;
  for (let left = loftq.loftq_iter ?? 1; ; left--) {
    const lost = await rowsOf(path, turns, () =>
      add(matrix.inner!.dense("f32"), scale(rounded(matrix, loftq, before), -1)),
    );
    // The scale of the layer is no part of it in PEFT, which is exact only where it is 1.
    const thin = halves(await largestSingular(lost, rank, draws(), turns), 1);
    if (left <= 1) return [thin, before];
    before = thin;
  }
}
