// octavo bench --table announcement: the table of the announcement of LLM.int8() (Belkada and Dettmers 2022), milliseconds per token at
// batch 1, 8 and 32, for a decoder and an encoder-decoder with random weights on this machine.

import { measureMachine } from "../eval/machine.js";
import { SHAPES } from "../eval/shapes.js";
import { TASK_SHAPES } from "../eval/tasks.js";
import { variantNames } from "../eval/variants.js";
import { requestDevice } from "../load/device.js";
import { limitsLine } from "./bench-report.js";
import { BATCHES, measureStorage, PLANS, type TaskFlags, type TaskReport } from "./bench-tasks.js";
import { bytes, note, print, printJson, table } from "./output.js";

export type AnnouncementFlags = Omit<TaskFlags, "shape">;

/** The first storage is what the others are compared with. */
const STORAGES = "bf16,int8,nf4";

const MODELS = {
  M: { task: "causal-lm", config: SHAPES.M! },
  "T5-3B": TASK_SHAPES["T5-3B"]!,
} as const;

interface ModelReport {
  readonly model: string;
  readonly storages: readonly TaskReport[];
}

export async function benchAnnouncement(flags: AnnouncementFlags): Promise<void> {
  const names = variantNames(flags.compare ?? STORAGES);
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  if (!flags.quiet) note("measuring the machine");
  const limits = await measureMachine(device);
  const how = { ...PLANS[flags.quick ? "quick" : "full"], batches: BATCHES, quiet: flags.quiet };
  const models: ModelReport[] = [];
  for (const [model, shape] of Object.entries(MODELS)) {
    if (!flags.quiet) note(`shape ${model}`);
    const storages: TaskReport[] = [];
    for (const storage of names) storages.push(await measureStorage(device, shape, storage, how));
    models.push({ model, storages });
  }
  const machine = device.backend.description;
  if (flags.json) printJson({ table: "announcement", machine, limits, models });
  else print(`${machine}\n${limitsLine(limits)}\n\n${announcementTable(models)}`);
}

/** A row for each model and storage. */
export function announcementTable(models: readonly ModelReport[]): string {
  const rows = [["model", "stored as", "weights", ...BATCHES.map((batch) => `batch ${batch}: ms/token`)]];
  for (const { model, storages } of models) {
    const [first] = storages;
    for (const { storage, weight_bytes, decode } of storages) {
      const cells = decode.map(({ batch, ms }, i) => {
        const against = first!.storage === storage ? "" : ` (${(first!.decode[i]!.ms / ms).toFixed(2)}x)`;
        return `${(ms / batch).toFixed(2)}${against}`;
      });
      rows.push([model, storage, bytes(weight_bytes), ...cells]);
    }
  }
  return `${table(rows, [2, 3, 4, 5])}\n(x: how many times as fast as ${models[0]!.storages[0]!.storage})`;
}
