// The page: reads the form, asks the Worker, shows what comes back. It holds no model; the library runs in worker.ts.

import {
  AbortError,
  OctavoError,
  type ProgressEvent,
  WorkerHost,
  type WorkerLoadOptions,
  type WorkerMemory,
  type WorkerSurvey,
} from "octavo/browser";

const STORYTELLER = "./models/storyteller/";

/** What each choice of bits loads, and its name among the sizes of a survey. */
const BITS: Readonly<Record<string, { options: WorkerLoadOptions; size: string }>> = {
  "4": { options: { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } }, size: "nf4" },
  "8": { options: { load_in_8bit: true }, size: "int8" },
  "16": { options: { dtype: "bfloat16" }, size: "bfloat16" },
  "32": { options: { dtype: "float32" }, size: "float32" },
};

function element<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

const which = element<HTMLSelectElement>("which");
const other = element<HTMLInputElement>("other");
const device = element<HTMLSelectElement>("device");
const loadForm = element<HTMLFormElement>("load-form");
const loadButton = element<HTMLButtonElement>("load");
const cancelButton = element<HTMLButtonElement>("cancel");
const clearButton = element<HTMLButtonElement>("clear");
const generateForm = element<HTMLFormElement>("generate-form");
const generateButton = element<HTMLButtonElement>("generate");
const stopButton = element<HTMLButtonElement>("stop");
const output = element<HTMLOutputElement>("output");
const progress = element<HTMLProgressElement>("progress");

const host = new WorkerHost(new Worker(new URL("worker.js", import.meta.url), { type: "module" }));

function show(id: string, text: string): void {
  element(id).textContent = text;
}

function megabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

function showError(error: unknown): void {
  const box = element("error");
  box.hidden = error === undefined || error instanceof AbortError;
  if (box.hidden) return;
  const message = error instanceof OctavoError ? `${error.name}: ${error.message}` : String(error);
  box.textContent = message;
}

function showMemory({ weights, cache, peak }: WorkerMemory): void {
  show("weights", megabytes(weights));
  show("kv", cache > 0 ? megabytes(cache) : "–");
  show("peak", megabytes(peak));
}

function bits(): string {
  return new FormData(loadForm).get("bits") as string;
}

function modelName(): string {
  return which.value === "storyteller" ? STORYTELLER : other.value.trim();
}

// --- what it would take, before anything is downloaded

let survey: { model: string; facts: WorkerSurvey } | undefined;
let looking = new AbortController();

function showSize(): void {
  if (!survey) return;
  const { facts } = survey;
  const size = facts.sizes[BITS[bits()]!.size]!;
  const context = Math.min(facts.context ?? 1024, 1024);
  show(
    "size",
    `${facts.model_type}, ${(facts.parameters / 1e6).toFixed(1)} M parameters in ${facts.dtype}. ` +
      `Download ${megabytes(facts.download_bytes)}; in memory ${megabytes(size)} of weights ` +
      `and ${megabytes(facts.cache_bytes_per_token * context)} for ${context} tokens of context.`,
  );
}

async function look(): Promise<void> {
  looking.abort();
  looking = new AbortController();
  const { signal } = looking;
  const model = modelName();
  survey = undefined;
  showError(undefined);
  show("size", model === "" ? "Name a model to see what it takes." : "Looking at the model…");
  if (model === "") return;
  try {
    survey = { model, facts: await host.survey(model, { signal }) };
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

let loading: AbortController | undefined;

function setLoading(controller: AbortController | undefined): void {
  loading = controller;
  const active = controller !== undefined;
  loadButton.disabled = active;
  cancelButton.hidden = !active;
  element("progress-box").hidden = !active;
  if (!active) return;
  generateButton.disabled = true;
  progress.value = 0;
  show("progress-text", "Opening the device and the tokenizer…");
  show("loaded", "");
}

function showProgress(event: ProgressEvent): void {
  if (event.status === "warning") {
    show("loaded", event.message ?? "");
    return;
  }
  progress.value = event.progress;
  const from = event.network === 0 ? "from the cache" : `${megabytes(event.network ?? 0)} from the network`;
  show(
    "progress-text",
    `${event.progress.toFixed(0)}% of ${megabytes(event.total)}, ${megabytes(event.bytes_per_second)}/s, ${from}`,
  );
}

async function load(): Promise<void> {
  showError(undefined);
  const controller = new AbortController();
  setLoading(controller);
  try {
    const model = await host.load(modelName(), {
      ...BITS[bits()]!.options,
      device: device.value as WorkerLoadOptions["device"],
      progress_callback: showProgress,
      signal: controller.signal,
    });
    const source = model.network_bytes === 0 ? "from the cache" : `${megabytes(model.network_bytes)} downloaded`;
    show(
      "loaded",
      [
        `${bits()} bits on ${model.description}, in ${model.seconds.toFixed(2)} s (${source}).`,
        model.reason ? `Chosen because ${model.reason}.` : "",
        ...model.warnings,
      ]
        .filter(Boolean)
        .join(" "),
    );
    showMemory(model.memory);
    generateButton.disabled = false;
  } catch (error) {
    show("loaded", error instanceof AbortError ? "Loading was cancelled; what has arrived is kept." : "");
    showError(error);
  } finally {
    setLoading(undefined);
    await showCached();
  }
}

// --- generating

let generating: AbortController | undefined;

function number(id: string): number {
  return element<HTMLInputElement>(id).valueAsNumber;
}

async function generate(): Promise<void> {
  showError(undefined);
  generating = new AbortController();
  generateButton.disabled = true;
  loadButton.disabled = true;
  stopButton.disabled = false;
  const prompt = element<HTMLTextAreaElement>("prompt").value;
  const before = document.createElement("span");
  before.className = "prompt";
  before.textContent = prompt.replaceAll("<|endoftext|>", "");
  const text = document.createTextNode("");
  output.replaceChildren(before, text);
  const temperature = number("temperature");
  let first = 0;
  const begin = performance.now();
  try {
    const result = await host.generate({
      prompt,
      max_new_tokens: number("tokens"),
      ...(temperature > 0 ? { do_sample: true, temperature, seed: number("seed") } : { do_sample: false }),
      signal: generating.signal,
      step: (step) => {
        text.appendData(step.text);
        output.scrollTop = output.scrollHeight;
        const now = performance.now();
        if (step.tokens === 1) first = now;
        else show("speed", `${((step.tokens - 1) / ((now - first) / 1000)).toFixed(1)} tok/s`);
        if (step.tokens === 1) show("first", `${(now - begin).toFixed(0)} ms`);
        showMemory(step.memory);
      },
    });
    const { token_ids, decode_seconds, memory } = result;
    if (token_ids.length > 1) show("speed", `${((token_ids.length - 1) / decode_seconds).toFixed(1)} tok/s`);
    showMemory(memory);
  } catch (error) {
    showError(error);
  } finally {
    generating = undefined;
    generateButton.disabled = false;
    loadButton.disabled = false;
    stopButton.disabled = true;
  }
}

// --- the adapter

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
  facts.push(["Device “auto”", `${choice.name}: ${choice.reason}`]);
  element("adapter").replaceChildren(
    ...facts.flatMap(([term, text]) => {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = text;
      return [dt, dd];
    }),
  );
}

// --- events

which.addEventListener("change", () => {
  element("other-label").hidden = which.value !== "other";
  void look();
});
other.addEventListener("change", () => void look());
loadForm.addEventListener("change", ({ target }) => {
  if ((target as HTMLInputElement).name === "bits") showSize();
});
loadForm.addEventListener("submit", (event) => {
  event.preventDefault();
  void load();
});
cancelButton.addEventListener("click", () => loading?.abort());
clearButton.addEventListener("click", () => {
  clearButton.disabled = true;
  void host.clearCache().then(showCached, showError);
});
generateForm.addEventListener("submit", (event) => {
  event.preventDefault();
  void generate();
});
stopButton.addEventListener("click", () => generating?.abort());

showAdapter().catch(showError);
void look().then(showCached).catch(showError);
