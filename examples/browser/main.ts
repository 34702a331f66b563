// The page: reads the form, asks the Worker, shows what comes back. It holds no model; the library runs in worker.ts.

import { AbortError, type ProgressEvent, WorkerHost, type WorkerModel, type WorkerSurvey } from "octavo/browser";
import { explain } from "./errors.js";
import * as lesson from "./lesson.js";
import { define, element, megabytes, show } from "./page.js";
import { Result } from "./results.js";
import * as settings from "./settings.js";

const { form, prompt, which, other, BITS } = settings;
const writeButton = element<HTMLButtonElement>("write");
const stopButton = element<HTMLButtonElement>("stop");
const clearButton = element<HTMLButtonElement>("clear");
const progress = element<HTMLProgressElement>("progress");
const results = element("results");

const host = new WorkerHost(new Worker(new URL("worker.js", import.meta.url), { type: "module" }));

// --- errors

function showProblem(what: string, how = ""): void {
  const box = element("error");
  box.hidden = what === "";
  box.replaceChildren(
    ...[what, how].filter(Boolean).map((text) => Object.assign(document.createElement("p"), { textContent: text })),
  );
}

function showError(error: unknown): void {
  const { what, how } = explain(error, { origin: location.origin, online: navigator.onLine });
  showProblem(what, how);
}

// --- what it would take, before anything is downloaded

let survey: WorkerSurvey | undefined;
let looking = new AbortController();

function showSize(): void {
  if (!survey) return;
  const { model_type, parameters, download_bytes, sizes, context, cache_bytes_per_token } = survey;
  const tokens = Math.min(context ?? 1024, 1024);
  const weights = settings.bits().map((bits) => megabytes(sizes[BITS[bits]!.size]!));
  show(
    "size",
    `${model_type}, ${(parameters / 1e6).toFixed(1)} M parameters. Download ${megabytes(download_bytes)}, once; ` +
      `in memory ${weights.join(", then ")} of weights ` +
      `and ${megabytes(cache_bytes_per_token * tokens)} for ${tokens} tokens of text.`,
  );
}

async function look(): Promise<void> {
  looking.abort();
  looking = new AbortController();
  const { signal } = looking;
  const model = settings.choice().name;
  survey = undefined;
  showProblem("");
  show("size", model === "" ? "Name a model to see what it takes." : "Looking at the model…");
  if (model === "") return;
  try {
    survey = await host.survey(model, { signal });
    showSize();
  } catch (error) {
    if (signal.aborted) return;
    show("size", "");
    showError(error);
  }
}

async function showCached(): Promise<void> {
  const { bytes, files } = await host.cacheSize();
  show("cached", files === 0 ? "Nothing is cached" : `${megabytes(bytes)} in the cache`);
  clearButton.disabled = files === 0;
}

// --- loading

/** The model that the Worker holds, and the choices that led to it. */
let held: { readonly choices: string; readonly model: WorkerModel } | undefined;

function showProgress(event: ProgressEvent): void {
  if (event.status === "warning") return; // it is among the model's warnings as well
  progress.value = event.progress;
  const from = event.network === 0 ? "from the cache" : `${megabytes(event.network ?? 0)} from the network`;
  show(
    "progress-text",
    `${event.progress.toFixed(0)}% of ${megabytes(event.total)}, ${megabytes(event.bytes_per_second)}/s, ${from}`,
  );
}

/** Loads a model, unless it is the one that is there. */
async function load({ name, device }: settings.Choice, bits: string, signal: AbortSignal): Promise<WorkerModel> {
  const choices = JSON.stringify([name, device, bits]);
  if (held?.choices === choices) {
    await lesson.apply(host, name);
    return held.model;
  }
  held = undefined;
  lesson.loaded();
  progress.value = 0;
  show("progress-text", "Opening the device and the tokenizer…");
  show("status", `Loading the model in ${bits} bits…`);
  element("progress-box").hidden = false;
  try {
    const model = await host.load(name, { ...BITS[bits]!.options, device, progress_callback: showProgress, signal });
    held = { choices, model };
    await lesson.apply(host, name);
    return model;
  } finally {
    element("progress-box").hidden = true;
    await showCached();
  }
}

// --- writing

let running: AbortController | undefined;

function setRunning(controller: AbortController | undefined, learning = false): void {
  const focus = document.activeElement;
  running = controller;
  writeButton.disabled = controller !== undefined;
  lesson.setWorking(controller !== undefined, learning);
  stopButton.hidden = controller === undefined || learning;
  // A button that can no longer be pressed must not keep the keyboard.
  if (controller && focus === writeButton) stopButton.focus();
  if (!controller && focus === stopButton) writeButton.focus();
}

/** What is said of a model once it has written. */
function describe({ description, reason, seconds, network_bytes, warnings }: WorkerModel): string {
  const source = network_bytes === 0 ? "from the cache" : `${megabytes(network_bytes)} downloaded`;
  const chosen = reason ? [`Chosen because ${reason}.`] : [];
  return [`On ${description}, loaded in ${seconds.toFixed(2)} s (${source}).`, ...chosen, ...warnings].join(" ");
}

/** What keeps a text from being begun. */
function missing(): [what: string, how: string] | undefined {
  if (settings.choice().name === "") {
    element<HTMLDetailsElement>("more").open = true;
    other.focus();
    return ["Which model?", "Give its id on the hub, such as org/name, or the address of its folder."];
  }
  if (settings.modelPrompt() === "") {
    prompt.focus();
    return ["This model needs a beginning.", "Write a few words, or choose an example."];
  }
  return undefined;
}

/** Writes one text with the model that is held. */
async function tell(result: Result, request: settings.Request, signal: AbortSignal): Promise<void> {
  result.start();
  const made = await host.generate({ ...request, signal, step: (step) => result.add(step) });
  result.finish(made);
  const { context } = survey ?? {};
  if (context === undefined || made.prompt_tokens + made.token_ids.length <= context) return;
  result.note(`The model has learned texts of ${context} tokens; beyond that it gets worse.`);
}

async function write(): Promise<void> {
  const lacking = missing();
  showProblem(lacking?.[0] ?? "", lacking?.[1]);
  if (lacking) return;
  const controller = new AbortController();
  const { signal } = controller;
  setRunning(controller);
  const choice = settings.choice();
  const request = settings.request();
  const all = settings.bits();
  results.replaceChildren();
  results.classList.toggle("compared", all.length > 1);
  const written = all.map((bits) => new Result(bits, prompt.value));
  const first = written[0]!;
  try {
    for (const result of written) {
      const model = await load(choice, result.bits, signal);
      show("status", `Writing in ${result.bits} bits…`);
      await tell(result, request, signal);
      if (result !== first) result.compare(first);
      else if (all.length > 1) result.note("The other texts are compared with this one.");
      show("status", `Done. ${describe(model)}`);
    }
  } catch (error) {
    if (error instanceof AbortError) {
      show("status", held ? "Stopped." : "Loading was cancelled; what has arrived is kept.");
    } else {
      held = undefined; // its device may be lost
      show("status", "");
      showError(error);
    }
  } finally {
    for (const result of written) result.end();
    setRunning(undefined);
  }
}

// --- learning

async function learn(): Promise<void> {
  const lacking = settings.choice().name === "" ? "Which model?" : lesson.missing();
  showProblem(lacking ?? "");
  if (lacking) return;
  const controller = new AbortController();
  const { signal } = controller;
  setRunning(controller, true);
  const choice = settings.choice();
  try {
    await load(choice, settings.bits()[0]!, signal);
    show("status", "");
    show("lesson", "Reading the texts…");
    await lesson.learn(host, choice.name, signal);
  } catch (error) {
    show("status", "");
    show("lesson", error instanceof AbortError ? "Stopped. The model is as it was." : "");
    if (error instanceof AbortError) return;
    held = undefined; // its device may be lost
    showError(error);
  } finally {
    setRunning(undefined);
  }
}

// --- the GPU's adapter

async function showAdapter(): Promise<void> {
  const { available, reason, name, fallback, features, language, limits, choice } = await host.adapter();
  const facts: [string, string][] = available
    ? [
        ["Adapter", `${name}${fallback ? " (in software)" : ""}`],
        ["Largest buffer", megabytes(limits.maxBufferSize ?? 0)],
        ["Largest binding", megabytes(limits.maxStorageBufferBindingSize ?? 0)],
        ["Storage buffers", String(limits.maxStorageBuffersPerShaderStage ?? 0)],
        ["16-bit floats", features.includes("shader-f16") ? "yes" : "no"],
        ["Subgroups", features.includes("subgroups") ? "yes" : "no"],
        ["8-bit dot product", language.includes("packed_4x8_integer_dot_product") ? "yes" : "no"],
      ]
    : [["Adapter", reason ?? "none"]];
  define(element("adapter"), [...facts, ["The best device", `${choice.name}: ${choice.reason}`]]);
}

// --- events

element("examples").append(
  ...settings.EXAMPLES.map(({ name, prompt: text }) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", () => {
      prompt.value = text;
      writeButton.focus();
    });
    return button;
  }),
);
prompt.value = settings.EXAMPLES[0]!.prompt;

which.addEventListener("change", () => {
  element("other-label").hidden = which.value !== "other";
  void look();
});
other.addEventListener("change", () => void look());
element("bits").addEventListener("change", showSize);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) void write();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});
stopButton.addEventListener("click", () => running?.abort());
element("stop-learning").addEventListener("click", () => running?.abort());
element("learn").addEventListener("click", () => {
  if (!running) void learn();
});
clearButton.addEventListener("click", () => {
  clearButton.disabled = true;
  void host.clearCache().then(showCached, showError);
});

showAdapter().catch(showError);
void look().then(showCached).catch(showError);
