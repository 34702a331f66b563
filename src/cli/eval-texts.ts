// octavo eval without --tasks: the perplexity of a text in several storages, and with --kl how far each storage's predictions are
// from those in f32.

import { OptionError } from "../core/errors.js";
import type { Options } from "../core/options.js";
import { type Divergence, divergence } from "../eval/divergence.js";
import { type Perplexity, perplexity } from "../eval/perplexity.js";
import { VARIANTS } from "../eval/variants.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../generate/auto.js";
import type { PreTrainedModel } from "../generate/model.js";
import { NODE } from "../load/node.js";
import type { SOURCE } from "../load/options.js";
import { onOwnDevice } from "../load/platform.js";
import { storytellerFile } from "../load/storyteller.js";
import type { CacheDType } from "../nn/cache.js";
import { KV_CACHES, type KVCacheName } from "./arguments.js";
import { bytes, isInteractive, note, print, printJson, table, warner } from "./output.js";
import { PercentBar } from "./progress.js";
import { readText } from "./text.js";

export interface TextFlags {
  ppl?: string;
  window: number;
  stride: number;
  maxTokens?: number;
  kvCache?: readonly KVCacheName[];
  kl?: boolean;
  layers?: boolean;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
}

/** What all storages of a call share. */
interface Work {
  readonly name: string;
  readonly place: Options<typeof SOURCE>;
  readonly flags: TextFlags;
  readonly ids: readonly number[];
  readonly warn: (message: string) => void;
}

/** What is told of a storage beside its measurements. */
interface Facts {
  readonly storage: string;
  readonly weight_bytes: number;
  readonly seconds: number;
}

/** The storage that `--kl` compares with. */
const EXACT = "f32";

/** Evaluates a model on a text in each storage, and tells the results. */
export async function evaluateText(
  name: string,
  storages: readonly string[],
  place: Options<typeof SOURCE>,
  flags: TextFlags,
): Promise<void> {
  const others = storages.filter((storage) => storage !== EXACT);
  if (flags.layers && !flags.kl) throw new OptionError("--layers is for --kl");
  if (flags.layers && flags.kvCache) throw new OptionError("--layers compares without a cache, not with --kv-cache");
  if (flags.kl && others.length === 0) {
    throw new OptionError(`--kl compares other storages with ${EXACT}`, { hint: "such as --compare int8,nf4" });
  }
  const text = await readText(flags.ppl ?? storytellerFile("storyteller-eval.txt"));
  const tokenizer = await AutoTokenizer.from_pretrained(name, place);
  const ids = tokenizer(text).input_ids;
  const first = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
  const all = (first === null || ids[0] === first ? ids : [first, ...ids]).slice(0, flags.maxTokens);
  const work: Work = { name, place, flags, ids: all, warn: warner(flags.quiet) };
  if (flags.kl) await tellDivergences(others, work);
  else await tellPerplexities(storages, work);
  if (!flags.quiet && !flags.json) {
    note(`${all.length - 1} tokens, windows of ${flags.window} moved by ${flags.stride}`);
  }
}

/** Loads the model in a storage on a device of its own: "auto" may find that only some of them fit the GPU. */
async function inStorage<T>(
  variant: string,
  work: Work,
  storage: string,
  measure: (model: PreTrainedModel) => Promise<T>,
) {
  const { name, place, flags } = work;
  const { dtype, quantization, compute, head } = VARIANTS[variant]!;
  const start = performance.now();
  const loaded = await onOwnDevice(NODE, flags.device, { threads: flags.threads }, (device) =>
    AutoModelForCausalLM.from_pretrained(name, {
      device,
      dtype,
      quantization_config: quantization,
      compute_dtype: compute,
      head_dtype: head,
      ...place,
    }),
  );
  await using device = loaded.device;
  await using _owned = loaded;
  loaded.warnings.forEach(work.warn);
  if (device.reason && !flags.quiet) note(`${storage}: on ${device.name} (${device.reason})`);
  const made = await measure(loaded);
  const facts: Facts = {
    storage,
    weight_bytes: loaded.weight_bytes,
    seconds: (performance.now() - start) / 1000,
  };
  return { ...facts, ...made };
}

/** Measures a model in each storage and with each cache. */
async function measured<T>(
  storages: readonly string[],
  work: Work,
  measure: (
    model: PreTrainedModel,
    how: Pick<TextFlags, "window" | "stride"> & {
      cache_dtype: CacheDType | undefined;
      progress: (done: number) => void;
    },
  ) => Promise<T>,
): Promise<(Facts & T)[]> {
  const { window, stride, kvCache, quiet } = work.flags;
  const results: (Facts & T)[] = [];
  for (const variant of storages) {
    for (const cache of kvCache ?? [undefined]) {
      const storage = cache ? `${variant}, cache ${cache}` : variant;
      const cache_dtype = cache ? KV_CACHES[cache] : VARIANTS[variant]!.cache;
      const bar = quiet || !isInteractive() ? undefined : new PercentBar(storage);
      const progress = (done: number): void => bar?.update(done);
      try {
        results.push(
          await inStorage(variant, work, storage, (model) => measure(model, { window, stride, cache_dtype, progress })),
        );
      } finally {
        bar?.stop();
      }
    }
  }
  return results;
}

const percent = (share: number): string => `${share >= 0 ? "+" : ""}${(100 * share).toFixed(2)} %`;

async function tellPerplexities(storages: readonly string[], work: Work): Promise<void> {
  const { name, flags, ids } = work;
  const found = await measured<Perplexity>(storages, work, (model, how) => perplexity(model, ids, how));
  const first = found[0]!;
  /** Perplexity against the first storage's, in percent. */
  const results = found.map(({ seconds, ...one }) => ({
    ...one,
    change: 100 * (one.perplexity / first.perplexity - 1),
    seconds,
  }));
  if (flags.json) {
    printJson({ model: name, window: flags.window, stride: flags.stride, results });
    return;
  }
  const rows = results.map(({ storage, perplexity: value, standard_error, change, weight_bytes, seconds }, i) => [
    storage,
    value.toFixed(3),
    `± ${standard_error.toFixed(2)}`,
    i === 0 ? "" : percent(change / 100),
    bytes(weight_bytes),
    `${seconds.toFixed(1)} s`,
  ]);
  print(
    table([["storage", "perplexity", "", `against ${first.storage}`, "weights", "time"], ...rows], [1, 2, 3, 4, 5]),
  );
}

async function tellDivergences(storages: readonly string[], work: Work): Promise<void> {
  const { name, flags, ids } = work;
  const layers = flags.layers === true;
  const { results, weight_bytes } = await inStorage(EXACT, work, EXACT, async (reference) => ({
    results: await measured<Divergence>(storages, work, (model, how) =>
      divergence(model, reference, ids, { ...how, layers }),
    ),
  }));
  if (flags.json) {
    const { tokens, reference_perplexity } = results[0]!;
    const reference = { storage: EXACT, perplexity: reference_perplexity, weight_bytes };
    const { window, stride } = flags;
    printJson({ model: name, window, stride, tokens, reference, results });
    return;
  }
  const shown = (value: number): string => (value === 0 ? "0" : value.toPrecision(3));
  const rows = results.map((one) => [
    one.storage,
    shown(one.kl),
    `± ${one.kl_standard_error.toPrecision(1)}`,
    shown(one.kl_median),
    shown(one.kl_99),
    shown(one.kl_max),
    `${(100 * one.same_top).toFixed(2)} %`,
    `± ${(100 * one.same_top_standard_error).toFixed(2)}`,
    percent(one.perplexity / one.reference_perplexity - 1),
    bytes(one.weight_bytes),
    `${one.seconds.toFixed(1)} s`,
  ]);
  const head = ["storage", "KL", "", "median", "99 %", "largest", "same token", "", "perplexity", "weights", "time"];
  print(table([head, ...rows], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
  if (!flags.quiet) note(`against ${EXACT}, in nats per token; ${bytes(weight_bytes)} in ${EXACT}`);
  if (!layers) return;
  const names = results[0]!.layers!.map(({ layer }) => layer);
  const errors = names.map((layer, n) => [layer, ...results.map((one) => shown(one.layers![n]!.error))]);
  print(
    `\n${table(
      [["error after", ...results.map(({ storage }) => storage)], ...errors],
      [...results.keys()].map((n) => n + 1),
    )}`,
  );
}
