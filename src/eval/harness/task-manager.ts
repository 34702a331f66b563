// Which tasks there are by which names: those built in, and the files of users' folders. Files are read as YAML with the tag
// `!function`, and may include others.

import { readdir, readFile, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { parse } from "yaml";
import { listOf } from "../../core/checks.js";
import { ConfigError, NotFoundError, suggestion } from "../../core/errors.js";
import { type Options, readOptions, signal, text } from "../../core/options.js";
import { show } from "../../core/show.js";
import { SOURCE } from "../../load/options.js";
import { systemCode } from "../../sources/file-errors.js";
import { decodeText } from "../../sources/text.js";
import { isText, listed } from "./arguments.js";
import { BUILT_IN } from "./builtin.js";
import { type Splits, splitsOf } from "./datasets.js";
import { FunctionName } from "./functions.js";
import { Task } from "./task.js";
import { type GroupConfig, known, readGroup, readTask } from "./task-config.js";

type File = Readonly<Record<string, unknown>>;

/** A task or group that was found, and the folder that its paths are relative to. */
interface Found {
  readonly file: File;
  readonly place: string;
  readonly base: string;
}

/** Tasks that were asked for, and the groups that they were asked for by. */
export interface LoadedTasks {
  readonly tasks: readonly Task[];
  readonly groups: readonly LoadedGroup[];
}
export interface LoadedGroup {
  readonly config: GroupConfig;
  /** Names of its tasks and groups. */
  readonly children: readonly string[];
  /** Names of all tasks in it. */
  readonly tasks: readonly string[];
}

const MANAGER = {
  /** A folder with task files, `*.yaml`, or one such file. */
  include_path: text(),
  /** The folder of the data sets: `<data_dir>/<data set>/<split>.jsonl`. */
  data_dir: text(),
  /** The hub of data sets that are not there, as of models; their files come into the cache, whatever hub they are from. */
  hub: SOURCE.hub,
  cache_dir: SOURCE.cache_dir,
  local_files_only: SOURCE.local_files_only,
  token: SOURCE.token,
  timeout: SOURCE.timeout,
  /** Ends downloads. */
  signal: signal(),
};
export interface TaskManagerOptions extends Readonly<Options<typeof MANAGER>> {}

const LONGEST_INCLUDE = 8;

export class TaskManager {
  readonly #options: TaskManagerOptions;
  /** Data that was read, by what says where it is. */
  readonly #data = new Map<string, Splits>();
  #found: Promise<ReadonlyMap<string, Found>> | undefined;

  /** @throws OptionError */
  constructor(options: TaskManagerOptions = {}) {
    this.#options = readOptions("TaskManager", MANAGER, options);
  }

  /** The names of all tasks and groups. @throws NotFoundError, ConfigError for what is no task file */
  async all_tasks(): Promise<string[]> {
    return [...(await this.#all()).keys()].sort();
  }

  /**
   * Tasks by name, by the name of a group or tag, or by a pattern with `*`.
   * @throws NotFoundError for a name that is not known; ConfigError for files that cannot be used
   */
  async load(names: readonly string[]): Promise<LoadedTasks> {
    const wanted = listed("TaskManager.load", names, isText, "names");
    const all = await this.#all();
    const tasks = new Map<string, Task>();
    const groups = new Map<string, LoadedGroup>();
    const open = new Set<string>();
    /** Loads what has a name, its tasks with other keys. Gives the names of its tasks. */
    const add = (name: string, changes: File = {}): readonly string[] => {
      const found = all.get(name);
      if (!found) {
        const members = membersOf(all, name);
        if (members.length > 0) return members.flatMap((member) => add(member, changes));
        const near = suggestion(name, [...all.keys()]);
        throw new NotFoundError(`no task is called ${show(name)}${near ? `; did you mean "${near}"?` : ""}`, {
          hint: `known: ${known([...all.keys()].filter((one) => !/^mmlu_/.test(one)))}; others: --include-path <folder>`,
        });
      }
      if (isGroup(found.file)) return addGroup(name, found, changes);
      // Of a task that is named more than once the last one counts.
      tasks.set(name, this.#task({ ...found, file: { ...found.file, ...changes, task: name } }));
      return [name];
    };
    const addGroup = (name: string, { file, place, base }: Found, changes: File): readonly string[] => {
      if (open.has(name)) throw new ConfigError(`${place}: the group "${name}" contains itself`);
      open.add(name);
      const [own, rest] = partsOf(file);
      const config = readGroup(place, { ...own, group: name });
      const keys = { ...rest, ...changes };
      const children = new Map<string, () => readonly string[]>();
      for (const member of config.members) {
        for (const [child, load] of membersOfGroup(name, { file, place, base }, member, keys)) {
          children.set(child, load);
        }
      }
      const leaves = [...children.values()].flatMap((load) => load());
      groups.set(name, { config, children: [...children.keys()], tasks: leaves });
      open.delete(name);
      return leaves;
    };
    /** The children that an entry of a group names, and what loads each. */
    const membersOfGroup = (
      group: string,
      { place, base }: Found,
      member: string | File,
      changes: File,
    ): readonly (readonly [string, () => readonly string[]])[] => {
      if (typeof member === "string") return named(member, changes);
      if (member.group !== undefined) {
        const { group: inner, ...own } = member;
        if (!isText(inner)) throw new ConfigError(`${place}: ${show(inner)} is no name of a group`);
        if (isKnown(inner)) return named(inner, { ...changes, ...own });
        const name = `${group}::${inner}`;
        return [[name, () => addGroup(name, { file: member, place, base }, changes)]];
      }
      const { task, ...own } = member;
      if (!isText(task)) throw new ConfigError(`${place}: ${show(member)} is no task of a group`);
      if (isKnown(task)) return named(task, { ...changes, ...own });
      const name = `${group}::${task}`;
      const made = (): readonly string[] => {
        tasks.set(name, this.#task({ place, base, file: { ...changes, ...own, task: name } }));
        return [name];
      };
      return [[name, made]];
    };
    const isKnown = (name: string): boolean => all.has(name) || membersOf(all, name).length > 0;
    const named = (name: string, changes: File): (readonly [string, () => readonly string[]])[] =>
      (all.has(name) || membersOf(all, name).length === 0 ? [name] : membersOf(all, name)).map((one) => [
        one,
        () => add(one, changes),
      ]);
    for (const name of wanted) add(name);
    return { tasks: [...tasks.values()], groups: [...groups.values()] };
  }

  #task({ file, place, base }: Found): Task {
    const config = readTask(place, file);
    const { task, dataset_path, dataset_name, dataset_kwargs } = config;
    const key = JSON.stringify([base, task, dataset_path, dataset_name, dataset_kwargs]);
    const splits = this.#data.get(key) ?? splitsOf(config, this.#options, base);
    this.#data.set(key, splits);
    return new Task(config, splits);
  }

  #all(): Promise<ReadonlyMap<string, Found>> {
    this.#found ??= findAll(this.#options.include_path);
    return this.#found;
  }
}

/** A name, or a list of names; undefined for anything else. */
const namesIn = (value: unknown): readonly string[] | undefined => (isText(value) ? [value] : listOf(value, isText));

const isGroup = (file: File): boolean => typeof file.group === "string";

/** Names of the tasks with a tag, or that fit a pattern. */
function membersOf(all: ReadonlyMap<string, Found>, name: string): string[] {
  const pattern = name.includes("*")
    ? new RegExp(`^${name.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`)
    : undefined;
  return [...all].flatMap(([task, { file }]) => {
    if (pattern) return pattern.test(task) && !isGroup(file) ? [task] : [];
    return namesIn(file.tag)?.includes(name) ? [task] : [];
  });
}

/** Keys of a group itself. What else its file says is said of all its tasks. */
const OF_GROUPS: ReadonlySet<string> = new Set([
  ...["group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"],
]);

function partsOf(file: File): readonly [own: File, rest: File] {
  const entries = Object.entries(file);
  return [
    Object.fromEntries(entries.filter(([key]) => OF_GROUPS.has(key))),
    Object.fromEntries(entries.filter(([key]) => !OF_GROUPS.has(key))),
  ];
}

async function findAll(include_path: string | undefined): Promise<ReadonlyMap<string, Found>> {
  const found = new Map<string, Found>();
  const add = (file: File, place: string, base: string): void => {
    const name = isGroup(file) ? file.group : file.task;
    if (typeof name === "string") found.set(name, { file, place, base });
  };
  for (const file of BUILT_IN) add(file, `task "${String(file.task ?? file.group)}"`, ".");
  if (include_path === undefined) return found;
  const info = await stat(include_path).catch((cause: unknown) => {
    throw new NotFoundError(`${include_path}: no folder or file of tasks is there (${systemCode(cause)})`, { cause });
  });
  const files = info.isDirectory()
    ? (await readdir(include_path, { recursive: true }))
        .filter((name) => /\.ya?ml$/.test(name))
        .map((name) => join(include_path, name))
    : [include_path];
  for (const path of files.sort()) {
    const file = await readYaml(path, 0);
    add(file, path, dirname(resolve(path)));
  }
  return found;
}

/** A file with those that it includes; its own keys count. */
async function readYaml(path: string, depth: number): Promise<File> {
  if (depth > LONGEST_INCLUDE)
    throw new ConfigError(`${path}: files include each other more than ${LONGEST_INCLUDE} times`);
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw new NotFoundError(`${path}: the task file cannot be read (${systemCode(cause)})`, { cause });
  });
  const source = decodeText(bytes, path);
  let file: unknown;
  try {
    file = parse(source, {
      customTags: [{ tag: "!function", resolve: (name: string) => new FunctionName(name) }],
      prettyErrors: true,
      maxAliasCount: 100,
    });
  } catch (cause) {
    throw new ConfigError(`${path}: it is no YAML: ${(cause as Error).message.split("\n")[0]}`, { cause });
  }
  try {
    JSON.stringify(file);
  } catch (cause) {
    throw new ConfigError(`${path}: a value of the task file contains itself, by an alias`, { cause });
  }
  if (typeof file !== "object" || file === null || Array.isArray(file)) {
    throw new ConfigError(`${path}: a task file has keys and values, got ${show(file)}`);
  }
  const { include = [], ...own } = file as Record<string, unknown>;
  const names = namesIn(include);
  if (!names) throw new ConfigError(`${path}: "include" must be a name or a list of names, got ${show(include)}`);
  let merged: File = own;
  for (const name of names.toReversed()) {
    merged = { ...(await readYaml(resolve(dirname(path), name), depth + 1)), ...merged };
  }
  return merged;
}
