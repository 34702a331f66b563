// An evaluation: the requests of all tasks together through a model, then each task's metrics. The result has the form of
// lm-evaluation-harness's.

import { createHash } from "node:crypto";
import { isOf } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { callback, flag, number, type Options, readOptions, such, text, whole } from "../../core/options.js";
import { show, listed as shownList } from "../../core/show.js";
import { printed } from "../../tokenizer/chat/fields.js";
import { isOptions, isTexts } from "./arguments.js";
import { LM } from "./lm.js";
import { aggregate, pooledError } from "./metrics.js";
import type { Said } from "./prompt.js";
import type { Task } from "./task.js";
import { type LoadedGroup, TaskManager } from "./task-manager.js";
import type { Doc, Instance, MetricValue, OutputType, Response } from "./types.js";

const EVALUATE = {
  /** Names of tasks, groups and tags, or patterns with `*`. */
  tasks: such<readonly string[]>((value) => isTexts(value) && (value as unknown[]).length > 0, "a list of names"),
  /** Examples in front of each question; by default what each task says. */
  num_fewshot: whole(0),
  /** Only the first documents of each task: their number, or below 1 their share. */
  limit: number(
    (value) => value > 0 && (value < 1 || Number.isSafeInteger(value)),
    "a number of documents, or a share below 1",
  ),
  /** Resamples for standard errors that have no formula; by default 100,000; 0: no standard errors. */
  bootstrap_iters: whole(0),
  /** Seed of the choice of examples; by default 1234. */
  fewshot_random_seed: whole(0),
  /** Changes to the tasks' generation_kwargs. */
  gen_kwargs: such<Readonly<Record<string, unknown>>>(isOptions, "an object"),
  /** Prompts are conversations by the tokenizer's chat template: its usual one, or the one of a name. */
  apply_chat_template: such<boolean | string>(
    (value) => typeof value === "boolean" || (typeof value === "string" && value !== ""),
    "true, false or the name of a template",
  ),
  /** Examples are turns of the conversation, which is the default; false: they stand in the message that asks. */
  fewshot_as_multiturn: flag(),
  /** Text in front of each task's description; in conversations both are the system's message. */
  system_instruction: text(),
  /** Where tasks and data are; by default those built in. */
  task_manager: such<TaskManager>((value) => isOf(value, TaskManager), "a TaskManager"),
  /** A folder with task files of one's own, and the folder of the data; for a TaskManager of these. */
  include_path: text(),
  data_dir: text(),
  /** Hears how many of all requests are answered. */
  progress: callback<(done: number, total: number) => void>(),
};
export interface EvaluateOptions extends Readonly<Options<typeof EVALUATE>> {
  readonly tasks: readonly string[];
}

/** A task's or group's metrics: `acc,none`, `acc_stderr,none`, .., `sample_len`, and its names. */
export type TaskResult = Readonly<Record<string, number | string>>;

/** One document of a task under one filter, as `--log-samples` writes it. */
export interface Sample {
  readonly doc_id: number;
  readonly doc: Doc;
  readonly target: unknown;
  readonly arguments: readonly Instance["arguments"][];
  readonly resps: readonly (readonly Response[])[];
  readonly filtered_resps: readonly Response[];
  readonly filter: string;
  readonly metrics: readonly string[];
  readonly doc_hash: string;
  readonly prompt_hash: string;
  readonly target_hash: string;
  /** The metrics' values. */
  readonly values: Readonly<Record<string, MetricValue>>;
}

export interface EvalResults {
  readonly results: Readonly<Record<string, TaskResult>>;
  readonly groups?: Readonly<Record<string, TaskResult>>;
  readonly group_subtasks: Readonly<Record<string, readonly string[]>>;
  readonly configs: Readonly<Record<string, unknown>>;
  readonly versions: Readonly<Record<string, unknown>>;
  readonly "n-shot": Readonly<Record<string, number>>;
  readonly higher_is_better: Readonly<Record<string, Readonly<Record<string, boolean | null>>>>;
  readonly "n-samples": Readonly<Record<string, { readonly original: number; readonly effective: number }>>;
  readonly samples: Readonly<Record<string, readonly Sample[]>>;
}

/** Results that were made here. */
export const made = new WeakSet<EvalResults>();

const BOOTSTRAP = 100_000;
const hash = (value: string): string => createHash("sha256").update(value).digest("hex");

/**
 * Evaluates a model on tasks.
 * @returns metrics and samples; `results` has the values of each task and group by `metric,filter`
 * @throws OptionError, ConfigError, NotFoundError, FormatError for tasks and data that cannot be used; AbortError
 */
export async function simple_evaluate(lm: LM, options: EvaluateOptions): Promise<EvalResults> {
  if (!isOf(lm, LM)) {
    throw new OptionError(`simple_evaluate: the model must be an LM, got ${show(lm)}`, {
      hint: "new LM(model, tokenizer)",
    });
  }
  const given = readOptions("simple_evaluate", EVALUATE, options);
  if (given.tasks === undefined) throw new OptionError('simple_evaluate needs "tasks"');
  const { include_path, data_dir, task_manager } = given;
  if (task_manager && (include_path !== undefined || data_dir !== undefined)) {
    throw new OptionError("simple_evaluate: include_path and data_dir belong to the TaskManager that is given");
  }
  const chat = chatOf(lm, given);
  const { signal } = lm;
  const manager =
    task_manager ??
    new TaskManager({
      ...(include_path && { include_path }),
      ...(data_dir && { data_dir }),
      ...(signal && { signal }),
    });
  const { tasks, groups } = await manager.load(given.tasks);
  for (const task of tasks) {
    await task.build({
      num_fewshot: given.num_fewshot,
      limit: given.limit,
      fewshot_seed: given.fewshot_random_seed,
      gen_kwargs: given.gen_kwargs,
      system_instruction: given.system_instruction,
      chat,
    });
  }
  await answer(lm, tasks, given.progress);
  return resultsOf(tasks, groups, given.bootstrap_iters ?? BOOTSTRAP);
}

/** @throws OptionError where the tokenizer has no such template */
function chatOf(lm: LM, { apply_chat_template: template = false, fewshot_as_multiturn }: Partial<EvaluateOptions>) {
  if (template === false) {
    if (fewshot_as_multiturn !== true) return undefined;
    throw new OptionError("fewshot_as_multiturn is for conversations: it needs apply_chat_template");
  }
  const name = typeof template === "string" ? template : undefined;
  const { chat_template: own } = lm.tokenizer;
  const names = typeof own === "object" && own !== null ? Object.keys(own) : [];
  if (name !== undefined && !names.includes(name)) {
    throw new OptionError(`apply_chat_template: the tokenizer has no chat template called ${show(name)}`, {
      hint: names.length > 0 ? `it has ${shownList(names)}` : "true takes the one that it has",
    });
  }
  lm.tokenizer.get_chat_template(name);
  return {
    multiturn: fewshot_as_multiturn ?? true,
    render: (messages: readonly Said[], open: boolean) =>
      lm.apply_chat_template(
        messages.map((one) => ({ ...one })),
        !open,
        name,
      ),
  };
}

/** The kind of request that a task makes. */
const kindOf = (type: OutputType) => (type === "multiple_choice" ? "loglikelihood" : type);

/** Asks a model all requests of tasks, those of a kind together. */
async function answer(lm: LM, tasks: readonly Task[], progress: EvaluateOptions["progress"]): Promise<void> {
  const total = tasks.reduce((sum, { instances, repeats }) => sum + instances.length * repeats, 0);
  let before = 0;
  const heard = (done: number): void => progress?.(before + done, total);
  for (const kind of ["loglikelihood", "loglikelihood_rolling", "generate_until"] as const) {
    const asked = tasks
      .filter(({ output_type }) => kindOf(output_type) === kind)
      .flatMap(({ instances, repeats }) => instances.flatMap((one) => new Array<Instance>(repeats).fill(one)));
    if (asked.length === 0) continue;
    const given = asked.map((one) => one.arguments);
    const answers: readonly Response[] =
      kind === "loglikelihood"
        ? await lm.loglikelihood(given as [string, string][], heard)
        : kind === "loglikelihood_rolling"
          ? await lm.loglikelihood_rolling(
              given.map(([whole]) => whole),
              heard,
            )
          : await lm.generate_until(given as [string, Record<string, unknown>][], heard);
    asked.forEach((one, n) => {
      one.resps.push(answers[n]!);
    });
    before += asked.length;
  }
}

/** Samples of a task under all of its filters. */
function samplesOf(task: Task): Sample[] {
  const of = new Map<number, Instance[]>();
  for (const instance of task.instances) of.set(instance.doc_id, [...(of.get(instance.doc_id) ?? []), instance]);
  return task.filters.flatMap((filter) =>
    [...of].map(([doc_id, own]): Sample => {
      const doc = task.documents[doc_id]!;
      const filtered = own.map((instance) => task.filtered(instance, filter));
      const values = task.values(doc, filtered);
      const target = task.target(doc);
      return {
        doc_id,
        doc,
        target,
        arguments: own.map((instance) => instance.arguments),
        resps: own.map(({ resps }) => resps),
        filtered_resps: filtered,
        filter: filter.name,
        metrics: Object.keys(values),
        doc_hash: hash(JSON.stringify(doc, null, 2)),
        prompt_hash: hash(own[0]!.arguments[0]),
        // The hash of what Python prints.
        target_hash: hash(printed("target", target)),
        values,
      };
    }),
  );
}

function taskResult(task: Task, samples: readonly Sample[], bootstrap_iters: number): TaskResult {
  const result: Record<string, number | string> = { name: task.name, alias: task.config.task_alias ?? task.name };
  let length = 0;
  for (const { name } of task.filters) {
    const own = samples.filter(({ filter }) => filter === name);
    for (const metric of task.metrics) {
      const listed = own.map((sample) => sample.values[metric.name]).filter((value) => value !== undefined);
      if (listed.length === 0) continue;
      length = Math.max(length, listed.length);
      const { value, error } = aggregate(metric, listed, bootstrap_iters);
      result[`${metric.name},${name}`] = value;
      result[`${metric.name}_stderr,${name}`] = error ?? "N/A";
    }
  }
  return { ...result, sample_len: length };
}

function groupResult({ config, tasks }: LoadedGroup, results: Readonly<Record<string, TaskResult>>): TaskResult {
  const own = tasks.map((name) => results[name]!);
  const sizes = own.map(({ sample_len }) => Number(sample_len));
  const result: Record<string, number | string> = { name: config.group, alias: config.alias };
  if (config.aggregates.length === 0) return result;
  result.sample_len = sizes.reduce((sum, size) => sum + size, 0);
  for (const { metric, weight_by_size, filters } of config.aggregates) {
    const found = own.flatMap((one) => Object.keys(one).filter((key) => key.startsWith(`${metric},`)));
    const keys = filters ? filters.map((name) => `${metric},${name}`) : [...new Set(found)];
    for (const key of keys) {
      const has = [...own.keys()].filter((n) => typeof own[n]![key] === "number");
      if (has.length === 0) continue;
      const weights = has.map((n) => (weight_by_size ? sizes[n]! : 1));
      const sum = has.reduce((total, n, i) => total + Number(own[n]![key]) * weights[i]!, 0);
      result[key] = sum / weights.reduce((total, weight) => total + weight, 0);
      const error = key.replace(",", "_stderr,");
      const errors = has.map((n) => own[n]![error]);
      result[error] = errors.every((one) => typeof one === "number")
        ? pooledError(
            errors as number[],
            has.map((n) => sizes[n]!),
            weight_by_size,
          )
        : "N/A";
    }
  }
  return result;
}

/** The metrics of tasks whose requests were answered. */
export function resultsOf(
  tasks: readonly Task[],
  groups: readonly LoadedGroup[],
  bootstrap_iters: number,
): EvalResults {
  const samples = Object.fromEntries(tasks.map((task) => [task.name, samplesOf(task)]));
  const results: Record<string, TaskResult> = {};
  for (const task of tasks) results[task.name] = taskResult(task, samples[task.name]!, bootstrap_iters);
  const shots: Record<string, number> = Object.fromEntries(tasks.map((task) => [task.name, task.num_fewshot]));
  const better: Record<string, Record<string, boolean | null>> = Object.fromEntries(
    tasks.map((task) => [task.name, Object.fromEntries(task.metrics.map((one) => [one.name, one.higher_is_better]))]),
  );
  const versions: Record<string, unknown> = Object.fromEntries(tasks.map((task) => [task.name, task.version]));
  const whole: Record<string, TaskResult> = {};
  for (const group of groups) {
    const { group: name, aggregates, version } = group.config;
    results[name] = groupResult(group, results);
    if (aggregates.length > 0) whole[name] = results[name];
    versions[name] = version === undefined ? "N/A" : String(version);
    const own = new Set(group.children.flatMap((child) => shots[child] ?? []));
    if (own.size === 1) shots[name] = [...own][0]!;
    const both: Record<string, boolean | null> = {};
    for (const [metric, higher] of group.children.flatMap((child) => Object.entries(better[child] ?? {}))) {
      both[metric] = both[metric] === undefined || both[metric] === higher ? higher : null;
    }
    better[name] = both;
  }
  const all: EvalResults = {
    results,
    ...(Object.keys(whole).length > 0 ? { groups: whole } : {}),
    group_subtasks: Object.fromEntries(groups.map(({ config, children }) => [config.group, children])),
    configs: Object.fromEntries(tasks.map((task) => [task.name, { ...task.config, num_fewshot: task.num_fewshot }])),
    versions,
    "n-shot": shots,
    higher_is_better: better,
    "n-samples": Object.fromEntries(
      tasks.map((task) => [
        task.name,
        { original: task.documents.length, effective: Number(results[task.name]!.sample_len) },
      ]),
    ),
    samples,
  };
  made.add(all);
  return all;
}
