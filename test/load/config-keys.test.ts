// Law: every key of a config.json is read, known to change nothing here, or named in a warning.

import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { GENERATION } from "../../src/generate/config.js";
import { WITHOUT_EFFECT } from "../../src/generate/without-effect.js";
import { GENERATION_KEYS, generationOf, ignoredKeys, useOf, watched } from "../../src/load/config-keys.js";
import { architectureOf, MODEL_TYPES, taskFor, taskOf } from "../../src/models/index.js";
import type { ConfigJson } from "../../src/nn/architecture.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";

/** The keys of transformers' config classes, with their defaults: see the fixtures' make_more.py. */
const CLASSES = readJson<Record<string, ConfigJson>>("config_keys.json");
const published = (folder: string): ConfigJson => JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));

/** The keys that building a model for each of its tasks reads. */
async function readBy(config: ConfigJson): Promise<Set<string>> {
  const read = new Set<string>();
  const { tasks } = await architectureOf(config);
  for (const build of Object.values(tasks)) build(watched(config, read));
  return read;
}

/** A value other than the default, as somebody could write it. */
function other(value: unknown): unknown {
  if (typeof value === "boolean") return !value;
  if (typeof value === "number") return value + 1;
  return typeof value === "object" && value !== null ? { odd: 1 } : "odd";
}

/** Keys of all classes that are neither read nor without effect when they differ from their defaults. */
const REPORTED = ["output_attentions", "output_hidden_states", "return_dict"];
/** Those of some classes. */
const ALSO: Readonly<Record<string, readonly string[]>> = {
  bart: ["is_decoder"],
  blenderbot: ["is_decoder"],
  bert: ["add_cross_attention"],
  camembert: ["add_cross_attention"],
  electra: ["add_cross_attention"],
  gemma3_text: ["attn_logit_softcapping"], // read there, and never used
  gpt2: ["add_cross_attention"],
  gpt_neox: ["is_decoder"],
  marian: ["is_decoder"],
  mbart: ["is_decoder"],
  mt5: ["is_decoder"],
  pegasus: ["is_decoder"],
  roberta: ["add_cross_attention"],
  t5: ["is_decoder"],
  umt5: ["is_decoder"],
  "xlm-roberta": ["add_cross_attention"],
};
/** Fixtures with other names than their architectures. */
const FOLDERS: Readonly<Record<string, string>> = { camembert: "roberta", falcon: "falcon-7b-like" };

test("each architecture is looked at", () => {
  expect(Object.keys(CLASSES).sort()).toEqual([...MODEL_TYPES].sort());
});

describe.each(Object.keys(CLASSES))("%s", (name) => {
  const config = published(join(FIXTURES, "models", FOLDERS[name] ?? name));

  test("keys of its class in transformers", async () => {
    const read = await readBy(config);
    const fields = Object.entries(CLASSES[name]!);
    expect(fields.length).toBeGreaterThan(15);
    const reported = fields.filter(([key, value]) => useOf(key, other(value), read) === "ignored").map(([key]) => key);
    expect(reported).toEqual([...REPORTED, ...(ALSO[name] ?? [])].sort());
    // At their defaults nothing is worth a word.
    expect(fields.filter(([key, value]) => useOf(key, value, read) === "ignored")).toEqual([]);
  });

  test("a published file gives no warning", async () => {
    expect(ignoredKeys(config, await readBy(config))).toBeUndefined();
  });

  test("keys that nobody knows are named once, with their values", async () => {
    const odd = { ...config, my_scale: 3, my_list: [1, 2], my_null: null, my_none: {}, my_text: "x".repeat(5000) };
    const warning = ignoredKeys(odd, await readBy(odd))!;
    expect(warning).toMatch(/^config\.json: ignored: my_scale 3, my_list \[1,2\], my_text "x+\.\.\."$/);
    expect(warning.length).toBeLessThan(250);
  });
});

const PUBLISHED = readJson<Record<string, { config: ConfigJson }>>("published_configs.json");

test.each(Object.keys(PUBLISHED))("the published config of %s gives no warning", async (name) => {
  const { config } = PUBLISHED[name]!;
  const architecture = await architectureOf(config);
  const read = new Set<string>();
  taskOf(architecture, taskFor(config, architecture))(watched(config, read));
  expect(ignoredKeys(config, read)).toBeUndefined();
});

test("keys within an object that is read key by key", async () => {
  const config = published(join(FIXTURES, "models", "llama-rope-llama3"));
  expect(ignoredKeys(config, await readBy(config))).toBeUndefined();
  const scaling = { ...(config.rope_scaling as object), low_freq_facto: 2, type: "llama3" };
  const odd = { ...config, rope_scaling: scaling };
  expect(ignoredKeys(odd, await readBy(odd))).toBe("config.json: ignored: rope_scaling.low_freq_facto 2");
});

test("a hundred odd keys make a line that can be read", async () => {
  const config = published(STORYTELLER);
  const odd = { ...config, ...Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`odd_${i}`, i])) };
  expect(ignoredKeys(odd, await readBy(odd))).toMatch(/: odd_0 0, .* odd_7 7 and 92 more$/);
});

test.each([
  ["num_local_experts", 8],
  ["num_experts", 4],
  ["n_routed_experts", 64],
  ["moe_num_experts", 2],
])("experts in a dense architecture are refused: %s", async (key, experts) => {
  const folder = mkdtempSync(join(tmpdir(), "octavo-keys-"));
  cpSync(join(FIXTURES, "models", "qwen2"), folder, { recursive: true });
  const write = (value: unknown): void =>
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...published(folder), [key]: value }));
  write(experts);
  const loading = AutoModelForCausalLM.from_pretrained(folder, { device: "reference" });
  await expect(loading).rejects.toThrow(`${key} ${experts}: a "qwen2" model with experts is not supported`);
  for (const none of [0, 1, null]) {
    write(none);
    (await AutoModelForCausalLM.from_pretrained(folder, { device: "reference" })).dispose();
  }
});

test("a model says so", async () => {
  const folder = mkdtempSync(join(tmpdir(), "octavo-keys-"));
  cpSync(join(FIXTURES, "models", "llama"), folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...published(folder), sliding_window: 4 }));
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "reference" });
  expect(model.warnings).toEqual(["config.json: ignored: sliding_window 4"]);
  model.dispose();
});

test("all that config.json may say of generation is known to generate()", () => {
  const said = generationOf(Object.fromEntries(GENERATION_KEYS.map((key) => [key, 1])));
  expect(Object.keys(said).length).toBeGreaterThan(40);
  const known = (key: string): boolean => Object.hasOwn(GENERATION, key) || WITHOUT_EFFECT.has(key);
  expect(Object.keys(said).filter((key) => !known(key))).toEqual([]);
  expect(generationOf({ model_type: "llama", max_length: null })).toEqual({});
});
