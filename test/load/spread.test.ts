// from_pretrained with a device_map over several devices, the memory of another one, and the disk: the same bits as on one device, inside
// max_memory, and nothing stays behind.

import { createHash } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import {
  AbortError,
  FileError,
  FormatError,
  OctavoError,
  OptionError,
  OutOfMemoryError,
} from "../../src/core/errors.js";
import {
  AutoConfig,
  AutoModelForCausalLM,
  AutoModelForMaskedLM,
  AutoModelForSeq2SeqLM,
  cpu_offload,
  disk_offload,
  dispatch_model,
  type FromPretrainedOptions,
  infer_auto_device_map,
  LoraConfig,
  load_checkpoint_and_dispatch,
  type PreTrainedModel,
} from "../../src/index.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

const IDS = [
  [3, 1, 4, 1, 5, 9, 2, 6],
  [2, 7, 1, 8, 2, 8, 1, 8],
];
const fixture = (name: string): string => join(FIXTURES, "models", name);

type Map = Record<string, string | number>;
const load = (options: FromPretrainedOptions, name = STORYTELLER): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(name, options);

/** Logits, tokens and sampled tokens. */
async function results(model: PreTrainedModel): Promise<unknown[]> {
  const { logits } = model.forward({ input_ids: IDS });
  const values = await logits.readFloats();
  logits.dispose();
  const tokens = await model.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: false });
  const sampled = await model.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: true, seed: 7 });
  return [values, tokens, sampled];
}

const alone = new Map<string, Promise<unknown[]>>();
/** What one device gives. */
function expected(name: string, options: FromPretrainedOptions): Promise<unknown[]> {
  const key = JSON.stringify([name, options]);
  const made =
    alone.get(key) ??
    (async () => {
      await using model = await load({ device: "cpu", ...options }, name);
      return await results(model);
    })();
  alone.set(key, made);
  return made;
}

const folder = temporary("offload");
mkdirSync(folder);

// Only the native add-on has logical devices.
describe.skipIf(!nativeAvailable())("a model on several devices", () => {
  const INT8: FromPretrainedOptions = { load_in_8bit: true };
  const LAYERS = { "": "cpu:0", "model.layers.1": "disk", "model.layers.3": "cpu:1", "model.layers.4": "cpu" };

  test.each<[string, FromPretrainedOptions, FromPretrainedOptions, (map: Map) => void]>([
    [
      "balanced over two",
      { device_map: "auto", max_memory: { "cpu:0": "14MB", "cpu:1": "14MB" } },
      {},
      (map) => expect(Object.values(map)).toContain("cpu:1"),
    ],
    [
      "one after the other, in 8 bits",
      { device_map: "sequential", max_memory: { "cpu:0": "9.5MB", "cpu:1": "14MB" } },
      INT8,
      (map) => expect([map.lm_head, map["model.layers.5"]]).toEqual(["cpu:0", "cpu:1"]),
    ],
    [
      "as little as possible on the first",
      { device_map: "balanced_low_0", max_memory: { "cpu:0": "20MB", "cpu:1": "20MB" } },
      {},
      (map) => expect(Object.values(map).filter((place) => place === "cpu:0").length).toBeLessThan(6),
    ],
    [
      "blocks in the memory of the CPU",
      { device_map: "auto", max_memory: { "cpu:0": "13MB", cpu: "20MB" } },
      INT8,
      (map) => expect([map.lm_head, map["model.layers.5"]]).toEqual(["cpu:0", "cpu"]),
    ],
    [
      "blocks on the disk",
      { device_map: "auto", max_memory: { cpu: "13MB", disk: "1GB" }, offload_folder: folder },
      {},
      (map) => expect([map.lm_head, map["model.layers.5"]]).toEqual(["cpu", "disk"]),
    ],
    [
      "a map of all of them",
      { device_map: LAYERS, offload_folder: folder },
      INT8,
      (map) => expect(map).toMatchObject({ "model.layers.0": "cpu:0", "model.layers.1": "disk", lm_head: "cpu:0" }),
    ],
  ])("%s: the same bits", async (_, where, how, check) => {
    const wanted = await expected(STORYTELLER, how);
    {
      await using model = await load({ ...where, ...how });
      check(model.hf_device_map as Map);
      expect(await results(model)).toEqual(wanted);
      expect(model.warnings).toEqual([]);
      const { max_memory } = where as { max_memory?: Record<string, string> };
      const limit = max_memory?.[model.device.name];
      if (limit) expect(model.device.memory.peak).toBeLessThanOrEqual(Number.parseFloat(limit) * 1e6);
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  test("numbers are logical devices where there is no GPU, and a map of accelerate's runs", async () => {
    const name = fixture("bloom");
    const meta = await AutoModelForCausalLM.from_config(await AutoConfig.from_pretrained(name));
    const no_split_module_classes = meta._no_split_modules;
    const most = Math.floor(meta.weight_bytes * 0.8);
    const device_map = infer_auto_device_map(meta, { max_memory: { 0: most, 1: 2 * most }, no_split_module_classes });
    expect(new Set(Object.values(device_map))).toEqual(new Set([0, 1]));
    const wanted = await expected(name, {});
    const model = await load({ device_map }, name);
    try {
      expect(model.device.name).toMatch(/^(cpu:0|webgpu)/);
      if (model.device.name === "cpu:0") expect(await results(model)).toEqual(wanted);
      expect(model.hf_device_map["transformer.h.1"]).toBe(1);
      expect(model.hf_device_map.lm_head).toBe(0);
      expect(model.warnings.join()).toMatch(/everything but the blocks is on the main device 0.*transformer\.ln_f/);
    } finally {
      model.dispose();
    }
  });

  test("a declared model is filled and spread, by its own config", async () => {
    const name = fixture("llama");
    const config = await AutoConfig.from_pretrained(name);
    const meta = await AutoModelForCausalLM.from_config(config, { load_in_8bit: true });
    const device_map = { "": "cpu:0", "model.layers.1": "cpu:1" };
    await using model = await load_checkpoint_and_dispatch(meta, name, { device_map });
    expect(await results(model)).toEqual(await expected(name, INT8));
    expect(dispatch_model(model, { "model.layers.1": "cpu:1" })).toBe(model);
    expect(() => dispatch_model(model, { "model.layers.1": "cpu:0" })).toThrow(/model\.layers\.1 would move/);
    const wider = await AutoModelForCausalLM.from_config({ ...config, num_hidden_layers: 9 });
    await expect(load_checkpoint_and_dispatch(wider, name, { device_map })).rejects.toThrow(/lacks \d+ of/);
    const alien = load_checkpoint_and_dispatch(model as never, name);
    await expect(alien).rejects.toThrow(/expected a declared model/);
  });

  test("encoders, too", async () => {
    const name = fixture("bert");
    const device_map = { "": "cpu:0", "bert.encoder.layer.1": "cpu:1" };
    const run = async (options: FromPretrainedOptions): Promise<unknown> => {
      await using model = await AutoModelForMaskedLM.from_pretrained(name, options);
      const { logits } = model.forward({ input_ids: IDS });
      const values = await logits.readFloats();
      logits.dispose();
      return values;
    };
    expect(await run({ device_map })).toEqual(await run({ device: "cpu" }));
  });

  test.each<[string, Map]>([
    ["t5", { "": "cpu:0", decoder: "cpu:1" }],
    ["t5", { "": "cpu:0", "encoder.block.0": "cpu:1", "decoder.block.0": "disk", "decoder.block.1": "cpu:1" }],
    ["bart", { "": "cpu:0", "model.encoder.layers.1": "disk", "model.decoder.layers.0": "cpu:1" }],
    ["bart", { "": "cpu:0", "model.decoder": "disk", "model.encoder.layers.0": "cpu" }],
  ])("encoder-decoders, too: %s, %j", async (name, device_map) => {
    const run = async (options: FromPretrainedOptions): Promise<unknown[]> => {
      await using model = await AutoModelForSeq2SeqLM.from_pretrained(fixture(name), options);
      const attention_mask = [new Array<number>(8).fill(1), [0, 0, 0, 1, 1, 1, 1, 1]];
      const all = { input_ids: IDS, attention_mask };
      const { logits, encoder_last_hidden_state } = model.forward({ ...all, decoder_input_ids: IDS });
      const values = await logits.readFloats();
      logits.dispose();
      encoder_last_hidden_state.dispose();
      const limits = { max_new_tokens: 8, do_sample: false };
      return [
        ...[
          values,
          await model.generate({ ...all, ...limits }),
          await model.generate({ ...all, ...limits, num_beams: 3 }),
        ],
        await model.generate({ ...all, ...limits, do_sample: true, num_return_sequences: 2, seed: 3 }),
      ];
    };
    for (const how of [{}, { load_in_8bit: true }]) {
      const spread = await run({ device_map, offload_folder: folder, ...how });
      expect(spread).toEqual(await run({ device: "cpu", ...how }));
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  test("what needs all weights in their place is refused while some are not", async () => {
    await using model = await load({ device_map: LAYERS, offload_folder: folder });
    expect(() => model.to("cpu")).toThrow("you can't move a model that has some modules offloaded to cpu or disk");
    expect(() => model.half()).toThrow("you can't move a model that has some modules offloaded to cpu or disk");
    expect(() => model.dequantize()).toThrow(OctavoError);
    expect(() => model.add_adapter(new LoraConfig())).toThrow(/offloaded/);
    const [here, away] = ["model.norm.weight", "model.layers.1.input_layernorm.weight"];
    const state = await model.state_dict();
    const some = (name: string): Parameters<typeof model.module.load_state_dict> => [
      { [name]: state.get(name)! },
      { strict: false },
    ];
    await model.module.load_state_dict(...some(here));
    await expect(model.module.load_state_dict(...some(away))).rejects.toMatchObject({ code: "ERR_OFFLOADED" });
  });

  test.each<[string, FromPretrainedOptions]>([
    ["floats", {}],
    ["8 bits", INT8],
    ["4 bits, quantized twice", { load_in_4bit: true, bnb_4bit_use_double_quant: true }],
  ])("what lies elsewhere is saved as it is stored: %s", async (_, how) => {
    const saved = temporary("saved");
    const name = fixture("llama");
    const device_map = { "": "cpu:0", "model.layers.0": "disk", "model.layers.1": "cpu" };
    await using model = await load({ device_map, offload_folder: folder, ...how }, name);
    {
      await using whole = await load({ device: "cpu", ...how }, name);
      const [state, wanted] = [await model.state_dict(), await whole.state_dict()];
      expect([...state.keys()]).toEqual([...wanted.keys()]);
      // All at once: they are brought one after the other.
      const read = (all: typeof state): Promise<string[]> =>
        Promise.all(
          [...all.values()].map(async (one) =>
            createHash("sha256")
              .update(await one.bytes())
              .digest("hex"),
          ),
        );
      expect(await read(state)).toEqual(await read(wanted));
    }
    const { live } = model.device.memory;
    const saving = model.save_pretrained(saved);
    const started = await model.generate({ input_ids: IDS, max_new_tokens: 2 }).catch((error: unknown) => error);
    if (started instanceof Error) expect(started).toMatchObject({ code: "ERR_IN_USE" });
    await saving;
    expect(model.device.memory.live).toBe(live);
    expect(await expected(saved, {})).toEqual(await expected(name, how));
    const [one, other] = (await model.state_dict()).values();
    const text = model.stream({ input_ids: [IDS[0]!], max_new_tokens: 4 });
    await text.next();
    await expect(model.save_pretrained(saved)).rejects.toMatchObject({ code: "ERR_IN_USE" });
    // Who reads gives way to who generates, and the other way round: whoever came first goes on to the end.
    await expect(one!.bytes()).rejects.toMatchObject({ code: "ERR_IN_USE" });
    let tokens = 1;
    for await (const _ of text) tokens++;
    expect(tokens).toBe(4);
    const read = Promise.all([one!.bytes(), other!.bytes()]);
    await expect(model.generate({ input_ids: IDS, max_new_tokens: 2 })).rejects.toMatchObject({ code: "ERR_IN_USE" });
    expect((await read).map(({ length }) => length)).not.toContain(0);
    expect(await results(model)).toEqual(await expected(name, how));
  });

  test("a model that is only spread is saved as it was", async () => {
    await using model = await load({ device_map: { "": "cpu:0", "model.layers.3": "cpu:1" }, load_in_8bit: true });
    const saved = temporary("spread");
    await model.save_pretrained(saved);
    expect(await expected(saved, {})).toEqual(await expected(STORYTELLER, { load_in_8bit: true }));
    model.dequantize();
    expect(model.quantized_modules).toEqual([]);
    expect((await results(model)).length).toBe(3);
  });

  test.each<[string, FromPretrainedOptions, RegExp]>([
    ["a disk without a folder", { device_map: LAYERS }, /please pass along an offload_folder/],
    ["a part without a device", { device_map: { "model.layers": "cpu:0", lm_head: "cpu:1" } }, /model\.embed_tokens/],
    ["a place that is none", { device_map: { "": "cpu:0", lm_head: "moon" } }, /"lm_head" cannot go to "moon"/],
    [
      "a block in pieces",
      { device_map: { "": "cpu:0", "model.layers.1.mlp": "cpu:1" } },
      /takes model\.layers\.1 apart, between cpu:0 and cpu:1/,
    ],
    ["a map and a device", { device_map: LAYERS, device: "cpu" }, /both given/],
    [
      "a device that is too small",
      { device_map: "auto", max_memory: { "cpu:0": "1MB", "cpu:1": "2MB" } },
      /device cpu:0 may take 1.00 MB/,
    ],
  ])("%s is refused", async (_, options, message) => {
    const error = await load(options).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OptionError);
    expect((error as Error).message).toMatch(message);
  });

  test.each<[string, FromPretrainedOptions]>([
    ["floats", {}],
    ["8 bits", { load_in_8bit: true }],
    ["4 bits", { load_in_4bit: true }],
  ])("a loaded model goes to the disk: %s", async (_, how) => {
    const wanted = await expected(STORYTELLER, how);
    {
      await using model = await load({ device: "cpu", ...how });
      const before = model.device.memory.live;
      const going = disk_offload(model, folder, { execution_device: "cpu" });
      // It would read what is being taken away.
      await expect(model.generate({ input_ids: IDS, max_new_tokens: 2 })).rejects.toMatchObject({ code: "ERR_IN_USE" });
      expect(await going).toBe(model);
      expect(model.hf_device_map).toMatchObject({ "": model.device.name, "model.layers.5": "disk" });
      expect(model.device.memory.live).toBeLessThan(0.6 * before); // embedding and head stay
      expect(readdirSync(folder).length).toBe(1);
      expect(await results(model)).toEqual(wanted);
      expect(() => model.to("cpu")).toThrow("you can't move a model that has some modules offloaded to cpu or disk");
      expect(() => model.add_adapter(new LoraConfig())).toThrow(/offloaded/);
      await expect(disk_offload(model, folder)).rejects.toThrow(/offloaded|already/);
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  test("cpu_offload of a model on the CPU, and what is refused; a model that is not taken away stays as it was", async () => {
    await using model = await load({ device: "cpu" });
    expect(await cpu_offload(model)).toBe(model);
    expect(model.hf_device_map).toEqual({ "": "cpu" });
    await expect(cpu_offload(model, { execution_device: "webgpu" })).rejects.toThrow(/runs on cpu, and stays there/);
    const file = temporary("no folder");
    writeFileSync(file, "");
    await expect(disk_offload(model, file)).rejects.toThrow(FileError);
    await expect(disk_offload(model, "")).rejects.toThrow(OptionError);
    await expect(cpu_offload({} as PreTrainedModel)).rejects.toThrow(/expected a loaded model/);
    const stream = model.stream({ input_ids: [IDS[0]!], max_new_tokens: 4 });
    await stream.next();
    await expect(disk_offload(model, folder)).rejects.toMatchObject({ code: "ERR_IN_USE" });
    await stream.return(undefined);
    expect(await results(model)).toEqual(await expected(STORYTELLER, {}));
    expect(readdirSync(folder)).toEqual([]);
  });

  test.each(["in its place", "in place"])(
    "another file %s ends what needs its weights, with module and file; all else lives",
    async (how) => {
      const name = fixture("llama");
      const device_map = { "": "cpu:0", "model.layers.1": "disk" };
      const text = { input_ids: IDS, max_new_tokens: 24, do_sample: false };
      await using model = await load({ device_map, offload_folder: folder }, name);
      await using neighbour = await load({ device: model.device }, name);
      const wanted = await neighbour.generate(text);
      const [file] = readdirSync(folder);
      const path = join(folder, file!);
      // In the middle of a text: the steps before were read, the others are not.
      const stream = model.stream({ ...text, input_ids: [IDS[0]!] });
      await stream.next();
      const other = readFileSync(path).reverse();
      if (how === "in its place") {
        const beside = temporary("other weights");
        writeFileSync(beside, other);
        renameSync(beside, path);
      } else {
        // Piece by piece, while steps read ahead: none may take what is half written for weights.
        const to = openSync(path, "r+");
        for (let at = 0; at < other.length; at += 4096) writeSync(to, other, at, Math.min(4096, other.length - at), at);
        closeSync(to);
      }
      const rest = (async () => {
        for await (const _ of stream);
      })();
      const failure = await rest.catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(FormatError);
      expect(failure).toMatchObject({ details: { module: "model.layers.1" } });
      expect((failure as Error).message).toMatch(/^load in model\.layers\.1: .*\.weights was changed or replaced/);
      rmSync(path);
      const gone = /^load in model\.layers\.1: cannot open .*\.weights: No such file/;
      await expect(model.generate(text)).rejects.toThrow(gone);
      await expect(model.save_pretrained(temporary("never"))).rejects.toThrow(gone);
      expect(await neighbour.generate(text)).toEqual(wanted);
    },
  );

  test("a load that fails or is aborted leaves nothing behind", async () => {
    const options = { device_map: LAYERS, offload_folder: folder };
    const stop = new AbortController();
    const progress_callback = (): void => stop.abort();
    const aborted = await load({ ...options, signal: stop.signal, progress_callback }).catch((error: unknown) => error);
    expect(aborted).toBeInstanceOf(AbortError);
    expect(readdirSync(folder)).toEqual([]);
    const max_memory = { "cpu:0": 4_000_000 };
    await expect(load({ ...options, max_memory })).rejects.toThrow(OutOfMemoryError);
    expect(readdirSync(folder)).toEqual([]);
    const file = temporary("a file");
    writeFileSync(file, "");
    await expect(load({ ...options, offload_folder: file })).rejects.toThrow(FileError);
  });
});

test.skipIf(!ALL_DEVICES.includes("webgpu") || !nativeAvailable())(
  "on a GPU the blocks of a loaded model visit it from the computer's memory, or from the disk",
  async () => {
    const device = await requestTestDevice("webgpu");
    try {
      const text = { input_ids: IDS, max_new_tokens: 3, do_sample: false };
      let wanted: number[][] | undefined;
      for (const where of ["cpu", "disk"]) {
        await using model = await load({ device, load_in_8bit: true }, fixture("llama"));
        wanted ??= await model.generate(text);
        const { live } = device.memory;
        if (where === "cpu") await cpu_offload(model);
        else await disk_offload(model, folder);
        expect(device.memory.live).toBeLessThan(live);
        expect(await model.generate(text)).toEqual(wanted);
        expect(model.hf_device_map["model.layers.1"]).toBe(where);
      }
      expect(readdirSync(folder)).toEqual([]);
      expectNoLeaks(device);
    } finally {
      await device.close();
    }
  },
);
