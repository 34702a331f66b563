// What a download leaves in the cache, and what it asks for: Python's layout, and no file that is not needed.

import { lstatSync, mkdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { NotFoundError } from "../../src/core/errors.js";
import { AutoConfig, AutoModelForCausalLM, AutoProcessor, AutoTokenizer } from "../../src/generate/auto.js";
import type { TokenizerOptions } from "../../src/generate/loading-options.js";
import { listCache, planRemoval } from "../../src/hub/cached.js";
import { type PullOptions, pull } from "../../src/hub/pull.js";
import type { ProgressEvent } from "../../src/load/fill.js";
import { gitSha1, sha256 } from "../support/fake-hub.js";
import { FIXTURES } from "../support/fixtures.js";
import { hub, modelFiles, place, tree, useHub, weights } from "../support/hub-suite.js";
import { temporary } from "../support/temporary.js";

useHub();

const CONFIG = '{"model_type":"llama"}';
const TOKENIZER = '{"version":"1.0"}';

/** Files of which only the first five are needed. */
const REPO = {
  "config.json": CONFIG,
  "generation_config.json": "{}",
  "tokenizer.json": TOKENIZER,
  "tokenizer_config.json": "{}",
  "model.safetensors": weights(5000),
  "pytorch_model.bin": Buffer.alloc(5000, 1),
  "model.gguf": Buffer.alloc(5000, 2),
  "tf_model.h5": "h5",
  "tokenizer.model": "sentencepiece",
  "README.md": "# model",
  "onnx/model.onnx": Buffer.alloc(5000, 3),
};

describe("pull", () => {
  test("blobs by their hashes, links, a ref, and notes of what is not there", async () => {
    const commit = hub.commit("org/tiny", REPO);
    const { folder, received } = await pull("org/tiny");
    const model = join(place.cache, "models--org--tiny");
    expect(folder).toBe(join(model, "snapshots", commit));
    expect(received).toBeGreaterThanOrEqual(5000);
    expect(tree(folder)).toEqual([
      ...["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    ]);
    const blob = `blobs/${sha256(REPO["model.safetensors"])}`;
    expect(readlinkSync(join(folder, "model.safetensors"))).toBe(join("..", "..", blob));
    expect(readFileSync(join(model, blob)).equals(REPO["model.safetensors"])).toBe(true);
    expect(readlinkSync(join(folder, "config.json"))).toContain(gitSha1(Buffer.from(CONFIG)));
    expect(readFileSync(join(model, "refs", "main"), "utf8")).toBe(commit);
    const absent = tree(join(model, ".no_exist", commit));
    expect(absent).toEqual(expect.arrayContaining(["chat_template.jinja", "model.safetensors.index.json"]));
    expect(absent).not.toContain("model.safetensors");
    expect(tree(model).filter((file) => /tmp|incomplete/.test(file))).toEqual([]);
    expect(hub.asked.filter((path) => /\.bin|gguf|h5|onnx|tokenizer\.model|README/.test(path))).toEqual([]);
  });

  test("what is there is not asked for again: one request for a branch, none for a commit", async () => {
    const commit = hub.commit("org/tiny", REPO);
    await pull("org/tiny");
    hub.hub.asked.length = 0;
    hub.cdn.asked.length = 0;
    expect((await pull("org/tiny")).received).toBe(0);
    expect(hub.asked).toEqual(["/api/models/org/tiny/revision/main"]);
    hub.hub.asked.length = 0;
    await pull("org/tiny", { revision: commit });
    expect(hub.asked).toEqual([]);
    await pull("org/tiny", { force_download: true });
    expect(hub.cdn.asked.length).toBeGreaterThan(0);
  });

  test("tokenizers of older files come where there is no tokenizer.json", async () => {
    const files = { "config.json": CONFIG, "model.safetensors": weights(5000), "tokenizer_config.json": "{}" };
    const older = { "qwen.tiktoken": "IQ== 0\n", "tiktoken.model": "IQ== 0\n", "tokenizer.model": "sentencepiece" };
    hub.commit("org/older", { ...files, ...older });
    expect(tree((await pull("org/older")).folder)).toEqual(Object.keys({ ...files, ...older }).sort());
    hub.commit("org/newer", { ...files, ...older, "tokenizer.json": TOKENIZER });
    expect(tree((await pull("org/newer")).folder)).toEqual([...Object.keys(files), "tokenizer.json"].sort());
  });

  test("the parts of a language come where they are asked for; Marian's models do in any case", async () => {
    const files = { "config.json": CONFIG, "model.safetensors": weights(5000), "vocab.json": "{}", "source.spm": "s" };
    const more = { "target.spm": "t", "target_vocab.json": "{}" };
    const spoken = { "adapter.fra.safetensors": weights(4000), "adapter.deu.bin": "b" };
    hub.commit("org/many", { ...files, ...more, ...spoken });
    const own = Object.keys({ ...files, ...more });
    expect(tree((await pull("org/many")).folder)).toEqual([...own].sort());
    const french = await pull("org/many", { target_lang: "fra" });
    expect(tree(french.folder)).toEqual([...own, "adapter.fra.safetensors"].sort());
    const german = await pull("org/many", { target_lang: "deu" });
    expect(tree(german.folder)).toEqual([...own, ...Object.keys(spoken)].sort());
    await expect(pull("org/many", { target_lang: "xyz" })).rejects.toThrow(NotFoundError);
  });

  test("shards that the index names, some in folders; a list of several pages; one count over all files", async () => {
    const shards = { w1: "a-00001-of-00002.safetensors", w2: "sub/b-00002-of-00002.safetensors" };
    hub.page = 2;
    hub.commit("org/big", {
      "config.json": CONFIG,
      "model.safetensors.index.json": JSON.stringify({ weight_map: shards }),
      [shards.w1]: weights(6000, 1, "w1"),
      [shards.w2]: weights(7000, 2, "w2"),
      "c-not-named.safetensors": weights(5000),
    });
    const events: (readonly [number, number])[] = [];
    const { folder } = await pull("org/big", { download: ({ loaded, total }) => events.push([loaded, total]) });
    const files = ["config.json", "model.safetensors.index.json", ...Object.values(shards)];
    expect(tree(folder)).toEqual(files.sort());
    const bytes = files.reduce((sum, file) => sum + readFileSync(join(folder, file)).length, 0);
    expect(events.at(-1)).toEqual([bytes, bytes]);
  });

  test("a subfolder, a tag, a pull request, a folder of pooling", async () => {
    const files = { "unet/config.json": CONFIG, "unet/model.safetensors": weights(5000), "config.json": "{}" };
    const commit = hub.commit("org/parts", files, "refs/pr/3");
    const { folder } = await pull("org/parts", { revision: "refs/pr/3", subfolder: "unet" });
    expect(folder).toBe(join(place.cache, "models--org--parts", "snapshots", commit, "unet"));
    expect(tree(join(folder, ".."))).toEqual(["unet/config.json", "unet/model.safetensors"]);
    expect(readFileSync(join(place.cache, "models--org--parts/refs/refs/pr/3"), "utf8")).toBe(commit);
    const modules =
      '[{"type":"sentence_transformers.models.Pooling","path":"1_Pooling"},{"path":"../x"},{"path":"none"}]';
    hub.commit("org/sentence", { "config.json": "{}", "modules.json": modules, "1_Pooling/config.json": "{}" }, "v1");
    const warnings: string[] = [];
    const sentence = await pull("org/sentence", { revision: "v1", warn: (message) => warnings.push(message) });
    expect(tree(sentence.folder)).toEqual(["1_Pooling/config.json", "config.json", "modules.json"]);
    expect(warnings.join()).toMatch(
      /^modules.json: "..\/x" is not the name of a folder of the model, and is left out$/,
    );
  });

  test("weights of another variant, or of one format alone", async () => {
    const names = ["model", "model.fp16", "pytorch_model", "pytorch_model.fp16"];
    const files = names.map((name, i) => [`${name}.${i < 2 ? "safetensors" : "bin"}`, weights(5000, i)]);
    const shards = { "model.safetensors.index.int8.json": JSON.stringify({ weight_map: { w: "int8/a.safetensors" } }) };
    hub.commit("org/kinds", {
      "config.json": CONFIG,
      ...Object.fromEntries(files),
      ...shards,
      "int8/a.safetensors": weights(5000),
    });
    const pulled = async (options: PullOptions): Promise<string[]> => {
      rmSync(place.cache, { recursive: true, force: true });
      return tree((await pull("org/kinds", options)).folder).filter((name) => name !== "config.json");
    };
    expect(await pulled({})).toEqual(["model.safetensors"]);
    expect(await pulled({ variant: "fp16", use_safetensors: true })).toEqual(["model.fp16.safetensors"]);
    expect(await pulled({ variant: "int8" })).toEqual(["int8/a.safetensors", "model.safetensors.index.int8.json"]);
    for (const [options, message] of [
      [{ variant: "bf16" }, /no weights found; looked for model.bf16.safetensors.*without a variant are there/s],
      [{ variant: "int8", use_safetensors: false }, /only model.safetensors.index.int8.json/],
      [{ variant: "../x" }, /variant must be/],
      // Those are no files of torch.save: they were looked at, and are what was asked for.
      [{ use_safetensors: false }, /pytorch_model.bin/],
    ] as const) {
      await expect(pulled(options)).rejects.toThrow(message);
    }
  });

  test("weights that cannot be read are named before anything is downloaded; models without any may be pulled", async () => {
    const foreign = { "tf_model.h5": "h5", "flax_model.msgpack": "m", "a-q4.gguf": "g", "onnx/model.onnx": "o" };
    for (const [name, body] of Object.entries(foreign)) {
      hub.commit("org/foreign", { "config.json": CONFIG, "tokenizer.json": TOKENIZER, [name]: body });
      for (let again = 0; again < 2; again++) {
        const error = await pull("org/foreign").catch((caught: unknown) => caught);
        expect(error).toBeInstanceOf(NotFoundError);
        expect(String(error)).toMatch(new RegExp(`no weights found.*other weight files are there: ${name};`, "s"));
      }
    }
    // config.json alone was looked at: it may name weights.
    const there = tree(place.cache).filter((name) => name.includes("/snapshots/"));
    expect(there.filter((name) => !name.endsWith("/config.json"))).toEqual([]);
    for (const [id, files] of [
      ["org/tokens", { "tokenizer.json": TOKENIZER, "config.json": CONFIG, "training_args.bin": "t" }],
      ["org/adapter", { "adapter_config.json": "{}", "adapter_model.bin": "a" }],
      [
        "org/named",
        { "config.json": '{"transformers_weights":"sub/x.safetensors"}', "sub/x.safetensors": weights(50) },
      ],
    ] as const) {
      hub.commit(id, files);
      await pull(id);
    }
    hub.commit("org/empty", { "README.md": "# model" });
    await expect(pull("org/empty")).rejects.toThrow(/has no config.json: nothing of it can be loaded/);
  });

  test("without links: a new file is moved into the snapshot, one that is there is copied", async () => {
    process.env.HF_HUB_DISABLE_SYMLINKS = "1";
    hub.commit("org/tiny", REPO);
    const { folder } = await pull("org/tiny");
    expect(lstatSync(join(folder, "model.safetensors")).isSymbolicLink()).toBe(false);
    expect(readFileSync(join(folder, "model.safetensors")).equals(REPO["model.safetensors"])).toBe(true);
    expect(tree(join(place.cache, "models--org--tiny", "blobs"))).toEqual([]);
    hub.cdn.asked.length = 0;
    await pull("org/tiny");
    expect(hub.cdn.asked).toEqual([]);
    const blobs = join(place.cache, "models--org--tiny", "blobs");
    writeFileSync(join(blobs, sha256(REPO["model.safetensors"])), REPO["model.safetensors"]);
    rmSync(join(folder, "model.safetensors"));
    await pull("org/tiny");
    expect(tree(blobs)).toEqual([sha256(REPO["model.safetensors"])]);
    expect(hub.cdn.asked).toEqual([]);
  });

  test("files that are short, gone, or links to nothing are brought again", async () => {
    hub.commit("org/tiny", REPO);
    const { folder } = await pull("org/tiny");
    const blob = join(place.cache, "models--org--tiny", "blobs", sha256(REPO["model.safetensors"]));
    rmSync(join(folder, "tokenizer.json"));
    writeFileSync(blob, "short");
    await pull("org/tiny");
    expect(readFileSync(join(folder, "tokenizer.json"), "utf8")).toBe(TOKENIZER);
    expect(readFileSync(blob).equals(REPO["model.safetensors"])).toBe(true);
    rmSync(blob);
    await pull("org/tiny");
    expect(readFileSync(blob).equals(REPO["model.safetensors"])).toBe(true);
  });
});

describe("from_pretrained", () => {
  test("each class brings what it reads; then no network is needed", async () => {
    const commit = hub.commit("org/llama", { ...modelFiles(), "extra.bin": Buffer.alloc(9000) });
    const folder = join(place.cache, "models--org--llama", "snapshots", commit);
    await AutoConfig.from_pretrained("org/llama");
    expect(tree(folder)).toEqual(["config.json"]);
    const events: ProgressEvent[] = [];
    const options = { device: "reference", progress_callback: (event: ProgressEvent) => events.push(event) } as const;
    (await AutoModelForCausalLM.from_pretrained("org/llama", options)).dispose();
    expect(tree(folder)).toContain("model.safetensors");
    expect(tree(folder).filter((name) => /tokenizer|extra/.test(name))).toEqual([]);
    const downloads = events.filter(({ status }) => status === "download");
    expect(downloads.at(-1)).toMatchObject({ name: "org/llama", file: "model.safetensors", progress: 100 });
    expect(events.at(-1)!.status).toBe("done");

    hub.hub.asked.length = 0;
    hub.cdn.asked.length = 0;
    process.env.HF_HUB_OFFLINE = "1";
    (await AutoModelForCausalLM.from_pretrained("org/llama", { device: "reference" })).dispose();
    delete process.env.HF_HUB_OFFLINE;
    await AutoConfig.from_pretrained("org/llama", { local_files_only: true });
    expect(hub.asked).toEqual([]);
  });

  test("a tokenizer brings no weights", async () => {
    const files = modelFiles("bert");
    hub.commit("org/words", files);
    if (files["tokenizer.json"] === undefined && files["vocab.txt"] === undefined) {
      hub.commit("org/words", { ...files, "vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n" });
    }
    await AutoTokenizer.from_pretrained("org/words");
    expect(hub.cdn.asked).toEqual([]);
    expect(tree(place.cache).filter((name) => /safetensors/.test(name) && !name.includes(".no_exist"))).toEqual([]);
  });
});

describe("what is loaded is saved from the commit that it is", () => {
  const tokens = (word: string) => ({
    "config.json": '{"model_type":"vit"}',
    "vocab.txt": `[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n${word}\n`,
    "preprocessor_config.json": readFileSync(join(FIXTURES, "processors/vit/preprocessor_config.json")),
  });
  const loaders = {
    tokenizer: (options?: TokenizerOptions) => AutoTokenizer.from_pretrained("org/words", options),
    "processor's tokenizer": async (options?: TokenizerOptions) =>
      (await AutoProcessor.from_pretrained("org/words", options)).tokenizer!,
  };

  test.each(Object.entries(loaders))("%s", async (_, load) => {
    hub.commit("org/words", tokens("old"));
    const fetched = await load();
    const cached = await load({ local_files_only: true });
    hub.commit("org/words", tokens("new"));
    await pull("org/words");
    for (const tokenizer of [fetched, cached]) {
      const folder = temporary("saved");
      await tokenizer.save_pretrained(folder);
      expect(JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8")).model.vocab).toHaveProperty("old", 5);
    }
  });
});

describe("the cache's contents", () => {
  test("listed, and removed by revision or whole", async () => {
    const shared = weights(5000, 1);
    const first = hub.commit("org/tiny", { "config.json": CONFIG, "model.safetensors": shared }, "old");
    const own = weights(8000, 2);
    const second = hub.commit("org/tiny", { "config.json": CONFIG, "tokenizer.json": "{}", "model.safetensors": own });
    await pull("org/tiny", { revision: "old" });
    await pull("org/tiny");
    const left = join(place.cache, "models--org--tiny", "blobs", `${"a".repeat(64)}.12345678.incomplete`);
    writeFileSync(left, "12345");
    mkdirSync(join(place.cache, "models--broken--one", "snapshots"), { recursive: true });
    const [broken, tiny] = await listCache();
    expect(broken).toMatchObject({ id: "broken/one", revisions: [], bytes: 0 });
    expect(tiny).toMatchObject({ id: "org/tiny", incomplete_bytes: 5 });
    expect(tiny!.bytes).toBe(shared.length + own.length + CONFIG.length + 2 + 5);
    expect(tiny!.revisions.map(({ commit, refs }) => [commit, refs])).toEqual(
      [
        [first, ["old"]],
        [second, ["main"]],
      ].sort(),
    );

    const removal = await planRemoval("org/tiny", "old");
    expect(removal).toMatchObject({ commits: [first], whole: false, bytes: shared.length });
    await removal.run();
    const [, after] = await listCache();
    expect(after!.revisions.map(({ commit }) => commit)).toEqual([second]);
    expect(tree(place.cache).join("\n")).not.toContain(first);
    expect(readFileSync(join(place.cache, "models--org--tiny", "snapshots", second, "config.json"), "utf8")).toBe(
      CONFIG,
    );
    const rest = await planRemoval("org/tiny", second.slice(0, 8));
    expect(rest.whole).toBe(true);
    await rest.run();
    expect(tree(place.cache).filter((name) => name.includes("tiny"))).toEqual([]);
  });

  test.each(["old", undefined])("what links of a cache lead to outside it stays (revision %s)", async (revision) => {
    const commit = hub.commit("org/tiny", { "config.json": CONFIG, "model.safetensors": weights(5000) }, "old");
    hub.commit("org/tiny", { "config.json": `${CONFIG} ` });
    await pull("org/tiny", { revision: "old" });
    await pull("org/tiny");
    const model = join(place.cache, "models--org--tiny");
    const mine = join(place.home, "mine");
    for (const name of ["folder/deep/file", "weights", "pooling/file", "refs/old", "blob"]) {
      mkdirSync(dirname(join(mine, name)), { recursive: true });
      writeFileSync(join(mine, name), name === "refs/old" ? commit : "precious");
    }
    const before = tree(mine);
    const snapshot = join(model, "snapshots", commit);
    symlinkSync(join(mine, "folder"), join(snapshot, "folder"));
    symlinkSync(join(mine, "weights"), join(snapshot, "other.safetensors"));
    symlinkSync("../../../../../mine/pooling", join(snapshot, "1_Pooling"));
    rmSync(join(model, "refs"), { recursive: true });
    symlinkSync(join(mine, "refs"), join(model, "refs"));
    // A blob that is a link itself goes, and what it leads to stays.
    symlinkSync(join(mine, "blob"), join(model, "blobs", "b".repeat(64)));
    symlinkSync(`../../blobs/${"b".repeat(64)}`, join(snapshot, "blob"));

    const removal = await planRemoval("org/tiny", revision);
    const own = 5000 + CONFIG.length;
    expect(removal.bytes).toBeGreaterThanOrEqual(own);
    expect(removal.bytes).toBeLessThan(own + 200);
    await removal.run();
    expect(tree(mine)).toEqual(before);
    expect(tree(place.cache).join("\n")).not.toContain(commit);
    expect(tree(place.cache).join("\n")).not.toContain("b".repeat(64));
  });

  test("what is not there is not removed", async () => {
    hub.commit("org/tiny", { "config.json": CONFIG });
    await pull("org/tiny");
    await expect(planRemoval("org/tinny")).rejects.toThrow(/not in the cache.*did you mean "org\/tiny"/s);
    await expect(planRemoval("org/tiny", "v9")).rejects.toThrow(/no cached revision "v9".*main/s);
    await expect(planRemoval("../x")).rejects.toThrow(/expected a model id/);
  });
});
