// Pipelines give what transformers' give for the same models (test/fixtures/pipelines, made by make_pipelines.py).

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { pipeline } from "../../src/pipelines/node.js";
import { TASKS } from "../../src/pipelines/pipeline.js";
import { joined } from "../../src/pipelines/transcript.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { expectNoLeaks } from "../support/devices.js";
import { expectNear, FIXTURES, readJson } from "../support/fixtures.js";
import { all } from "../support/odd-calls.js";
import { sound } from "../support/sound.js";
import { STORYTELLER } from "../tokenizer/golden.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

interface Case {
  readonly task: string;
  readonly model: string;
  readonly inputs: unknown;
  readonly options: Record<string, unknown>;
  readonly config: { readonly chat_template?: string };
  readonly output: unknown;
}
const { cases, joins } = readJson<{ cases: Case[]; joins: { parts: number[][]; joined: number[] }[] }>(
  "pipelines",
  "cases.json",
);
const here = (...path: string[]): string => join(FIXTURES, "pipelines", ...path);
const tokenizer = await AutoTokenizer.from_pretrained(here("tokenizer"));

/** The sound of make_pipelines.py. */
function soundOf({ samples, sampling_rate }: { samples: number; sampling_rate: number }): object {
  return { samples: sound(samples, sampling_rate), sampling_rate };
}

const picture = (name: string): string => join(FIXTURES, "processors", name);

function inputsOf({ task, inputs }: Case): unknown {
  if (task === "automatic-speech-recognition") return soundOf(inputs as { samples: number; sampling_rate: number });
  if (!/image/.test(task)) return inputs;
  return typeof inputs === "string" ? picture(inputs) : (inputs as string[]).map(picture);
}

/** The processors of a model that has none of its own. */
async function processorsOf({ task, model, config }: Case): Promise<object> {
  if (model === "storyteller") {
    const own = await AutoTokenizer.from_pretrained(STORYTELLER);
    if (config.chat_template) own.chat_template = config.chat_template;
    return { tokenizer: own };
  }
  if (model === "wav2vec2") return { tokenizer: here("ctc"), feature_extractor: here("ctc") };
  if (model === "whisper") return { tokenizer, feature_extractor: here("whisper") };
  return /image/.test(task) ? { tokenizer, image_processor: here(model) } : { tokenizer };
}

function folderOf({ model, config }: Case): string {
  if (model === "storyteller") return STORYTELLER;
  if (Object.keys(config).length === 0) return join(FIXTURES, "models", model);
  const folder = copyOf("models", model);
  editJson(join(folder, "config.json"), config);
  return folder;
}

const named = cases.map((one, n) => [`${n}: ${one.task}, ${one.model}, ${JSON.stringify(one.options)}`, one] as const);

/** Places in Python's texts count characters, here UTF-16 units. */
function placed(value: unknown, text: string): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((one: unknown) => placed(one, text));
  const units = (count: unknown): number => [...text].slice(0, count as number).join("").length;
  const { start, end } = value as Record<string, unknown>;
  return start === undefined ? value : { ...value, start: units(start), end: units(end) };
}

test.each(named)("%s", async (_, one) => {
  for (const batch_size of [1, 8]) {
    await using pipe = (await pipeline(one.task as never, folderOf(one), {
      ...(await processorsOf(one)),
      device,
      dtype: "float32",
      batch_size,
    } as never)) as ((...given: unknown[]) => Promise<unknown>) & AsyncDisposable;
    const want = typeof one.inputs === "string" ? placed(one.output, one.inputs) : one.output;
    expectNear(await pipe(inputsOf(one), one.options), want);
  }
});

test("chunks are joined as Whisper's are", () => {
  for (const { parts, joined: want } of joins) expect(joined(parts)).toEqual(want);
  expect(joined([])).toEqual([]);
});

describe("a pipeline", () => {
  const bert = join(FIXTURES, "models", "bert");

  test("takes options of its calls when it is opened, and of from_pretrained", async () => {
    await using pipe = await pipeline("fill-mask", bert, {
      device,
      tokenizer,
      top_k: 2,
      model_kwargs: { load_in_8bit: true },
    });
    expect(pipe.model.get_memory_footprint()).toBeLessThan(pipe.model.checkpoint_bytes);
    expect(await pipe("anna lives in [MASK].")).toHaveLength(2);
    expect(await pipe("anna lives in [MASK].", { top_k: 3 })).toHaveLength(3);
    expect(pipe.task).toBe("fill-mask");
    await expect(pipe("anna lives in Berlin.")).rejects.toThrow(/no \[MASK\] in "anna/);
    await expect(pipe("[MASK]", { topk: 3 } as never)).rejects.toThrow(/top_k/);
    await expect(pipe(7 as never)).rejects.toThrow(OptionError);
    await expect(pipe(["[MASK]", 7] as never)).rejects.toThrow(/input 1 of the list/);
  });

  test("of a loaded model leaves it alone", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, load_in_8bit: true });
    const own = await AutoTokenizer.from_pretrained(STORYTELLER);
    await expect(pipeline("text-generation", model)).rejects.toThrow(/needs its tokenizer/);
    const pipe = await pipeline("text-generation", model, { tokenizer: own });
    // The same tokens as generate(), nucleus sampling in 8 bits included.
    const how = { do_sample: true, top_p: 0.9, temperature: 0.8, seed: 3, max_new_tokens: 12 };
    const [{ generated_token_ids }] = (await pipe("The old king", { ...how, return_tensors: true })) as [
      { generated_token_ids: number[] },
    ];
    expect(await model.generate({ ...own(["The old king"]), ...how })).toEqual([generated_token_ids]);
    // Text by text, it is what a streamer gets.
    let streamed = "";
    const streamer = { put: (ids: readonly number[]) => void (streamed += own.decode([...ids])), end() {} };
    const [{ generated_text }] = (await pipe("The old king", { ...how, streamer })) as [{ generated_text: string }];
    expect(streamed).toBe(generated_text);
    await expect(pipe(["a", "b"], { streamer })).rejects.toThrow(/one input/);
    await expect(pipe("The old ki", { token_healing: true })).rejects.toThrow(/token_healing changes the prompt/);
    const stopped = await pipe("The old king", { do_sample: false, max_new_tokens: 20, stop_strings: "king" });
    expect(stopped[0]!.generated_text).toBe("The old king, and the king");
    expect(
      (await pipe(["The old king", "Once"], { ...how, num_return_sequences: 3 })).map((all) => all.length),
    ).toEqual([3, 3]);
    // An empty prompt begins with the token that texts begin with.
    expect((await pipe("", { max_new_tokens: 4, seed: 1 }))[0]!.generated_text.length).toBeGreaterThan(3);
    const long = "The old king said. ".repeat(600);
    const hole = { max_new_tokens: 4, handle_long_generation: "hole", return_tensors: true } as const;
    expect((await pipe(long, hole))[0]!.generated_token_ids).toHaveLength(
      model.config.max_position_embeddings as number,
    );
    await expect(pipe(long, { ...hole, max_new_tokens: 100_000 })).rejects.toThrow(/no room/);
    pipe.dispose();
    expect(await model.generate({ input_ids: [[5]], max_new_tokens: 1 })).toHaveLength(1);
  });

  test("gives each input of a list what it gives it alone", async () => {
    const own = await AutoTokenizer.from_pretrained(STORYTELLER);
    await using pipe = await pipeline("text-generation", STORYTELLER, { device, tokenizer: own, return_tensors: true });
    const prompts = ["The", "The old king of the sea went to his", "Once upon", "The old", "Far"];
    for (const how of [
      { max_length: 14, do_sample: false },
      { max_new_tokens: 6, seed: 5, temperature: 2 },
      { max_new_tokens: 4, do_sample: false, prefix_allowed_tokens_fn: (item: number) => [10 + item] },
    ]) {
      const numbered = prompts.map((_, n) => ({
        ...how,
        ...(how.prefix_allowed_tokens_fn ? { prefix_allowed_tokens_fn: () => [10 + n] } : {}),
      }));
      const all = await pipe(prompts, { ...how, batch_size: 3 });
      expect(all).toEqual(await pipe(prompts, { ...how, batch_size: 1 }));
      if ("seed" in how) continue; // by itself each has number 0
      for (const [n, prompt] of prompts.entries()) expect(await pipe(prompt, numbered[n])).toEqual(all[n]);
    }
    const same = await pipe(new Array<string>(6).fill("The old king"), { seed: 1, max_new_tokens: 8, batch_size: 2 });
    expect(new Set(same.map((one) => JSON.stringify(one))).size).toBe(6);
    await expect(pipe(prompts, { max_length: 5 })).rejects.toThrow(/leaves no room/);
    await expect(pipe(prompts, { max_length: 5, max_new_tokens: 1 })).resolves.toHaveLength(5);
  });

  test("takes a loaded model of its task alone, and no options for loading it", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device });
    await expect(pipeline("fill-mask", model, { tokenizer })).rejects.toThrow(
      /for masked-lm, this one is for causal-lm/,
    );
    await expect(pipeline("text-generation", model, { tokenizer, load_in_8bit: true })).rejects.toThrow(/load_in_8bit/);
    const away = { tokenizer: "some/tok", local_files_only: true, cache_dir: here("none"), revision: "main" };
    await expect(pipeline("fill-mask", bert, away)).rejects.toThrow(/some\/tok" is neither.*pipelines\/none/);
  });

  test("of sentences says how near they are, and pools", async () => {
    await using pipe = await pipeline("sentence-similarity", join(FIXTURES, "models", "minilm-sentence"), {
      device,
      tokenizer,
    });
    const [same, other] = await pipe({ source_sentence: "the good film", sentences: ["the good film", "berlin"] });
    expect(same).toBeCloseTo(1, 5);
    expect(other).toBeLessThan(0.999);
    await using features = await pipeline("feature-extraction", bert, { device, tokenizer });
    const [tokens] = await features("a film");
    const mean = await features("a film", { pooling: "mean" });
    const byHand = tokens![0]!.map((_, i) => tokens!.reduce((sum, row) => sum + row[i]!, 0) / tokens!.length);
    expectNear(mean, byHand);
    expectNear(await features("a film", { pooling: "cls" }), tokens![0]);
    const [unit] = await features(["a film", "paris"], { pooling: "last", normalize: true });
    expect(Math.hypot(...unit!)).toBeCloseTo(1, 6);
  });

  test("that does not exist, or lacks something, is refused", async () => {
    await expect(pipeline("text-generations" as never, bert)).rejects.toThrow(/did you mean "text-generation"/);
    await expect(pipeline(undefined as never, bert)).rejects.toThrow(OptionError);
    await expect(pipeline("fill-mask", 3 as never)).rejects.toThrow(OptionError);
    await expect(pipeline("fill-mask", bert, { tokenizer: 3 as never })).rejects.toThrow(/tokenizer must be/);
    await expect(pipeline("fill-mask", bert, { tokenizer, toq_k: 3 } as never)).rejects.toThrow(/toq_k/);
    expect(TASKS.length).toBeGreaterThan(12);
    await using zero = await pipeline("zero-shot-classification", join(FIXTURES, "models", "bert-classifier"), {
      device,
      tokenizer,
    });
    await expect(zero("a film")).rejects.toThrow(/candidate_labels are needed/);
    await expect(zero("a film", { candidate_labels: ["a"], hypothesis_template: "none" })).rejects.toThrow(/\{\}/);
    await using ears = await pipeline("automatic-speech-recognition", join(FIXTURES, "models", "whisper"), {
      device,
      tokenizer,
      feature_extractor: here("whisper"),
    });
    const long = soundOf({ samples: 9600, sampling_rate: 4800 }) as { samples: Float32Array; sampling_rate: number };
    await expect(ears(long, { return_timestamps: false })).rejects.toThrow(
      /96 frames are more than the 48 of a window/,
    );
    await expect(ears(long, { chunk_length_s: 2 })).rejects.toThrow(/2 s are more than the 1 s/);
    expect((await ears(long, { chunk_length_s: 1, max_new_tokens: 5 })).text.length).toBeGreaterThan(0);
    await expect(ears(long, { chunk_length_s: 1, stride_length_s: 0.5 })).rejects.toThrow(/strides/);
    await expect(ears({ ...long, sampling_rate: 0.5 })).rejects.toThrow(/sampling_rate must be a whole number of Hz/);
  });
});

test("whatever is passed is done, or refused with a typed error", async () => {
  const models = (name: string): string => join(FIXTURES, "models", name);
  const own = await AutoTokenizer.from_pretrained(STORYTELLER);
  const opened = [
    [await pipeline("fill-mask", models("bert"), { device, tokenizer }), "a [MASK]", { top_k: 2, targets: ["a"] }],
    [
      await pipeline("text-classification", models("bert-classifier"), { device, tokenizer }),
      { text: "a", text_pair: "b" },
      { top_k: 2, function_to_apply: "softmax", truncation: true, max_length: 8 },
    ],
    [
      await pipeline("zero-shot-classification", models("bert-classifier"), { device, tokenizer }),
      "a",
      { candidate_labels: ["a"], hypothesis_template: "{}", multi_label: true },
    ],
    [
      await pipeline("feature-extraction", models("bert"), { device, tokenizer }),
      "a",
      { pooling: "mean", normalize: true },
    ],
    [
      await pipeline("sentence-similarity", models("minilm-sentence"), { device, tokenizer }),
      { source_sentence: "a", sentences: ["b"] },
      { truncation: true },
    ],
    [
      await pipeline("token-classification", models("bert-tokens"), { device, tokenizer }),
      "a new york",
      { aggregation_strategy: "first", ignore_labels: ["O"], truncation: true, max_length: 8 },
    ],
    [
      await pipeline("question-answering", models("bert-answers"), { device, tokenizer }),
      { question: "who", context: "anna lives in new york" },
      { top_k: 2, doc_stride: 4, max_answer_len: 3, max_seq_len: 20, align_to_words: true },
    ],
    [
      await pipeline("text-generation", STORYTELLER, { device, tokenizer: own, max_new_tokens: 1 }),
      "a",
      { tools: null, documents: null, tokenizer_encode_kwargs: {}, prefix: "a", stop_strings: "a", batch_size: 1 },
    ],
    [
      await pipeline("summarization", models("t5"), { device, tokenizer, max_new_tokens: 1 }),
      "a",
      { return_tensors: true, num_beams: 1 },
    ],
    [
      await pipeline("image-classification", models("vit"), { device, image_processor: here("vit") }),
      picture("rgb.png"),
      { top_k: 1 },
    ],
    [
      await pipeline("automatic-speech-recognition", models("wav2vec2"), {
        device,
        tokenizer: here("ctc"),
        feature_extractor: here("ctc"),
      }),
      { samples: new Float32Array(1600), sampling_rate: 16_000 },
      { chunk_length_s: 0.05, stride_length_s: [0.02, 0.01], return_timestamps: "word" },
    ],
    [
      await pipeline("audio-classification", join(FIXTURES, "speech", "labels"), { device }),
      { raw: new Float32Array(800), sampling_rate: 16_000 },
      { top_k: 2, function_to_apply: "none" },
    ],
  ] as const;
  for (const [pipe, input, options] of opened) {
    const call = pipe as unknown as (...given: unknown[]) => Promise<unknown>;
    await call(input, options);
    // A text of 100,000 characters is no mistake: a decoder would read it.
    const without = pipe.task === "text-generation" ? ["long text"] : [];
    await all(`${pipe.task}, input`, (odd) => call(odd, options), without);
    await all(`${pipe.task}, in a list`, (odd) => call([input, odd], options), without);
    await all(`${pipe.task}, options`, (odd) => call(input, odd));
    for (const name of Object.keys(options)) {
      await all(`${pipe.task}, ${name}`, (odd) => call(input, { ...options, [name]: odd }), without);
    }
    pipe.dispose();
  }
  const open = pipeline as unknown as (...given: unknown[]) => Promise<Partial<AsyncDisposable>>;
  const disposed = async (made: Promise<Partial<AsyncDisposable>>): Promise<unknown> =>
    (await made)[Symbol.asyncDispose]?.();
  await all("task", (odd) => disposed(open(odd, models("bert"), { device, tokenizer })));
  await all("model", (odd) => disposed(open("fill-mask", odd, { device, tokenizer })));
  await all("options", (odd) => disposed(open("fill-mask", models("bert"), odd)));
  for (const name of ["tokenizer", "batch_size", "model_kwargs", "device", "top_k"]) {
    await all(name, (odd) => disposed(open("fill-mask", models("bert"), { device, tokenizer, [name]: odd })));
  }
});
