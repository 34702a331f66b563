// octavo eval --tasks: tasks of lm-evaluation-harness in several storages on the same items, and whether they differ by more than
// chance.

import { writeFile } from "node:fs/promises";
import type { Options } from "../core/options.js";
import { compare_results } from "../eval/harness/compare.js";
import { type EvaluateOptions, simple_evaluate } from "../eval/harness/evaluate.js";
import { LM } from "../eval/harness/lm.js";
import { openRequestCache, type RequestCache } from "../eval/harness/request-cache.js";
import { TaskManager } from "../eval/harness/task-manager.js";
import { decodeTime } from "../eval/tasks.js";
import { VARIANTS } from "../eval/variants.js";
import { AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer } from "../generate/auto.js";
import type { PreTrainedModel } from "../generate/model.js";
import type { PreTrainedSeq2SeqLM } from "../generate/seq2seq-model.js";
import { NODE } from "../load/node.js";
import type { SOURCE } from "../load/options.js";
import { onOwnDevice } from "../load/platform.js";
import { architectureOf } from "../models/index.js";
import { writing } from "../sources/file-errors.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { htmlReport } from "./eval-html.js";
import { type Evaluated, resultRows, sizeRows } from "./eval-rows.js";
import { aboutOf, sampleLines, schemaOf, type ToldFlags } from "./eval-schema.js";
import { isInteractive, note, print, printJson, table, warner } from "./output.js";
import { CountBar } from "./progress.js";

export interface TaskFlags extends ToldFlags {
  tasks: readonly string[];
  numFewshot?: number;
  batchSize?: number;
  dataDir?: string;
  includePath?: string;
  html?: string;
  logSamples?: string;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
}

/** Evaluates a model in each storage, and tells the results. */
export async function evaluateTasks(
  name: string,
  storages: readonly string[],
  place: Options<typeof SOURCE>,
  flags: TaskFlags,
): Promise<void> {
  const options: EvaluateOptions = {
    tasks: flags.tasks,
    ...(flags.numFewshot === undefined ? {} : { num_fewshot: flags.numFewshot }),
    ...(flags.applyChatTemplate === undefined ? {} : { apply_chat_template: flags.applyChatTemplate }),
    ...(flags.fewshotAsMultiturn === undefined ? {} : { fewshot_as_multiturn: flags.fewshotAsMultiturn }),
    ...(flags.systemInstruction === undefined ? {} : { system_instruction: flags.systemInstruction }),
    ...(flags.genKwargs === undefined ? {} : { gen_kwargs: flags.genKwargs }),
    ...(flags.limit === undefined ? {} : { limit: flags.limit }),
    ...(flags.bootstrapIters === undefined ? {} : { bootstrap_iters: flags.bootstrapIters }),
    task_manager: new TaskManager({
      ...(flags.dataDir === undefined ? {} : { data_dir: flags.dataDir }),
      ...(flags.includePath === undefined ? {} : { include_path: flags.includePath }),
      ...(place.hub === undefined ? {} : { hub: place.hub }),
      ...(place.cache_dir === undefined ? {} : { cache_dir: place.cache_dir }),
    }),
  };
  await options.task_manager!.load(flags.tasks); // a wrong name is told before a model is loaded
  const tokenizer = await AutoTokenizer.from_pretrained(name, place);
  const cache = flags.useCache === undefined ? undefined : await openRequestCache(flags.useCache);
  const { tasks } = await architectureOf(await AutoConfig.from_pretrained(name, place));
  const seq2seq = tasks["causal-lm"] === undefined && tasks["seq2seq-lm"] !== undefined;
  const warn = warner(flags.quiet);
  const done: Evaluated[] = [];
  for (const storage of storages) {
    done.push(
      await evaluateIn(storage, { name, place, flags, options, tokenizer, seq2seq, cache, warn, before: done[0] }),
    );
  }
  if (flags.logSamples !== undefined) await writeSamples(flags.logSamples, done);
  if (flags.html !== undefined) await write(flags.html, htmlReport(name, done));
  if (flags.json) {
    const [only] = done.length === 1 ? done : [];
    printJson(
      only
        ? schemaOf(only)
        : {
            storages: Object.fromEntries(done.map((one) => [one.storage, schemaOf(one)])),
            comparisons: done.flatMap(({ storage, comparisons }) => comparisons.map((one) => ({ storage, ...one }))),
          },
    );
    return;
  }
  print(table(resultRows(done), [3, 4, 5, 6, 7]));
  print(`\n${table(sizeRows(done), [1, 2, 3])}`);
}

/** Milliseconds after which fewer decode steps than 32 are enough. */
const PATIENCE = 5_000;

interface Work {
  readonly name: string;
  readonly place: Options<typeof SOURCE>;
  readonly flags: TaskFlags;
  readonly options: EvaluateOptions;
  readonly tokenizer: PreTrainedTokenizer;
  readonly seq2seq: boolean;
  readonly cache: RequestCache | undefined;
  readonly warn: (message: string) => void;
  /** The first storage's evaluation. */
  readonly before: Evaluated | undefined;
}

async function evaluateIn(storage: string, work: Work): Promise<Evaluated> {
  const { name, place, flags, options, tokenizer, cache, before } = work;
  const { dtype, quantization, compute, head, cache: cache_dtype } = VARIANTS[storage]!;
  const start = performance.now();
  const date = Math.floor(Date.now() / 1000);
  // Each storage has a device of its own: "auto" may find that only some of them fit the GPU.
  const how = { dtype, quantization_config: quantization, compute_dtype: compute, head_dtype: head, ...place };
  const loaded = await onOwnDevice(
    NODE,
    flags.device,
    { threads: flags.threads },
    async (device): Promise<PreTrainedModel | PreTrainedSeq2SeqLM> =>
      work.seq2seq
        ? await AutoModelForSeq2SeqLM.from_pretrained(name, { device, ...how })
        : await AutoModelForCausalLM.from_pretrained(name, { device, ...how }),
  );
  await using device = loaded.device;
  await using _owned = loaded;
  loaded.warnings.forEach(work.warn);
  if (device.reason && !flags.quiet) note(`${storage}: on ${device.name} (${device.reason})`);
  const lm = new LM(loaded, tokenizer, {
    ...(flags.batchSize === undefined ? {} : { batch_size: flags.batchSize }),
    ...(cache_dtype ? { cache_dtype } : {}),
    ...(cache ? { use_cache: cache } : {}),
  });
  const bar = flags.quiet || !isInteractive() ? undefined : new CountBar(storage);
  try {
    const results = await simple_evaluate(lm, { ...options, progress: (done, total) => bar?.update(done, total) });
    return {
      storage,
      results,
      weight_bytes: loaded.weight_bytes,
      tokens: lm.computed_tokens,
      ms_per_token: await decodeTime(loaded.device, loaded.module, {
        ...{ batch: 1, patience: PATIENCE, cache_dtype: cache_dtype ?? "f32" },
        // Some models have places for few tokens, of which warming up needs some.
        steps: Math.max(1, Math.min(32, lm.max_length - 8)),
        encoded: Math.min(128, lm.max_length),
      }),
      tokens_per_second: lm.seconds > 0 && lm.computed_tokens > 0 ? lm.computed_tokens / lm.seconds : undefined,
      about: aboutOf(lm, { ...work, results, storage, date, seconds: (performance.now() - start) / 1000 }),
      comparisons: before ? compare_results(before.results, results) : [],
    };
  } finally {
    bar?.stop();
  }
}

const HINTS = { full: "free some space", otherwise: "choose another file" };

async function write(file: string, text: string): Promise<void> {
  await writing(file, HINTS, () => writeFile(file, text));
}

async function writeSamples(file: string, done: readonly Evaluated[]): Promise<void> {
  await write(file, done.flatMap(sampleLines).join(""));
}
