// A task: its documents, the requests that it makes of them, and what the answers are worth. The rules are those of
// lm-evaluation-harness's ConfigurableTask.

import { ConfigError, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { warnOnce } from "../../generate/warn.js";
import { printed, renderFields } from "../../tokenizer/chat/fields.js";
import type { Splits } from "./datasets.js";
import { type Filter, filterOf } from "./filters.js";
import {
  docFunction,
  FunctionName,
  fieldFunction,
  perplexities,
  type ResultFunction,
  resultFunction,
} from "./functions.js";
import { metricOf, USUAL, type UsedMetric } from "./metrics.js";
import { choiceValues } from "./multiple-choice.js";
import { conversation, endsBlank, type Message, plainText, type Said, spaced, turn } from "./prompt.js";
import { literalOf } from "./python-literal.js";
import { PythonRandom } from "./python-random.js";
import { type FewshotConfig, readFewshot, type TaskConfig } from "./task-config.js";
import type { Doc, Instance, MetricValue, MetricValues, OutputType, Response } from "./types.js";

/** Which documents, and with which examples. */
export interface TaskRun {
  /** Examples in front of each question; by default what the task says. A task that says 0 keeps it. */
  readonly num_fewshot?: number | undefined;
  /** The first documents: their number, or below 1 their share. */
  readonly limit?: number | undefined;
  readonly fewshot_seed?: number | undefined;
  readonly gen_kwargs?: Readonly<Record<string, unknown>> | undefined;
  /** What stands in front of everything else. */
  readonly system_instruction?: string | undefined;
  /** Prompts are conversations. */
  readonly chat?: Chat | undefined;
}

/** How conversations become prompts. */
export interface Chat {
  /** Whether examples are turns of their own. */
  readonly multiturn: boolean;
  /** @param open the last message is what the answer begins with, and goes on */
  render(messages: readonly Said[], open: boolean): string;
}

const FEWSHOT_SEED = 1234;

export class Task {
  readonly config: TaskConfig;
  readonly name: string;
  readonly output_type: OutputType;
  readonly metrics: readonly UsedMetric[];
  readonly filters: readonly { readonly name: string; readonly steps: readonly Filter[] }[];
  /** Examples in front of each question of the last requests. */
  num_fewshot = 0;
  /** Documents that there are. */
  documents: readonly Doc[] = [];
  instances: readonly Instance[] = [];
  /** How often each request is made. */
  readonly repeats: number;
  readonly #splits: Splits;
  readonly #fewshot: FewshotConfig;
  readonly #results: ResultFunction | undefined;

  /** @throws ConfigError for metrics, filters and functions that are not known */
  constructor(config: TaskConfig, splits: Splits) {
    this.config = config;
    this.name = config.task;
    this.output_type = config.output_type ?? "generate_until";
    this.repeats = config.repeats ?? 1;
    this.#splits = splits;
    this.#fewshot = readFewshot(config);
    const place = `task "${this.name}"`;
    const { process_results: own } = config;
    this.#results = own && resultFunction(this.name, own);
    const list = config.metric_list ?? USUAL[this.output_type].map((metric) => ({ metric }));
    this.metrics = list.map((given) => metricOf(place, given, this.output_type, own !== undefined));
    const filters = config.filter_list ?? [{ name: "none", filter: [{ function: "take_first" }] }];
    this.filters = filters.map(({ name, filter }) => {
      if (typeof name !== "string" || !Array.isArray(filter)) {
        throw new ConfigError(`${place}: an entry of filter_list needs a name and a list "filter"`);
      }
      return { name, steps: filter.map((step) => filterOf(place, step)) };
    });
    if (config.process_docs) docFunction(this.name, config.process_docs);
    if (config.should_decontaminate) {
      warnOnce("should_decontaminate", `${place}: should_decontaminate has no effect: training data is not searched`);
    }
  }

  get version(): unknown {
    return this.config.metadata?.version ?? "Yaml";
  }

  /** Documents of the data, and the requests of those that a run is of. @throws ConfigError, OptionError, NotFoundError */
  async build(run: TaskRun = {}): Promise<void> {
    const { test_split, validation_split, num_fewshot: own } = this.config;
    const split = test_split ?? validation_split;
    if (split === undefined)
      throw new ConfigError(`task "${this.name}" has neither a test_split nor a validation_split`);
    this.num_fewshot = own === 0 ? 0 : (run.num_fewshot ?? own ?? 0);
    this.documents = await this.#docs(split, this.config.process_docs);
    const { limit } = run;
    const count =
      limit === undefined ? this.documents.length : limit < 1 ? Math.ceil(this.documents.length * limit) : limit;
    const examples = await this.#sampler(run.fewshot_seed ?? FEWSHOT_SEED);
    this.instances = this.documents
      .slice(0, count)
      .flatMap((doc, doc_id) =>
        this.#requests(doc, this.#context(doc, examples(doc), run), run).map(
          (given, idx): Instance => ({ doc_id, idx, arguments: given, resps: [] }),
        ),
      );
  }

  async #docs(split: string, process: FunctionName | undefined): Promise<readonly Doc[]> {
    const docs = await this.#splits(split);
    return process ? docs.map(docFunction(this.name, process)) : docs;
  }

  /** What gives the examples for a document: as many random ones as asked for, from one stream, or always the first ones. */
  async #sampler(seed: number): Promise<(doc: Doc) => readonly Doc[]> {
    const n = this.num_fewshot;
    if (n === 0) return () => [];
    const { sampler = "default", split, samples, process_docs, fewshot_indices } = this.#fewshot;
    const { training_split, validation_split, test_split } = this.config;
    const usual = training_split ?? validation_split ?? test_split;
    const all =
      split !== undefined
        ? await this.#docs(split, process_docs)
        : (samples ?? (await this.#docs(usual!, this.config.process_docs)));
    const pool = fewshot_indices ? fewshot_indices.filter((at) => at < all.length).map((at) => all[at]!) : all;
    const random = new PythonRandom(seed);
    // The document itself may be among them where the splits are the same, or neither is named.
    const itself = split === test_split;
    const enough = (docs: readonly Doc[]): readonly Doc[] => {
      if (docs.length >= n) return docs;
      throw new OptionError(`task "${this.name}": ${n} examples of the ${docs.length} that there are`);
    };
    return (doc) => {
      const same = JSON.stringify(doc);
      const other = (one: Doc): boolean => JSON.stringify(one) !== same;
      if (sampler === "first_n") return enough(itself ? pool.filter(other) : pool).slice(0, n);
      if (!itself) return random.sample(enough(pool), n);
      const drawn =
        pool.length > n
          ? random
              .sample(pool, n + 1)
              .filter(other)
              .slice(0, n)
          : [];
      return drawn.length === n ? drawn : random.sample(enough(pool.filter(other)), n);
    };
  }

  #place(key: string): string {
    return `task "${this.name}": ${key}`;
  }

  /** A value as Python makes text of it. */
  #printed(key: string, value: unknown): string {
    return printed(this.#place(key), value);
  }

  /** A field, or the text of a template. */
  #field(key: string, doc: Doc, given: unknown): unknown {
    if (given instanceof FunctionName) return fieldFunction(this.name, key, given)(doc);
    if (typeof given !== "string") return given;
    return Object.hasOwn(doc, given) ? doc[given] : renderFields(this.#place(key), given, doc);
  }

  /** Text, or the number of a choice. */
  #text(doc: Doc, given: unknown): string | number {
    const made = this.#field("doc_to_text", doc, given ?? "");
    if (typeof made === "number") return made;
    if (typeof made !== "string")
      throw new ConfigError(`${this.#place("doc_to_text")}: it must make text, got ${show(made)}`);
    return typeof given === "string" && !Object.hasOwn(doc, given) ? this.#number(made) : made;
  }

  #target(doc: Doc, given: unknown): unknown {
    const made = this.#field("doc_to_target", doc, given ?? "");
    if (typeof made !== "string" || typeof given !== "string" || Object.hasOwn(doc, given)) return made;
    if (made.length >= 2 && made.startsWith("[") && made.endsWith("]")) return literalOf(made) ?? made;
    return this.#number(made);
  }

  /** Digits are the number of a choice, where there are choices. */
  #number(made: string): string | number {
    return this.config.doc_to_choice !== undefined && /^\d+$/.test(made) ? Number(made) : made;
  }

  #choices(doc: Doc, given: unknown = this.config.doc_to_choice): readonly string[] {
    const made = this.#field("doc_to_choice", doc, given);
    const isTemplate = typeof given === "string" && !Object.hasOwn(doc, given);
    const list = isTemplate ? literalOf(made as string) : made;
    const values = typeof list === "object" && list !== null ? Object.values(list) : undefined;
    if (values?.every((one) => typeof one === "string") && values.length > 0) return values as string[];
    throw new ConfigError(`${this.#place("doc_to_choice")}: it must make a list of texts, got ${show(list)}`);
  }

  /** The target of a document, as it is logged. */
  target(doc: Doc): unknown {
    return this.#target(doc, this.config.doc_to_target);
  }

  /** The text in front of the answer; of a task whose choices are beginnings, one for each. */
  #context(doc: Doc, examples: readonly Doc[], { system_instruction = "", chat }: TaskRun): string | readonly string[] {
    const {
      description = "",
      target_delimiter = " ",
      fewshot_delimiter = "\n\n",
      doc_to_text,
      gen_prefix,
    } = this.config;
    const prefixOf = (of: Doc, given: string | undefined) =>
      given === undefined ? "" : this.#printed("gen_prefix", this.#field("gen_prefix", of, given));
    const own = this.#fewshot;
    const shown = examples.flatMap((example) => {
      const question = this.#text(example, own.doc_to_text);
      const list = own.doc_to_choice === undefined ? undefined : this.#choices(example, own.doc_to_choice);
      const answer = this.#target(example, own.doc_to_target);
      const begins = typeof question === "number";
      return turn({
        question: begins ? String(list?.[question]) : question,
        answer: this.#answer(answer, begins ? undefined : list),
        prefix: prefixOf(example, own.gen_prefix),
        target_delimiter: own.target_delimiter ?? " ",
        fewshot_delimiter: own.fewshot_delimiter ?? "\n\n",
      });
    });
    const system = spaced(
      system_instruction,
      this.#printed("description", this.#field("description", doc, description)),
      fewshot_delimiter,
    );
    const before: Message[] = system === "" ? [] : [{ role: "system", content: system, delimiter: "" }];
    const prefix = prefixOf(doc, gen_prefix);
    const asked = (question: string, delimiter: string): string => {
      const last = turn({ question, answer: "", prefix, target_delimiter: delimiter, fewshot_delimiter: "" });
      const messages = [...before, ...shown, ...last];
      return chat ? chat.render(conversation(messages, chat.multiturn), prefix !== "") : plainText(messages);
    };
    const question = this.#text(doc, doc_to_text);
    if (typeof question === "string") return asked(question, target_delimiter);
    return this.#choices(doc).map((choice) => asked(choice, ""));
  }

  /** The text of an example's answer. */
  #answer(answer: unknown, choices: readonly string[] | undefined): string {
    const one = Array.isArray(answer) ? (answer as unknown[])[0] : answer;
    const made = choices && typeof one === "number" ? choices[one] : one;
    if (typeof made === "string") return made;
    throw new ConfigError(`${this.#place("doc_to_target")}: an example's answer must be text, got ${show(made)}`);
  }

  #requests(doc: Doc, context: string | readonly string[], run: TaskRun): Instance["arguments"][] {
    const { gen_prefix } = this.config;
    // In a conversation the template separates question and answer.
    const apart = !run.chat || (gen_prefix !== undefined && gen_prefix !== "" && !endsBlank(gen_prefix));
    const target_delimiter = apart ? (this.config.target_delimiter ?? " ") : "";
    if (this.output_type === "multiple_choice") {
      if (typeof context !== "string") {
        return context.map((one) => [one, target_delimiter + this.#printed("doc_to_target", this.target(doc))]);
      }
      const choices = this.#choices(doc).map((choice) => target_delimiter + choice);
      const alone = this.metrics.some(({ name }) => name === "acc_mutual_info");
      return [
        ...choices.map((choice): [string, string] => [context, choice]),
        ...(alone ? choices.map((choice): [string, string] => ["", choice]) : []),
      ];
    }
    if (typeof context !== "string") {
      throw new ConfigError(`${this.#place("doc_to_text")}: a choice's number is for output_type multiple_choice`);
    }
    if (this.output_type === "generate_until") return [[context, this.#generation(run)]];
    const target = this.target(doc);
    if (typeof target !== "string") {
      throw new ConfigError(`${this.#place("doc_to_target")}: it must make text, got ${show(target)}`);
    }
    return this.output_type === "loglikelihood" ? [[context, target]] : [[target]];
  }

  #generation({ gen_kwargs }: TaskRun): Readonly<Record<string, unknown>> {
    const { fewshot_delimiter = "\n\n", generation_kwargs } = this.config;
    const usual = { until: [fewshot_delimiter], temperature: 0, do_sample: false };
    return { ...(generation_kwargs ? { until: usual.until, ...generation_kwargs } : usual), ...gen_kwargs };
  }

  /** What is left of the answers to a request. */
  filtered(instance: Instance, filter: { readonly steps: readonly Filter[] }): Response {
    const left = filter.steps.reduce<readonly Response[] | Response>((rest, step) => step(rest), instance.resps);
    return left as Response;
  }

  /** The metrics' values of a document. @throws ConfigError for answers that do not fit */
  values(doc: Doc, results: readonly Response[]): MetricValues {
    if (this.#results) return this.#results(doc, results);
    const used = new Set(this.metrics.map(({ name }) => name));
    const only = (all: MetricValues): MetricValues =>
      Object.fromEntries(Object.entries(all).filter(([name]) => used.has(name)));
    switch (this.output_type) {
      case "loglikelihood": {
        const [value, is_greedy] = results[0] as readonly [number, boolean];
        return only({ perplexity: value, acc: Number(is_greedy) });
      }
      case "loglikelihood_rolling":
        return only(perplexities(results[0] as number, String(this.target(doc))));
      case "multiple_choice": {
        const begins = this.#text(doc, this.config.doc_to_text);
        const gold = typeof begins === "number" ? begins : this.target(doc);
        const pairs = results as readonly (readonly [number, boolean])[];
        return only(choiceValues(pairs, this.#choices(doc), gold));
      }
      default:
        return this.#ofText(doc, results[0]!);
    }
  }

  /** Of a written answer, beside the target or several. */
  #ofText(doc: Doc, result: Response): MetricValues {
    const target = this.target(doc);
    const one =
      typeof target === "number" && this.config.doc_to_choice !== undefined ? this.#choices(doc)[target] : target;
    const targets = Array.isArray(one) ? (one as unknown[]) : [one];
    const all = targets.map((own) => this.#printed("doc_to_target", own));
    const text = Array.isArray(result) ? String((result as readonly unknown[])[0]) : String(result);
    return Object.fromEntries(this.metrics.map(({ name, ofText }): [string, MetricValue] => [name, ofText(text, all)]));
  }
}
