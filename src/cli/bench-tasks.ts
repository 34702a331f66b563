// octavo bench --shape T5-LARGE, BERT-BASE or MOE: models that are not plain decoders, in several storages, one after the other.

import type { Device } from "../core/device.js";
import { measureMachine } from "../eval/machine.js";
import type { ShapeConfig } from "../eval/shapes.js";
import { type DecodingModel, weightsPerStep } from "../eval/speed.js";
import { type EncodeSpeed, encodeSpeed, type StepSpeed, stepSpeed, TASK_SHAPES } from "../eval/tasks.js";
import { VARIANTS, variantNames } from "../eval/variants.js";
import { requestDevice } from "../load/device.js";
import { fillRandomly } from "../load/random.js";
import { buildModel } from "../models/index.js";
import type { Task } from "../nn/architecture.js";
import { EncoderModel } from "../nn/encoder.js";
import type { Model } from "../nn/model.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { headScheme, schemeOf } from "../quant/index.js";
import { limitsLine } from "./bench-report.js";
import { bytes, note, print, printJson, table } from "./output.js";

export interface TaskFlags {
  shape: string;
  compare?: string;
  quick?: boolean;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
}

/** The measurements of one storage. */
export interface TaskReport {
  readonly storage: string;
  readonly weight_bytes: number;
  /** Bytes of the decoder's weights, of which a step may need a part. */
  readonly decoder_bytes: number;
  readonly decode: readonly StepSpeed[];
  readonly encode: readonly EncodeSpeed[];
}

/** Batches of the announcement of LLM.int8(). */
export const BATCHES = [1, 8, 32];
export const PLANS = { full: { steps: 24, runs: 5 }, quick: { steps: 8, runs: 2 } } as const;
const DEFAULT_STORAGES = "f32,bf16,int8,nf4-int8";

export async function benchTasks(flags: TaskFlags): Promise<void> {
  const { task, config } = TASK_SHAPES[flags.shape.toUpperCase()]!;
  const names = variantNames(flags.compare ?? DEFAULT_STORAGES);
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  if (!flags.quiet) note("measuring the machine");
  const limits = await measureMachine(device);
  const reports: TaskReport[] = [];
  const batches = flags.quick ? BATCHES.slice(0, 2) : BATCHES;
  for (const storage of names) {
    const how = { ...PLANS[flags.quick ? "quick" : "full"], batches, quiet: flags.quiet };
    reports.push(await measureStorage(device, { task, config }, storage, how));
  }
  const machine = device.backend.description;
  if (flags.json) printJson({ shape: flags.shape.toUpperCase(), task, machine, limits, storages: reports });
  else print(`${machine}\n${limitsLine(limits)}\n\n${taskTable(flags.shape.toUpperCase(), reports)}`);
}

interface StoragePlan {
  readonly batches: readonly number[];
  /** Timed decode steps. */
  readonly steps: number;
  /** Timed runs of an encoder. */
  readonly runs: number;
  readonly quiet?: boolean | undefined;
}

/** Times a model of a shape in one storage. */
export async function measureStorage(
  device: Device,
  { task, config }: { readonly task: Task; readonly config: ShapeConfig },
  storage: string,
  { batches, steps, runs, quiet }: StoragePlan,
): Promise<TaskReport> {
  const { dtype, quantization, compute, head, cache } = VARIANTS[storage]!;
  const say = (what: string): void => void (quiet || note(`${storage}: ${what}`));
  say("random weights");
  const model: Model = await buildModel(config, task);
  try {
    await fillRandomly(device, model, {
      dtype: dtype === "float32" ? "f32" : "bf16",
      scheme: schemeOf(quantization && new BitsAndBytesConfig(quantization)),
      compute,
      head: headScheme(head),
    });
    const cache_dtype = cache ?? (dtype === "float32" ? "f32" : "bf16");
    const weight_bytes = [...model.parameters()].reduce((sum, parameter) => sum + parameter.nbytes, 0);
    const decode: StepSpeed[] = [];
    const encode: EncodeSpeed[] = [];
    if (model instanceof EncoderModel) {
      for (const rows of ["equal", "ragged"] as const) {
        say(`encoding texts of ${rows === "equal" ? "one length" : "different lengths"}`);
        encode.push(await encodeSpeed(device, model, rows, runs));
      }
    } else {
      for (const batch of batches) {
        say(`decode, batch ${batch}`);
        decode.push(await stepSpeed(device, model as DecodingModel, { batch, steps, cache_dtype }));
      }
    }
    const decoder_bytes = decode.length > 0 ? weightsPerStep(model as DecodingModel, Number.POSITIVE_INFINITY) : 0;
    return { storage, weight_bytes, decoder_bytes, decode, encode };
  } finally {
    model.dispose();
    await device.synchronize();
  }
}

function taskTable(title: string, reports: readonly TaskReport[]): string {
  const line = (name: string, cell: (report: TaskReport) => string): string[] => [name, ...reports.map(cell)];
  const rows = [line(title, ({ storage }) => storage), line("weights", ({ weight_bytes }) => bytes(weight_bytes))];
  for (const [i, { batch }] of reports[0]!.decode.entries()) {
    rows.push(
      line(`decode, batch ${batch}: ms/token`, ({ decode }) => (decode[i]!.ms / batch).toFixed(2)),
      line("  bytes of a step", ({ decode }) => bytes(decode[i]!.bytes)),
      line("  share of the decoder's weights", ({ decode, decoder_bytes }) =>
        share(decode[i]!.weights / decoder_bytes),
      ),
      line("  GB/s", ({ decode }) => decode[i]!.bandwidth.toFixed(1)),
    );
    if (batch === 1) {
      rows.push(
        line("  of memory's GB/s", ({ decode }) => {
          const { share: part, most, noisy } = decode[i]!;
          return part === null ? (noisy ? "noisy" : "in cache") : `${share(part)} of ${most.toFixed(1)}`;
        }),
      );
    }
  }
  for (const [i, { rows: kind, tokens }] of reports[0]!.encode.entries()) {
    const what = kind === "equal" ? "32 texts of 128 tokens" : `32 texts of 4 to 128 tokens (${tokens})`;
    rows.push(
      line(`${what}: ms`, ({ encode }) => encode[i]!.ms.toFixed(1)),
      line("  tokens/s", ({ encode }) => ((1000 * tokens) / encode[i]!.ms).toFixed(0)),
    );
  }
  return table(
    rows,
    reports.map((_, i) => i + 1),
  );
}

function share(part: number): string {
  return `${(100 * part).toFixed(0)} %`;
}
