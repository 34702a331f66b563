// octavo bench --attention: attention layers of Falcon-7b and Llama-7b, fused beside eager, forward and training (the charts of the
// documentation of BetterTransformer); attention alone beside the machine's limit; and what padding costs a prefill.

import type { Device } from "../core/device.js";
import {
  ATTENTION_LAYERS,
  type LayerCost,
  type LayerSpeed,
  layerSpeed,
  type NotMeasured,
  type PaddedSpeed,
  paddedSpeeds,
} from "../eval/attention.js";
import { attentionSpeed, type KernelSpeed } from "../eval/kernels.js";
import { type MachineLimits, measureMachine } from "../eval/machine.js";
import { shapeConfig } from "../eval/shapes.js";
import { requestDevice } from "../load/device.js";
import { fillRandomly } from "../load/random.js";
import { buildModel } from "../models/index.js";
import type { CausalLM } from "../nn/decoder.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { schemeOf } from "../quant/index.js";
import { limitsLine, NOISY, percent, range } from "./bench-report.js";
import type { ChartText, Panel } from "./chart.js";
import { svgChart } from "./chart-svg.js";
import { columnsOf, textChart } from "./chart-text.js";
import { bytes, colourful, duration, note, plural, print, printJson, table } from "./output.js";

export interface AttentionFlags {
  contexts?: readonly number[];
  quick?: boolean;
  chart?: boolean;
  svg?: string;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
}

/** What is measured; `contexts` of layers unless the caller names others. */
const PLANS = {
  full: { contexts: [4096], batches: [1, 2, 4, 8], kernels: [2048, 8192], rows: 8, steps: 512, runs: 5, model: "S" },
  quick: { contexts: [512], batches: [1, 2], kernels: [512], rows: 8, steps: 256, runs: 3, model: "XS" },
} as const;
/** Heads of attention alone: as wide together as those of a model of 1 billion parameters. */
const WIDTH = 2048;
const HEAD_SIZES = [64, 128];
/** The part of the free memory that a measurement may take. */
const MOST = 0.8;

export interface AttentionReport {
  readonly machine: string;
  readonly limits: MachineLimits;
  readonly layers: readonly LayerSpeed[];
  readonly kernels: readonly ThreadedSpeed[];
  readonly padding: readonly PaddedSpeed[];
}

/** Attention alone, by threads. */
interface ThreadedSpeed extends KernelSpeed {
  /** Undefined: all there are. */
  readonly threads: number | undefined;
  readonly head_dim: number;
}

/**
 * Measures, and prints; `write` writes the chart.
 * @throws OptionError, DeviceError, OutOfMemoryError where not even a fused layer fits
 */
export async function benchAttention(flags: AttentionFlags, write: (svg: string) => Promise<void>): Promise<void> {
  const plan = PLANS[flags.quick ? "quick" : "full"];
  const say = (what: string): void => void (flags.quiet || note(what));
  const open = (threads = flags.threads): Promise<Device> => requestDevice(flags.device, { threads });
  say("measuring the machine");
  const { machine, limits, free } = await (async () => {
    await using device = await open();
    const { budget, live } = device.memory;
    const free = Math.min(budget - live, process.availableMemory());
    return { machine: device.backend.description, limits: await measureMachine(device), free: MOST * free };
  })();
  const layers: LayerSpeed[] = [];
  for (const [layer, sizes] of Object.entries(ATTENTION_LAYERS)) {
    for (const tokens of flags.contexts ?? plan.contexts) {
      for (const training of [false, true]) {
        for (const batch of plan.batches) {
          say(`${layer}, ${plural(tokens, "token")}, batch ${batch}, ${training ? "training" : "forward"}`);
          layers.push(await layerSpeed(() => open(), { layer, sizes, tokens, batch, training }, free, layers));
        }
      }
    }
  }
  const kernels: ThreadedSpeed[] = [];
  for (const threads of threadsOf(flags)) {
    await using device = await open(threads);
    say(`attention alone, ${threadText(threads)}`);
    for (const dtype of ["f32", "bf16"] as const) {
      for (const head_dim of HEAD_SIZES) {
        for (const steps of plan.kernels) {
          const heads = WIDTH / head_dim;
          const found = await attentionSpeed(device, {
            batch: 1,
            steps,
            context: 0,
            heads,
            groups: heads,
            head_dim,
            dtype,
          });
          kernels.push({ ...found, threads, head_dim });
        }
      }
    }
  }
  const padding = await measurePadding(open, plan, say);
  const report = { machine, limits, layers, kernels, padding };
  if (flags.json) printJson(report);
  else {
    print(attentionTable(report));
    if (flags.chart) {
      const { stdout, env } = process;
      print(textChart(attentionPanels(layers), { width: columnsOf(stdout, env), colour: colourful(stdout, env) }));
    }
  }
  if (flags.svg !== undefined) await write(svgChart(attentionPanels(layers), attentionChartText(report)));
}

/** One thread and all, where the device has threads. */
function threadsOf({ device = "cpu", threads }: AttentionFlags): readonly (number | undefined)[] {
  if (!/^(cpu|wasm)/.test(device)) return [undefined];
  return threads === 1 ? [1] : [1, threads];
}

function threadText(threads: number | undefined): string {
  return threads === undefined ? "all threads" : plural(threads, "thread");
}

/** Padding of an int8 model's prefill. */
async function measurePadding(
  open: () => Promise<Device>,
  { model: name, ...sizes }: (typeof PLANS)["full" | "quick"],
  say: (what: string) => void,
): Promise<PaddedSpeed[]> {
  say(`padding, shape ${name} in int8`);
  await using device = await open();
  const model = (await buildModel(shapeConfig(name), "causal-lm")) as CausalLM;
  try {
    const scheme = schemeOf(new BitsAndBytesConfig({ load_in_8bit: true }));
    await fillRandomly(device, model, { dtype: "bf16", scheme });
    return await paddedSpeeds(device, model, sizes);
  } finally {
    model.dispose();
  }
}

/** Eager over flash, where both were measured. */
function ratio({ flash, eager }: LayerSpeed, of: (cost: LayerCost) => number): number | undefined {
  return "ms" in flash && "ms" in eager ? of(eager) / of(flash) : undefined;
}

const inTime = ({ ms }: LayerCost): number => ms;
const inMemory = (cost: LayerCost): number => cost.bytes;

/** The three tables of `octavo bench --attention`. */
export function attentionTable({ machine, limits, layers, kernels, padding }: AttentionReport): string {
  const cell = (cost: LayerCost | NotMeasured, show: (cost: LayerCost) => string): string =>
    "ms" in cost ? show(cost) : cost.skipped === "memory" ? `needs ${bytes(cost.expected)}` : "too slow";
  const time = (cost: LayerCost | NotMeasured): string => cell(cost, ({ ms }) => duration(ms / 1000));
  const room = (cost: LayerCost | NotMeasured): string => cell(cost, (one) => bytes(one.bytes));
  const times = (value: number | undefined): string => (value === undefined ? "" : `${value.toFixed(2)}x`);
  const ofLayers = layers.map((one) => [
    `${one.layer}, ${one.training ? "training" : "forward"}`,
    String(one.tokens),
    String(one.batch),
    ...[time(one.eager), time(one.flash), times(ratio(one, inTime))],
    ...[room(one.eager), room(one.flash), times(ratio(one, inMemory))],
  ]);
  const head = ["attention layer", "tokens", "batch", "eager", "flash", "faster", "eager holds", "flash holds", "less"];
  const ofKernels = kernels.map((one) => [
    one.kernel,
    String(one.head_dim),
    one.shape.replace(/^1x|\+0$/g, ""),
    threadText(one.threads),
    duration(one.microseconds / 1e6),
    (one.operations / 1000).toFixed(3),
    one.most > 0 ? percent(one) : "",
    one.most > 0 ? `${range(one.least, one.most)} GFLOP/s ${one.limit}` : "",
  ]);
  const second = ["causal, one text", "head size", "tokens", "", "time", "TFLOP/s", "share", "of"];
  const ofPadding = padding.map((one) => [
    `${(100 * one.padding).toFixed(0)} %`,
    String(one.tokens),
    `${one.ms.toFixed(1)} ms`,
    one.relative.toFixed(3),
  ]);
  const third = ["prefill, padding", "real tokens", "time", "time of a real token"];
  return [
    `${machine}\n${limitsLine(limits)}\n`,
    table([head, ...ofLayers], [1, 2, 3, 4, 5, 6, 7, 8]),
    "(eager holds its weights, T x S for each head; training: forward, and gradients of input and projections)\n",
    table([second, ...ofKernels], [1, 2, 3, 4, 5, 6]),
    `(4 T² H D / 2 operations, ${WIDTH} / D heads)${kernels.some(({ noisy }) => noisy) ? `\n${NOISY}` : ""}\n`,
    table([third, ...ofPadding], [1, 2, 3]),
  ].join("\n");
}

/** Forward and training: how many times as fast, and how much less memory. */
export function attentionPanels(layers: readonly LayerSpeed[]): Panel[] {
  return [false, true].flatMap((training) => {
    const own = layers.filter((one) => one.training === training);
    const label = ({ batch, tokens }: LayerSpeed): string => `batch ${batch}, ${plural(tokens, "token")}`;
    const panel = (title: string, unit: string, value: (one: LayerSpeed) => number | undefined): Panel => ({
      title: `${training ? "Training" : "Forward"}, ${title}`,
      unit,
      better: "more",
      groups: [...new Set(own.map(label))].map((name) => ({
        label: name,
        bars: own.filter((one) => label(one) === name).map((one) => ({ name: one.layer, value: value(one) })),
      })),
    });
    return [
      panel("speed-up", "times", (one) => ratio(one, inTime)),
      panel("memory saved", "%", (one) => {
        const held = ratio(one, inMemory);
        return held === undefined ? undefined : Math.max(0, 100 * (1 - 1 / held));
      }),
    ];
  });
}

function attentionChartText({ machine, limits }: AttentionReport): ChartText {
  return {
    title: "octavo bench, flash attention beside eager attention",
    notes: [
      machine,
      `this machine at most: ${limitsLine(limits)}`,
      "attention layers: projections in bf16 and causal attention; a dash: eager attention does not fit, or takes too long",
    ],
  };
}
