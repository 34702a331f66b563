// What the parts of an evaluation pass to each other.

/** One item of a data set. */
export type Doc = Readonly<Record<string, unknown>>;

/** What a model answers: a continuation's log-likelihood and whether it is the likeliest, a whole text's, or a text. */
export type Response = readonly [loglikelihood: number, is_greedy: boolean] | number | string;

/** A metric's value for one item: a number, or what its aggregation takes. */
export type MetricValue = number | readonly [unknown, unknown];
export type MetricValues = Readonly<Record<string, MetricValue>>;

export const OUTPUT_TYPES = ["loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until"] as const;
export type OutputType = (typeof OUTPUT_TYPES)[number];

/** One request to a model, and its answers. */
export interface Instance {
  readonly doc_id: number;
  /** Its place among the requests of its document. */
  readonly idx: number;
  readonly arguments:
    | readonly [string]
    | readonly [string, string]
    | readonly [string, Readonly<Record<string, unknown>>];
  /** One for each repeat. */
  readonly resps: Response[];
}
