// The card of what was trained: README.md of its folder, as hubs show it.

import { countOf } from "./output.js";

export interface Card {
  /** The model as it was named. */
  readonly model: string;
  /** What was trained: "LoRA, r 8, on q_proj and v_proj". */
  readonly trained: string;
  readonly trainable: number;
  readonly all: number;
  readonly data: string;
  readonly full: boolean;
  readonly folder: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly steps: number;
  readonly first_loss: number | undefined;
  readonly last_loss: number | undefined;
  readonly eval_loss: number | undefined;
  readonly chat: boolean;
}

/** A text as one line of Markdown, which it cannot leave. */
const plain = (text: string): string => text.replace(/[\r\n`|<>[\]]/g, " ").trim();

/** An id of a hub, which a card may name as its base. */
const isId = (model: string): boolean => /^[\w.-]+\/[\w.-]+$/.test(model) && !/^\.{1,2}\//.test(model);

const number = (value: number | undefined): string => (value === undefined ? "–" : value.toFixed(4));

export function cardOf(card: Card): string {
  const { model, full, folder, options } = card;
  const place = JSON.stringify(folder);
  const front = [
    "---",
    ...(isId(model) ? [`base_model: ${model}`] : []),
    `library_name: ${full ? "transformers" : "peft"}`,
    "tags:",
    ...(full ? [] : ["- lora"]),
    "- octavo",
    "---",
  ];
  const prompt = card.chat ? '--chat "Hello"' : '"Once upon a time"';
  const run = full
    ? `octavo generate ${place} ${prompt}`
    : `octavo generate ${JSON.stringify(model)} ${prompt} --adapter ${place}`;
  const code = full
    ? [`const model = await AutoModelForCausalLM.from_pretrained(${place});`]
    : [
        `const model = await AutoModelForCausalLM.from_pretrained(${JSON.stringify(model)});`,
        `await model.load_adapter(${place});`,
      ];
  return `${[
    ...front,
    "",
    `# ${full ? "A fine-tune" : "An adapter"} of ${plain(model)}`,
    "",
    `${plain(card.trained)}: ${countOf(card.trainable)} of ${countOf(card.all)} parameters, trained on ${plain(card.data)}.`,
    "",
    "![The loss over the steps](loss.svg)",
    "",
    "| | |",
    "| --- | --- |",
    `| updates | ${card.steps} |`,
    `| first loss | ${number(card.first_loss)} |`,
    `| last loss | ${number(card.last_loss)} |`,
    ...(card.eval_loss === undefined ? [] : [`| loss on data that was not trained on | ${number(card.eval_loss)} |`]),
    ...Object.entries(options).map(([name, value]) => `| ${name} | ${plain(String(value))} |`),
    "",
    "All numbers of the run are in metrics.jsonl.",
    "",
    "## Use",
    "",
    "```",
    run,
    "```",
    "",
    "```ts",
    'import { AutoModelForCausalLM } from "octavo";',
    "",
    ...code,
    "```",
    "",
    "Made by `octavo train`.",
  ].join("\n")}\n`;
}
