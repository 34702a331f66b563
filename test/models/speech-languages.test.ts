// wav2vec 2.0 with convolutions behind its encoder, and with the parts of several languages (MMS), against transformers
// (fixtures/make_media.py).

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError, NotFoundError, OptionError } from "../../src/core/errors.js";
import {
  AutoModel,
  AutoModelForAudioClassification,
  AutoModelForCTC,
  AutoProcessor,
  AutoTokenizer,
  type FromPretrainedOptions,
  pipeline,
} from "../../src/index.js";
import { copyOf, editHeader, editJson } from "../support/checkpoints.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

type Recognizer = Awaited<ReturnType<typeof AutoModelForCTC.from_pretrained>>;
type Given = Record<string, { tensor: string } | number[][]>;

function inputsOf(name: string, key: string) {
  const { inputs } = readJson<{ inputs: Record<string, Given> }>("models", name, "expected.json");
  const arrays = readArrays("models", name, "expected.safetensors");
  return Object.fromEntries(
    Object.entries(inputs[key]!).map(([input, value]) => {
      if (Array.isArray(value)) return [input, value];
      const { values, shape } = arrays.get(value.tensor)!;
      return [input, { data: values as Float32Array, shape }];
    }),
  );
}

describe("convolutions behind the encoder", () => {
  const folder = join(FIXTURES, "models", "wav2vec2-adapter");
  const { adapter, tolerance_fp32 } = readJson<{
    adapter: { labels: number[][]; loss: number; features: { shape: number[]; values: number[] } };
    tolerance_fp32: number;
  }>("models", "wav2vec2-adapter", "expected.json");

  test("features are shorter, and of their width", async () => {
    const model = await AutoModel.from_pretrained(folder, { device: "cpu" });
    const { last_hidden_state, extract_features } = model.forward(inputsOf("wav2vec2-adapter", "single"));
    expect(last_hidden_state.shape).toEqual(adapter.features.shape);
    expect(difference(await last_hidden_state.readFloats(), adapter.features.values).max).toBeLessThan(tolerance_fp32);
    for (const tensor of [last_hidden_state, extract_features!]) tensor.dispose();
    model.dispose();
  });

  test.each(["cpu", "reference"])("the loss of %s counts the frames behind them, and all learn", async (where) => {
    const device = await requestTestDevice(where);
    const model = await AutoModelForCTC.from_pretrained(folder, { device });
    model.requires_grad_(true);
    const { loss, logits } = model.forward({ ...inputsOf("wav2vec2-adapter", "batch"), labels: adapter.labels });
    expect((await model.backward(loss!)) / adapter.loss).toBeCloseTo(1, 4);
    for (const [name, { grad }] of model.named_parameters()) {
      if (name.startsWith("wav2vec2.adapter.")) expect((await grad!.readFloats()).some((x) => x !== 0)).toBe(true);
    }
    for (const tensor of [loss!, logits]) tensor.dispose();
    model.zero_grad();
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("a classifier has none", async () => {
    await expect(AutoModelForAudioClassification.from_pretrained(folder, { device: "cpu" })).rejects.toThrow(
      ConfigError,
    );
  });
});

describe("languages", () => {
  const NAME = "wav2vec2-language";
  const folder = join(FIXTURES, "models", NAME);
  const found = readJson<{
    logits: Record<string, number[]>;
    tokenizer: {
      vocab: Record<string, Record<string, number>>;
      texts: string[];
      steps: { language: string; input_ids: number[][]; pad: number; decoded: [number[], string][] }[];
    };
  }>("models", NAME, "languages.json");
  const { tolerance_fp32 } = readJson<{ tolerance_fp32: number }>("models", NAME, "expected.json");
  const batch = inputsOf(NAME, "batch");

  /** Logits of the second and third row. */
  async function read(model: Recognizer): Promise<Float32Array> {
    using logits = model.forward(batch).logits;
    const values = await logits.readFloats();
    return values.slice(values.length / 3);
  }
  const load = (which: string, options: FromPretrainedOptions = {}): Promise<Recognizer> =>
    AutoModelForCTC.from_pretrained(which, { device: "cpu", ...options });

  test.each(["fra", "deu"])("%s, while it is loaded and afterwards", async (target_lang) => {
    const want = found.logits[target_lang]!;
    const first = await load(folder, { target_lang });
    expect(first.warnings).toEqual([]);
    const values = await read(first);
    expect(difference(values, want).max).toBeLessThan(tolerance_fp32);
    first.dispose();
    const model = await load(folder);
    expect(await model.load_adapter(target_lang)).toBe(model);
    expect(await read(model)).toEqual(values);
    expect(model.config.vocab_size).toBe(target_lang === "fra" ? 14 : 20);
    const saved = temporary("language");
    await model.save_pretrained(saved);
    const again = await load(saved);
    expect(again.warnings).toEqual([]);
    // A normalised weight is made anew of its direction and its length.
    expect(difference(await read(again), values).max).toBeLessThan(tolerance_fp32);
    again.dispose();
    model.dispose();
  });

  test.each<[string, FromPretrainedOptions]>([
    ["bf16", { dtype: "bfloat16" }],
    ["8 bits", { load_in_8bit: true }],
    ["4 bits", { load_in_4bit: true }],
    ["a head in 8 bits", { head_dtype: "int8" }],
  ])("one after the other in %s is as loaded", async (_, options) => {
    const device = await requestTestDevice("cpu");
    const loaded = await load(folder, { ...options, device, target_lang: "fra" });
    const want = await read(loaded);
    loaded.dispose();
    const model = await load(folder, { ...options, device, target_lang: "deu" });
    await model.load_adapter("fra");
    expect(await read(model)).toEqual(want);
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("what is not there, does not fit, or is asked of another model", async () => {
    await expect(load(folder, { target_lang: "xyz" })).rejects.toThrow(NotFoundError);
    await expect(load(folder, { target_lang: "deu", use_safetensors: true })).rejects.toThrow(
      /no adapter\.deu\.safetensors: the language "deu" is not there/,
    );
    await expect(load(folder, { target_lang: "../fra" })).rejects.toThrow(OptionError);
    const plain = join(FIXTURES, "models", "wav2vec2-stable");
    await expect(load(plain, { target_lang: "fra" })).rejects.toThrow(/Cannot pass `target_lang`: fra/);
    const odd = copyOf("models", NAME);
    editHeader(join(odd, "adapter.fra.safetensors"), (header) => {
      header["other.weight"] = header["lm_head.bias"]!;
      delete header["lm_head.bias"];
    });
    await expect(load(odd, { target_lang: "fra" })).rejects.toThrow(/has unexpected keys: other\.weight/);
    const model = await load(odd);
    const before = await read(model);
    await expect(model.load_adapter("fra")).rejects.toThrow(CheckpointError);
    await expect(model.load_adapter("xyz")).rejects.toThrow(/the language "xyz" is not there/);
    await expect(model.load_adapter("./nowhere")).rejects.toThrow(NotFoundError);
    expect(await read(model)).toEqual(before);
    model.dispose();
    const other = await load(plain);
    await expect(other.load_adapter("fra")).rejects.toThrow(NotFoundError); // a folder of PEFT's
    other.dispose();
  });

  const { vocab, texts, steps } = found.tokenizer;
  function words(config: object = { target_lang: "eng" }): string {
    const place = temporary("words");
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, "vocab.json"), JSON.stringify(vocab));
    writeFileSync(
      join(place, "tokenizer_config.json"),
      JSON.stringify({ tokenizer_class: "Wav2Vec2CTCTokenizer", ...config }),
    );
    return place;
  }

  test("the tokenizer has the vocabulary of each", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(words());
    for (const { language, input_ids, pad, decoded } of steps) {
      tokenizer.set_target_lang(language);
      const own = await AutoTokenizer.from_pretrained(words(), { target_lang: language });
      for (const one of [tokenizer, own]) {
        expect(one.target_lang).toBe(language);
        expect(one(texts).input_ids).toEqual(input_ids);
        expect(one.pad_token_id).toBe(pad);
        expect(one.vocab_size).toBe(Object.keys(vocab[language]!).length);
        for (const [ids, text] of decoded) expect(one.decode(ids)).toBe(text);
      }
    }
    expect(() => tokenizer.set_target_lang("ita")).toThrow(/"ita" does not exist\. Choose one of eng, fra/);
    expect(tokenizer.target_lang).toBe("eng");
    await expect(AutoTokenizer.from_pretrained(words(), { target_lang: "ita" })).rejects.toThrow(/target_lang: "ita"/);
  });

  test("the tokenizer is saved in its language", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(words());
    tokenizer.set_target_lang("fra");
    const out = temporary("words");
    await tokenizer.save_pretrained(out);
    expect(JSON.parse(readFileSync(join(out, "vocab.json"), "utf8"))).toEqual(vocab);
    const again = await AutoTokenizer.from_pretrained(out);
    expect([again.target_lang, again(texts).input_ids]).toEqual(["fra", tokenizer(texts).input_ids]);
  });

  test("a pipeline and a processor have the language of the model", async () => {
    const whole = copyOf("models", NAME);
    for (const [name, text] of [
      ["vocab.json", JSON.stringify(vocab)],
      ["tokenizer_config.json", JSON.stringify({ tokenizer_class: "Wav2Vec2CTCTokenizer", target_lang: "eng" })],
      ["preprocessor_config.json", readFileSync(join(FIXTURES, "processors", "wav2vec2", "preprocessor_config.json"))],
    ] as const) {
      writeFileSync(join(whole, name), text);
    }
    const pipe = await pipeline("automatic-speech-recognition", whole, { device: "cpu", target_lang: "fra" });
    const { tokenizer } = pipe as unknown as { tokenizer: { target_lang: string } };
    expect([tokenizer.target_lang, pipe.model.config.vocab_size]).toEqual(["fra", 14]);
    const { text } = await pipe(Float32Array.from({ length: 4000 }, (_, t) => Math.sin(t * t)));
    expect(text).toContain("ch"); // one token, of this language alone
    await pipe[Symbol.asyncDispose]();
    const processor = await AutoProcessor.from_pretrained(whole, { target_lang: "fra" });
    expect(processor.tokenizer!.target_lang).toBe("fra");
  });

  test("one vocabulary has no languages", async () => {
    const place = words({});
    writeFileSync(join(place, "vocab.json"), JSON.stringify(vocab.eng));
    const tokenizer = await AutoTokenizer.from_pretrained(place);
    expect(tokenizer.target_lang).toBeNull();
    expect(() => tokenizer.set_target_lang("eng")).toThrow(OptionError);
    await expect(AutoTokenizer.from_pretrained(place, { target_lang: "eng" })).rejects.toThrow(/vocabulary/);
    const nested = copyOf("models", NAME);
    editJson(join(nested, "config.json"), { adapter_attn_dim: null });
    await expect(load(nested, { target_lang: "fra" })).rejects.toThrow(OptionError);
  });
});
