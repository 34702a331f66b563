// What the form says.

import type { WorkerLoadOptions } from "octavo/browser";
import { element } from "./page.js";

export const STORYTELLER = "./models/octavo/storyteller/";
/** What begins every story that the storyteller has learned; other tokenizers begin texts by themselves. */
export const BEGIN = "<|endoftext|>";

/** Beginnings to try. A title stands above its story. */
export const EXAMPLES: readonly { readonly name: string; readonly prompt: string }[] = [
  { name: "A princess", prompt: "The Princess and the Dragon\n\n" },
  { name: "A fox", prompt: "The Fox and the Crow\n\n" },
  { name: "Once upon a time", prompt: "Once upon a time there was a poor miller who had" },
  { name: "At the door", prompt: "“Who is there?” asked the old woman, and opened the door. " },
];

/** The storages of weights: what each loads, and its name among the sizes of a survey. */
export const BITS: Readonly<Record<string, { options: WorkerLoadOptions; size: string }>> = {
  "4": { options: { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } }, size: "nf4" },
  "8": { options: { load_in_8bit: true }, size: "int8" },
  "16": { options: { dtype: "bfloat16" }, size: "bfloat16" },
  "32": { options: { dtype: "float32" }, size: "float32" },
};
/** The first is what the others are compared with. */
const COMPARED = ["16", "8", "4"];

export const form = element<HTMLFormElement>("form");
export const prompt = element<HTMLTextAreaElement>("prompt");
export const which = element<HTMLSelectElement>("which");
export const other = element<HTMLInputElement>("other");
const device = element<HTMLSelectElement>("device");
const seed = element<HTMLInputElement>("seed");
const keepSeed = element<HTMLInputElement>("keep-seed");

/** The storages to write in: one, or several to compare. */
export function bits(): readonly string[] {
  const chosen = new FormData(form).get("bits") as string;
  return chosen === "compare" ? COMPARED : [chosen];
}

export interface Choice {
  /** Address or id of the model; empty if none is named. */
  readonly name: string;
  readonly device: WorkerLoadOptions["device"];
}

export function choice(): Choice {
  const name = which.value === "storyteller" ? STORYTELLER : other.value.trim();
  return { name, device: device.value as WorkerLoadOptions["device"] };
}

/** The text to continue, as the model gets it; empty only if nothing is given to a model that needs a beginning. */
export function modelPrompt(): string {
  return (which.value === "storyteller" ? BEGIN : "") + prompt.value;
}

export interface Request {
  readonly prompt: string;
  readonly max_new_tokens: number;
  readonly do_sample: boolean;
  readonly temperature?: number;
  readonly seed?: number;
}

/** What to write and how: with a new seed, which the form then shows, unless the one there is kept. */
export function request(): Request {
  if (!keepSeed.checked || seed.value === "") seed.value = String(newSeed());
  const temperature = element<HTMLInputElement>("temperature").valueAsNumber;
  const asked = { prompt: modelPrompt(), max_new_tokens: element<HTMLInputElement>("tokens").valueAsNumber };
  return temperature > 0
    ? { ...asked, do_sample: true, temperature, seed: seed.valueAsNumber }
    : { ...asked, do_sample: false };
}

/** Six digits: few enough to be typed again. */
function newSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]! % 1_000_000;
}

// A seed that somebody types is meant to be used.
seed.addEventListener("input", () => {
  keepSeed.checked = seed.value !== "";
});
