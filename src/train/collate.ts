// The collator that a Trainer uses without another: texts are padded to the longest of the batch, and labels with -100.

import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { IGNORED } from "../ops/cross-entropy.js";
import { padRows } from "./data/collator-options.js";
import type { Batch, DataCollator, Feature } from "./data/types.js";

/** What padding needs of a tokenizer. */
interface Pads {
  readonly pad_token_id?: number | null | undefined;
  readonly padding_side?: string | undefined;
}

/** Columns whose lists are padded, and with what. */
const FILL: Readonly<Record<string, number>> = { attention_mask: 0, token_type_ids: 0, labels: IGNORED };

/** A copy of a list of numbers; undefined for anything else. */
function numbers(value: unknown): number[] | undefined {
  if (ArrayBuffer.isView(value) && !(value instanceof DataView))
    return Array.from(value as unknown as ArrayLike<number>, Number);
  return listOf(value, (one): one is number => typeof one === "number");
}

/** A feature's columns: `label` and `label_ids` are labels, as in transformers; what is null is not there. */
function columnsOf(feature: Feature, keep: (name: string) => boolean): Map<string, unknown> {
  const columns = new Map<string, unknown>();
  for (const [name, value] of Object.entries(feature)) {
    if (value === undefined || value === null) continue;
    const own = name === "label" || name === "label_ids" ? "labels" : name;
    if (keep(own)) columns.set(own, value);
  }
  return columns;
}

/**
 * Makes batches: lists of one column are padded to its longest (`input_ids` with the tokenizer's padding, `labels` with -100), other
 * columns become lists of their values. An `attention_mask` is made where there is padding.
 * @param tokenizer without one, all texts of a batch must have one length
 * @param keep which columns are left in
 */
export function paddingCollator(tokenizer: unknown, keep: (name: string) => boolean = () => true): DataCollator {
  return (features) => {
    const { pad_token_id, padding_side } = (tokenizer ?? {}) as Pads;
    const rows = features.map((feature) => columnsOf(feature, keep));
    const names = [...(rows[0]?.keys() ?? [])];
    const batch: Record<string, unknown> = {};
    for (const name of names) {
      const values = rows.map((row, i) => {
        if (row.has(name)) return row.get(name);
        throw new OptionError(`example ${i} of a batch has no ${name}, and the first one has`);
      });
      const lists = values.map(numbers);
      if (lists.some((list) => list === undefined)) {
        batch[name] = values;
        continue;
      }
      const longest = lists.reduce((most, list) => Math.max(most, list!.length), 0);
      const uneven = lists.some((list) => list!.length < longest);
      const fill = name === "input_ids" ? pad_token_id : FILL[name];
      if (uneven && typeof fill !== "number") {
        throw new OptionError(`${name} of a batch have several lengths, and nothing says what they are padded with`, {
          hint:
            name === "input_ids"
              ? "pass the tokenizer as processing_class; it needs a pad_token"
              : "pass a data_collator",
          details: { got: show(fill) },
        });
      }
      const side = padding_side === "left" ? "left" : "right";
      const padded = (rows: readonly number[][], value: number): number[][] => padRows(rows, longest, value, side);
      batch[name] = padded(lists as number[][], fill as number);
      if (uneven && name === "input_ids" && !names.includes("attention_mask")) {
        batch.attention_mask = padded(
          lists.map((list) => list!.map(() => 1)),
          0,
        );
      }
    }
    return batch as Batch;
  };
}
