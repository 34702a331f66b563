// The Python functions that published tasks name (`!function utils.process_docs`), for those tasks that are built in. Python itself
// does not run here: other names are refused.

import { ConfigError } from "../../core/errors.js";
import { listed, show } from "../../core/show.js";
import { strip, words } from "../../tokenizer/chat/blanks.js";
import type { Doc, MetricValues, Response } from "./types.js";

/** A function of a task's file, by its name. */
export class FunctionName {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  toJSON(): string {
    return `!function ${this.name}`;
  }
}

/** Of a document: its text, target or choices. */
export type FieldFunction = (doc: Doc) => unknown;
/** Of a document as the data has it: the document that the task works on. */
export type DocFunction = (doc: Doc) => Doc;
/** Of a document and the answers to its requests: the metrics' values. */
export type ResultFunction = (doc: Doc, results: readonly Response[]) => MetricValues;

const text = (doc: Doc, name: string): string => {
  const value = doc[name];
  if (typeof value === "string") return value;
  throw new ConfigError(`a document's ${show(name)} must be text, got ${show(value)}`);
};
const wholeNumber = (name: string, value: unknown): number => {
  if (/^\d+$/.test(String(value))) return Number(value);
  throw new ConfigError(`a document's ${show(name)} must be a whole number, got ${show(value)}`);
};
const stripped = (value: string): string => strip(value, undefined, true, true);

/**
 * A text whose parts between an opening and the next closing character are made anew, whatever stands between them. In one pass: a
 * regular expression would look for the end again from every opening.
 */
function between(value: string, open: string, close: string, make: (inside: string) => string): string {
  let made = "";
  let at = 0;
  for (;;) {
    const start = value.indexOf(open, at);
    const end = start < 0 ? -1 : value.indexOf(close, start + 1);
    if (end < 0) return made + value.slice(at);
    made += value.slice(at, start) + make(value.slice(start + 1, end));
    at = end + 1;
  }
}

/** Texts of HellaSwag, some of which are from WikiHow. */
function cleaned(value: string): string {
  const lines = stripped(value).replaceAll(" [title]", ". ").split("\n");
  return lines
    .map((line) => between(line, "[", "]", () => ""))
    .join("\n")
    .replaceAll("  ", " ");
}

function hellaswag(doc: Doc): Doc {
  const [first = "", ...rest] = text(doc, "ctx_b");
  const context = `${text(doc, "ctx_a")} ${first.toUpperCase()}${rest.join("").toLowerCase()}`;
  const { endings, label } = doc;
  if (!Array.isArray(endings)) throw new ConfigError(`a document's "endings" must be a list, got ${show(endings)}`);
  return {
    ...doc,
    query: cleaned(`${text(doc, "activity_label")}: ${context}`),
    choices: endings.map((ending) => cleaned(String(ending))),
    gold: wholeNumber("label", label),
  };
}

function blank(doc: Doc): readonly [before: string, after: string] {
  const sentence = text(doc, "sentence");
  const at = sentence.indexOf("_");
  if (at < 0) throw new ConfigError(`a document's "sentence" has no "_": ${show(sentence)}`);
  return [sentence.slice(0, at), sentence.slice(at + 1)];
}

/** Spaces of WikiText's tokens taken out, in this order; of pairs of brackets and quotes, those inside. */
const DETOKENIZED: readonly (readonly [RegExp | string, string] | readonly [pair: string])[] = [
  ["s '", "s'"],
  [/\/' [0-9]\//g, "/'[0-9]/"],
  [" @-@ ", "-"],
  [" @,@ ", ","],
  [" @.@ ", "."],
  [" : ", ": "],
  [" ; ", "; "],
  [" . ", ". "],
  [" ! ", "! "],
  [" ? ", "? "],
  [" , ", ", "],
  ["()"],
  ["[]"],
  ["{}"],
  ['""'],
  ["''"],
  ["= = = =", "===="],
  ["= = =", "==="],
  ["= =", "=="],
  [" ° ", "°"],
  [" \n", "\n"],
  ["\n ", "\n"],
  [" N ", " 1 "],
  [" 's", "'s"],
];

/** Words and bytes of a text, as perplexities count them. */
export function sizesOf(value: string): { readonly words: number; readonly bytes: number } {
  // As re.split(r"\s+") counts: blanks at an end leave an empty word there.
  const ends = [true, false].filter((left) => strip(value, undefined, left, !left) !== value).length;
  return { words: Math.max(1, words(value).length + ends), bytes: Buffer.byteLength(value) };
}

/** Values of the perplexities of a text: its log-likelihood, and what that is divided by. */
export function perplexities(loglikelihood: number, value: string): MetricValues {
  const { words, bytes } = sizesOf(value);
  return {
    word_perplexity: [loglikelihood, words],
    byte_perplexity: [loglikelihood, bytes],
    bits_per_byte: [loglikelihood, bytes],
  };
}

/** The share of the probability of all answers that the true ones have. */
function trueShare(doc: Doc, results: readonly Response[]): MetricValues {
  const { labels } = (doc.mc2_targets ?? {}) as { readonly labels?: unknown };
  if (!Array.isArray(labels)) throw new ConfigError('a document has no "mc2_targets" with labels');
  const shares = (results as readonly (readonly [number, boolean])[]).map(([value]) => Math.exp(value));
  const all = shares.reduce((sum, share) => sum + share, 0);
  return { acc: shares.reduce((sum, share, n) => sum + (labels[n] === 1 ? share / all : 0), 0) };
}

const DOCS: Readonly<Record<string, DocFunction>> = { "hellaswag.process_docs": hellaswag };
const FIELDS: Readonly<Record<string, FieldFunction>> = {
  "winogrande.doc_to_text": (doc) => ({ "1": 0, "2": 1 })[String(doc.answer)],
  "winogrande.doc_to_target": (doc) => stripped(blank(doc)[1]),
  "winogrande.doc_to_choice": (doc) => [doc.option1, doc.option2].map((option) => blank(doc)[0] + String(option)),
  "wikitext.wikitext_detokenizer": (doc) =>
    DETOKENIZED.reduce<string>(
      (made, [old, by]) => {
        if (by === undefined) {
          const [open, close] = [...(old as string)] as [string, string];
          return between(made, open, close, (inside) => open + stripped(inside) + close);
        }
        return typeof old === "string" ? made.replaceAll(old, by) : made.replace(old, by);
      },
      text(doc, "page"),
    ),
};
const RESULTS: Readonly<Record<string, ResultFunction>> = {
  "wikitext.process_results": (doc, [loglikelihood]) => perplexities(loglikelihood as number, text(doc, "page")),
  "truthfulqa.process_results_mc2": trueShare,
};

/**
 * A function of a table. Task files name the file of a function beside its name (`preprocess_winogrande.doc_to_text`,
 * `utils.process_docs`); which task's it is, the task's own name says.
 */
function named<T>(table: Readonly<Record<string, T>>, task: string, key: string, { name }: FunctionName): T {
  const [file = "", own = name] = name.split(/\.(?=[^.]*$)/);
  for (const [full, made] of Object.entries(table)) {
    const [family = "", last] = full.split(".");
    if (
      full === name ||
      (last === own && (file === `preprocess_${family}` || (file === "utils" && task.startsWith(family))))
    )
      return made;
  }
  throw new ConfigError(`task "${task}": ${key} is the Python function ${show(name)}, which is not built in`, {
    hint: `write it as a template, or use one of ${listed(Object.keys(table), 8)}`,
    details: { key },
  });
}

export const docFunction = (task: string, name: FunctionName): DocFunction => named(DOCS, task, "process_docs", name);
export const fieldFunction = (task: string, key: string, name: FunctionName): FieldFunction =>
  named(FIELDS, task, key, name);
export const resultFunction = (task: string, name: FunctionName): ResultFunction =>
  named(RESULTS, task, "process_results", name);
