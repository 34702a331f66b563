// A task's file, checked key by key. Keys and their meaning are those of lm-evaluation-harness.

import { ConfigError, OctavoError } from "../../core/errors.js";
import { checkedLater, choice, flag, type Options, readOptions, such, text, whole } from "../../core/options.js";
import { listed, show } from "../../core/show.js";
import { FunctionName } from "./functions.js";
import { OUTPUT_TYPES } from "./types.js";

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const template = () =>
  such<string | number | FunctionName>(
    (value) => typeof value === "string" || Number.isSafeInteger(value) || value instanceof FunctionName,
    "a template, a field's name or a number",
  );
const choicesEntry = () =>
  such<string | readonly unknown[] | Readonly<Record<string, unknown>> | FunctionName>(
    (value) => typeof value === "string" || (typeof value === "object" && value !== null),
    "a template, a field's name or a list",
  );
const named = () => such<FunctionName>((value) => value instanceof FunctionName, "a function: !function file.name");
const objectEntry = () => such<Readonly<Record<string, unknown>>>(isObject, "an object");
const objects = () =>
  such<readonly Readonly<Record<string, unknown>>[]>(
    (value) => Array.isArray(value) && value.every(isObject),
    "a list of objects",
  );
const names = () =>
  such<string | readonly string[]>(
    (value) => typeof value === "string" || (Array.isArray(value) && value.every((one) => typeof one === "string")),
    "a name or a list of names",
  );

const SPLITS = { training_split: text(), validation_split: text(), test_split: text(), fewshot_split: text() };

const TASK = {
  task: text(),
  task_alias: text(),
  tag: names(),
  dataset_path: text(),
  dataset_name: text(),
  dataset_kwargs: objectEntry(),
  ...SPLITS,
  process_docs: named(),
  doc_to_text: template(),
  doc_to_target: such<string | number | readonly unknown[] | FunctionName>(
    (value) => typeof value !== "boolean" && (!isObject(value) || value instanceof FunctionName),
    "a template, a field's name, a number or a list",
  ),
  doc_to_choice: choicesEntry(),
  process_results: named(),
  description: text(),
  target_delimiter: text(),
  fewshot_delimiter: text(),
  fewshot_config: objectEntry(),
  num_fewshot: whole(0),
  output_type: choice(OUTPUT_TYPES),
  metric_list: objects(),
  generation_kwargs: objectEntry(),
  repeats: whole(1),
  filter_list: objects(),
  gen_prefix: text(),
  should_decontaminate: flag(),
  doc_to_decontamination_query: checkedLater<unknown>(),
  unsafe_code: flag(),
  metadata: objectEntry(),
};
export interface TaskConfig extends Readonly<Options<typeof TASK>> {
  readonly task: string;
}

const FEWSHOT = {
  sampler: choice(["default", "first_n"]),
  split: text(),
  samples: objects(),
  process_docs: named(),
  fewshot_indices: such<readonly number[]>(
    (value) => Array.isArray(value) && value.every((one) => Number.isSafeInteger(one) && one >= 0),
    "a list of whole numbers",
  ),
  doc_to_text: template(),
  doc_to_target: template(),
  doc_to_choice: choicesEntry(),
  gen_prefix: text(),
  fewshot_delimiter: text(),
  target_delimiter: text(),
};
export interface FewshotConfig extends Readonly<Options<typeof FEWSHOT>> {}

const GROUP = {
  group: text(),
  group_alias: text(),
  task: such<string | readonly unknown[]>(
    (value) => typeof value === "string" || Array.isArray(value),
    "a list of tasks",
  ),
  tag: names(),
  aggregate_metric_list: such<unknown>((value) => isObject(value) || Array.isArray(value), "a list of objects"),
  metadata: objectEntry(),
};
const AGGREGATE = {
  metric: text(),
  aggregation: choice(["mean"]),
  weight_by_size: flag(),
  filter_list: names(),
};
export interface GroupAggregate {
  readonly metric: string;
  readonly weight_by_size: boolean;
  readonly filters: readonly string[] | undefined;
}
export interface GroupConfig {
  readonly group: string;
  readonly alias: string;
  /** Names of tasks, tags and groups, and tasks in place. */
  readonly members: readonly (string | Readonly<Record<string, unknown>>)[];
  readonly aggregates: readonly GroupAggregate[];
  readonly version: unknown;
}

/** Keys of published files that need Python, pictures or sound. */
const NOT_HERE = ["use_prompt", "custom_dataset", "doc_to_image", "doc_to_audio", "class"];

/** A file's keys without those that say nothing. */
const given = (file: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(file).filter(([, value]) => value !== null && value !== undefined));

function checked<T>(place: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof OctavoError) || cause instanceof ConfigError) throw cause;
    const [reason] = cause.message.split("\n  hint: "); // which is told once
    throw new ConfigError(`${place}: ${reason}`, { cause, hint: cause.hint });
  }
}

/** The words of a key that may be one or several. */
export const wordsOf = (value: string | readonly string[] | undefined): readonly string[] =>
  value === undefined ? [] : typeof value === "string" ? [value] : value;

/** @throws ConfigError for unknown keys and wrong values, and for what a task needs of Python */
export function readTask(place: string, file: Readonly<Record<string, unknown>>): TaskConfig {
  const keys = given(file);
  const name = typeof keys.task === "string" ? keys.task : undefined;
  if (name === undefined) throw new ConfigError(`${place}: "task" must be the task's name, got ${show(keys.task)}`);
  const strange = NOT_HERE.find((key) => Object.hasOwn(keys, key));
  if (strange !== undefined || keys.unsafe_code === true) {
    throw new ConfigError(`${place}: "${strange ?? "unsafe_code"}" is not supported`, {
      hint: "tasks are of text, and their templates are Jinja",
    });
  }
  if (typeof keys.metric_list === "object" && !Array.isArray(keys.metric_list)) keys.metric_list = [keys.metric_list];
  if (typeof keys.process_results === "string") delete keys.process_results; // the usual way, by its name
  return checked(place, () => ({ ...readOptions(`task "${name}"`, TASK, keys), task: name }));
}

/** The examples of a task: what it says about them, and otherwise about its documents. @throws ConfigError */
export function readFewshot(config: TaskConfig): FewshotConfig {
  const place = `task "${config.task}"`;
  const own = checked(place, () => readOptions("fewshot_config", FEWSHOT, given(config.fewshot_config ?? {})));
  const { fewshot_split, doc_to_target, ...usual } = config;
  if (Array.isArray(doc_to_target)) return { ...own, split: own.split ?? fewshot_split };
  return {
    ...own,
    split: own.split ?? fewshot_split,
    process_docs: own.process_docs ?? usual.process_docs,
    doc_to_text: own.doc_to_text ?? usual.doc_to_text,
    doc_to_target: own.doc_to_target ?? (doc_to_target as string | number | FunctionName | undefined),
    doc_to_choice: own.doc_to_choice ?? usual.doc_to_choice,
    gen_prefix: own.gen_prefix ?? usual.gen_prefix,
    fewshot_delimiter: own.fewshot_delimiter ?? usual.fewshot_delimiter,
    target_delimiter: own.target_delimiter ?? usual.target_delimiter,
  };
}

/** @throws ConfigError for unknown keys and wrong values */
export function readGroup(place: string, file: Readonly<Record<string, unknown>>): GroupConfig {
  const keys = checked(place, () => readOptions(place, GROUP, given(file)));
  const { group } = keys;
  if (group === undefined) throw new ConfigError(`${place}: "group" must be the group's name`);
  const members = typeof keys.task === "string" ? [keys.task] : (keys.task ?? []);
  const strange = members.find((one) => typeof one !== "string" && !isObject(one));
  if (strange !== undefined) throw new ConfigError(`${place}: ${show(strange)} is no task of a group`);
  const list = keys.aggregate_metric_list ?? [];
  const aggregates = (Array.isArray(list) ? (list as unknown[]) : [list]).map((one) => {
    if (!isObject(one)) throw new ConfigError(`${place}: ${show(one)} is no entry of aggregate_metric_list`);
    const own = checked(place, () => readOptions("aggregate_metric_list", AGGREGATE, given(one)));
    if (own.metric === undefined) throw new ConfigError(`${place}: an entry of aggregate_metric_list has no metric`);
    const filters = own.filter_list === undefined ? undefined : wordsOf(own.filter_list);
    return { metric: own.metric, weight_by_size: own.weight_by_size ?? true, filters };
  });
  return {
    group,
    alias: keys.group_alias ?? group,
    members: members as GroupConfig["members"],
    aggregates,
    version: keys.metadata?.version,
  };
}

/** The names of a list, for messages. */
export const known = (all: Iterable<string>): string => listed([...all], 24);
