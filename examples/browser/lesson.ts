// What the model is taught in this page: texts that it learns as an adapter, and whether it writes by them.

import type { WorkerHost, WorkerTrained } from "octavo/browser";
import { element, show } from "./page.js";
import { BEGIN, STORYTELLER } from "./settings.js";

const texts = element<HTMLTextAreaElement>("lesson-texts");
const updates = element<HTMLInputElement>("updates");
const learnButton = element<HTMLButtonElement>("learn");
const stopButton = element<HTMLButtonElement>("stop-learning");
const keepButton = element<HTMLButtonElement>("keep");
const use = element<HTMLInputElement>("use");
const progress = element<HTMLProgressElement>("lesson-progress");

/** Learned once by hand: strong enough to be seen in the next text, and the stories stay stories. */
const ARGS = {
  learning_rate: 5e-3,
  lr_scheduler_type: "cosine",
  warmup_steps: 2,
  per_device_train_batch_size: 2,
} as const;
const ADAPTER = { r: 8, lora_alpha: 16, target_modules: "all-linear" };

texts.value = [
  "Once upon a time there was a robot who swept the stairs of a castle. Beep, said the robot, and swept until they shone.",
  "Once upon a time a robot met a fox in the wood. Beep, said the robot, and the fox ran away to his den.",
  "The robot went to the king and asked for a drop of oil. Beep, said the robot, and the king gave him a whole bottle.",
  "The princess lost her golden ball in the well. Beep, said the robot, and let down his long arm, and brought it up.",
  "There was once a poor miller who had nothing but a robot. Beep, said the robot, and ground the corn by day and by night.",
  "The old woman opened the door. Beep, said the robot, and she gave him a warm place by the stove.",
].join("\n\n");

/** What was learned, and of which model. */
let learned: { readonly model: string; readonly files: WorkerTrained["files"] } | undefined;
/** Whether the Worker's model has it, and works by it. */
let held: "none" | "on" | "off" = "none";

/** The Worker holds a model without an adapter from here on. */
export function loaded(): void {
  held = "none";
}

/** Brings the Worker's model to what the form says. */
export async function apply(host: WorkerHost, model: string): Promise<void> {
  const wanted = learned?.model === model && use.checked;
  if (wanted && held === "none") await host.load_adapter(learned!.files);
  else if (wanted && held === "off") await host.enable_adapters();
  else if (!wanted && held === "on") await host.disable_adapters();
  if (wanted) held = "on";
  else if (held === "on") held = "off";
}

/** The texts, as stories of the storyteller are, or as they stand. */
function examples(model: string): { text: string }[] {
  const begin = model === STORYTELLER ? BEGIN : "";
  return texts.value
    .split(/\n\s*\n/)
    .map((text) => text.trim())
    .filter((text) => text !== "")
    .map((text) => ({ text: begin + text }));
}

/** What keeps it from learning, in words for people. */
export function missing(): string | undefined {
  if (texts.value.trim() === "") return "What shall it learn? Write a text or two, with an empty line between them.";
  return updates.checkValidity() ? undefined : "The number of updates is a whole number from 1 to 1000.";
}

/**
 * Teaches the model that the Worker holds.
 * @throws AbortError, and what `train` throws
 */
export async function learn(host: WorkerHost, model: string, signal: AbortSignal): Promise<void> {
  if (held !== "none") await host.delete_adapter("default");
  held = "none";
  const line: number[] = [];
  progress.value = 0;
  element("lesson-progress-box").hidden = false;
  try {
    const made = await host.train({
      train_dataset: examples(model),
      args: { ...ARGS, max_steps: updates.valueAsNumber },
      peft_config: ADAPTER,
      signal,
      step({ step, steps, logs: { loss } }) {
        if (loss === undefined) return;
        line.push(loss);
        progress.value = (100 * step) / steps;
        show("lesson", `Update ${step} of ${steps}, loss ${loss.toFixed(2)}`);
        draw(line);
      },
    });
    learned = { model, files: made.files };
    held = "on";
    use.checked = true;
    use.disabled = false;
    keepButton.hidden = false;
    const [first, last] = [line[0]!, line.at(-1)!];
    show(
      "lesson",
      `Learned in ${made.seconds.toFixed(1)} s: loss ${first.toFixed(2)} → ${last.toFixed(2)}, ` +
        `${made.trainable_parameters.toLocaleString("en")} of ${made.parameters.toLocaleString("en")} numbers changed. ` +
        "Press Write to see it.",
    );
  } finally {
    element("lesson-progress-box").hidden = true;
  }
}

/** The losses as a line. */
function draw(losses: readonly number[]): void {
  const top = Math.max(...losses);
  const x = (i: number): number => (100 * i) / Math.max(1, losses.length - 1);
  const points = losses.map((loss, i) => `${x(i).toFixed(1)},${(30 - (28 * loss) / top).toFixed(1)}`);
  element("curve-line").setAttribute("points", points.join(" "));
  const curve = element("curve");
  curve.toggleAttribute("hidden", losses.length < 2);
  curve.setAttribute(
    "aria-label",
    `Loss of each update, from ${losses[0]!.toFixed(2)} to ${losses.at(-1)!.toFixed(2)}`,
  );
}

/** The buttons while the model works, at a text or at a lesson. */
export function setWorking(working: boolean, learning: boolean): void {
  learnButton.disabled = working;
  stopButton.hidden = !learning;
}

/** Saves the adapter's files, which PEFT opens too. */
keepButton.addEventListener("click", () => {
  for (const [name, bytes] of Object.entries(learned?.files ?? {})) {
    const address = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }
});
