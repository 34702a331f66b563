// Whatever is passed to what the package exports: it works, or it is refused with a typed error and a short message, and
// nothing stays behind on the device.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { CONFIG_FROM_PRETRAINED } from "../../src/generate/auto-config.js";
import { DISPATCH } from "../../src/generate/dispatch.js";
import { FROM_CONFIG, FROM_PRETRAINED, TOKENIZER_FROM_PRETRAINED } from "../../src/generate/loading-options.js";
import {
  CLIP_FORWARD,
  CLIP_IMAGE,
  CLIP_TEXT,
  ENCODER_FORWARD,
  FEATURE_FORWARD,
  FORWARD,
  GENERATE,
  SEQ2SEQ_FORWARD,
  SEQ2SEQ_GENERATE,
  SPEECH_FORWARD,
  SPEECH_GENERATE,
  SPEECH_STREAM,
} from "../../src/generate/options.js";
import { PULL } from "../../src/hub/pull.js";
import { PUSH } from "../../src/hub/push-options.js";
import * as octavo from "../../src/index.js";
import { openDevice } from "../../src/load/device.js";
import { BALANCED_MEMORY, INFER_DEVICE_MAP } from "../../src/load/device-map/index.js";
import { DEVICE } from "../../src/load/options.js";
import { BITS_AND_BYTES } from "../../src/quant/config.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { all, complaint } from "../support/odd-calls.js";
import { temporary } from "../support/temporary.js";

const fixture = (name: string): string => join(FIXTURES, "models", name);

/** Names of the methods of a class and of its parents. */
function methodsOf(made: object): string[] {
  const names = new Set<string>();
  for (let at = Object.getPrototypeOf(made); at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(at))) {
      if (typeof value === "function" && name !== "constructor") names.add(name);
    }
  }
  return [...names];
}

type Method = (...args: readonly unknown[]) => unknown;
const method = (of: object, name: string): Method => ((of as Record<string, Method>)[name] as Method).bind(of);

let device: Device;
beforeAll(() => {
  device = openDevice("reference");
});
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

describe("exports", () => {
  // Tokenizers have a list of their own; errors are made of anything without failing.
  const CLASSES = Object.entries(octavo).filter(
    ([name, value]) => typeof value === "function" && /^class\b/.test(String(value)) && name !== "StreamDecoder",
  );

  test.each(CLASSES)("new %s", async (name, value) => {
    const Class = value as unknown as new (...args: readonly unknown[]) => unknown;
    await all(`new ${name}(it)`, (odd) => new Class(odd));
    await all(`new ${name}("a", it)`, (odd) => new Class("a", odd));
    await all(`new ${name}("a", "b", it)`, (odd) => new Class("a", "b", odd));
  });

  const FUNCTIONS = Object.entries(octavo).filter(
    ([, value]) => typeof value === "function" && !/^class\b/.test(String(value)),
  );

  test.each(FUNCTIONS)("%s", async (name, value) => {
    const call = value as unknown as Method;
    // 0 is a GPU, which not every machine has and which opens slowly.
    const without = /Device$/.test(name) ? ["zero"] : [];
    const close = async (result: unknown): Promise<void> => {
      const made = await result;
      if (Device.is(made)) await made.close();
    };
    await all(`${name}(it)`, (odd) => close(call(odd)), without);
    await all(`${name}("x", it)`, (odd) => close(call("x", odd)));
    if (/^(open|request)Device$/.test(name)) {
      await all(`${name}("reference", it)`, (odd) => close(call("reference", odd)));
      for (const option of Object.keys(DEVICE)) {
        await all(`${name}("cpu", { ${option} })`, (odd) => close(call("cpu", { [option]: odd })));
      }
    }
  });

  test("pull and pushFolder", async () => {
    // vitest.config.ts forbids to ask the hub.
    for (const option of Object.keys(PULL)) {
      await all(`pull({ ${option} })`, (odd) => octavo.pull("org/none", { [option]: odd }));
    }
    await all("pushFolder(folder, it)", (odd) => octavo.pushFolder(STORYTELLER, odd as string, { dry_run: true }));
    for (const option of Object.keys(PUSH)) {
      const push = (odd: unknown) => octavo.pushFolder(STORYTELLER, "org/none", { dry_run: true, [option]: odd });
      await all(`pushFolder({ ${option} })`, push);
    }
  });

  test("scope and captureAll", async () => {
    await all("scope(() => it)", (odd) => {
      scope(() => {
        Tensor.empty(device, [2], "f32");
        return odd as never;
      });
    });
    await all("captureAll([device], it)", (odd) => octavo.captureAll([device], odd as never).dispose());
    await all("captureAll(it, () => {})", (odd) => octavo.captureAll(odd as never, () => {}).dispose());
  });

  test("transfer", async () => {
    using x = Tensor.from(device, [1, 2], [2]);
    await all("transfer(it, device)", (odd) => octavo.transfer(odd as Tensor, device));
    await all("transfer(x, it)", (odd) => octavo.transfer(x, odd as Device));
    for (const fake of [new Proxy(x, {}), Object.create(Tensor.prototype)]) {
      expect(() => octavo.transfer(fake, device)).toThrow(octavo.OptionError);
    }
    for (const fake of [new Proxy(device, {}), Object.create(Device.prototype)]) {
      expect(() => octavo.transfer(x, fake)).toThrow(octavo.DeviceError);
    }
  });

  test("BitsAndBytesConfig", async () => {
    for (const option of Object.keys(BITS_AND_BYTES)) {
      await all(`{ ${option} }`, (odd) => new octavo.BitsAndBytesConfig({ [option]: odd }).to_dict());
    }
  });

  test("kernels of attention, BetterTransformer and packed texts", async () => {
    const { sdpa_kernel, sdp_kernel, BetterTransformer, DataCollatorWithFlattening, SDPBackend } = octavo;
    await all("sdpa_kernel(.., it)", (odd) => sdpa_kernel(SDPBackend.MATH, odd as never));
    await all("sdpa_kernel([it])", (odd) => sdpa_kernel([odd as never], () => undefined));
    await all("sdpa_kernel(.., it)", (odd) => sdpa_kernel(SDPBackend.MATH, () => undefined, odd as never));
    await all("sdp_kernel({ it })", (odd) => sdp_kernel({ enable_math: odd as never }, () => undefined));
    await all("kernels.run(it)", (odd) => sdpa_kernel(SDPBackend.MATH, (kernels) => kernels.run(odd as never)));
    for (const name of ["transform", "reverse"] as const) {
      await all(`BetterTransformer.${name}(it)`, (odd) => BetterTransformer[name](odd as never));
    }
    const collate = new DataCollatorWithFlattening();
    await all("collate(it)", (odd) => collate(odd as never));
    await all("collate([it])", (odd) => collate([odd as never]));
    for (const field of ["input_ids", "labels"]) {
      await all(`collate([{ ${field} }])`, (odd) => collate([{ input_ids: [1], [field]: odd } as never]));
    }
    for (const option of ["separator_id", "position_ids_start", "return_seq_idx"]) {
      await all(`{ ${option} }`, (odd) => new DataCollatorWithFlattening({ [option]: odd }));
    }
  });

  test("TextStreamer", async () => {
    const tokenizer = await octavo.AutoTokenizer.from_pretrained(STORYTELLER);
    const write = (): void => {};
    for (const option of ["skip_prompt", "skip_special_tokens", "write", "odd"]) {
      await all(`{ ${option} }`, (odd) => new octavo.TextStreamer(tokenizer, { write, [option]: odd } as object));
    }
    await all("put", (odd) => new octavo.TextStreamer(tokenizer, { write }).put(odd as number[]));
  });
});

describe("tensors", () => {
  const made = (): Tensor => Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3]);
  const free = (result: unknown): unknown => {
    if (Tensor.is(result)) result.dispose();
    return result;
  };

  test("made from anything", async () => {
    const { from, empty, panels } = Tensor as unknown as Record<"from" | "empty" | "panels", Method>;
    await all("from(it)", (odd) => free(from(odd, [1], [1])));
    await all("from(device, it)", (odd) => free(from(device, odd, [1])));
    await all("from(device, it, [4])", (odd) => free(from(device, odd, [4], "i32")));
    await all("from(.., shape)", (odd) => free(from(device, [1], odd)));
    await all("from(.., [size])", (odd) => free(from(device, [1], [odd])));
    await all("from(.., dtype)", (odd) => free(from(device, [1], [1], odd)));
    await all("from(.., label)", (odd) => free(from(device, [1], [1], "f32", odd)));
    await all("empty(it)", (odd) => free(empty(odd, [1], "f32")));
    await all("empty(.., [0, size])", (odd) => free(empty(device, [0, odd], "f32")));
    await all("empty(.., dtype)", (odd) => free(empty(device, [1], odd)));
    for (const at of [0, 1, 2, 3, 4]) {
      const usual: unknown[] = [device, 4, 4, "f32", "w"];
      await all(`panels, argument ${at}`, (odd) => free(panels(...usual.with(at, odd))));
    }
    expect(() => Tensor.empty(device, new Array(9).fill(1), "f32")).toThrow(octavo.ShapeError);
  });

  test("a shape that its caller changes later stays as it was", () => {
    const shape = [2, 3];
    using x = Tensor.empty(device, shape, "f32");
    shape[0] = 1e9;
    expect(x.shape).toEqual([2, 3]);
  });

  const names = methodsOf(Tensor.prototype.constructor === Tensor ? Object.create(Tensor.prototype) : {});
  test.each(names)("%s", async (name) => {
    for (const before of [[], [0], [0, 0], [0, 0, 1]]) {
      await all(`${name}(${[...before, "it"]})`, async (odd) => {
        using x = made();
        return free(await method(x, name)(...before, odd));
      });
    }
    for (const gone of [true, false]) {
      const said = await complaint(async () => {
        const x = made();
        if (gone) x.dispose();
        else x.evict();
        try {
          return free(await method(x, name)(0, 0, 1));
        } finally {
          x.dispose();
        }
      });
      expect(said, `${name} of a tensor that is ${gone ? "disposed" : "evicted"}`).toBeUndefined();
    }
  });
});

describe("devices", () => {
  test.each(methodsOf(Object.create(Device.prototype)))("%s", async (name) => {
    for (const before of [[], [1], [1, 0], [1, 0, 4]]) {
      await all(`${name}(${[...before, "it"]})`, async (odd) => {
        const own = openDevice("reference"); // what was asked of it may have broken it
        own.allocate(16, "first");
        return method(own, name)(...before, odd);
      });
    }
    if (name !== "close") expect(await complaint(() => method(device, "synchronize")())).toBeUndefined();
  });

  test("members of what is captured or loaded", async () => {
    using x = Tensor.from(device, [1, 2], [2]);
    await all("load(it)", (odd) => device.load(odd as Tensor, "f", 0));
    for (const [at, usual] of [
      [1, [x, "f", 0, {}]],
      [2, [x, "f", 0, {}]],
      [3, [x, "f", 0, {}]],
    ] as const) {
      await all(`load, argument ${at}`, (odd) => method(device, "load")(...usual.with(at, odd as never)));
    }
    device = openDevice("reference");
  });
});

describe("models", () => {
  interface Kind {
    readonly load: (name: string, options: object) => Promise<object>;
    readonly inputs: Readonly<Record<string, unknown>>;
    readonly calls: Readonly<Record<string, object>>;
  }
  const KINDS: Readonly<Record<string, Kind>> = {
    llama: {
      load: (name, options) => octavo.AutoModelForCausalLM.from_pretrained(name, options),
      inputs: { input_ids: [[5, 6, 7]] },
      calls: { forward: FORWARD, generate: GENERATE, stream: GENERATE, cache_footprint: GENERATE },
    },
    t5: {
      load: (name, options) => octavo.AutoModelForSeq2SeqLM.from_pretrained(name, options),
      inputs: { input_ids: [[5, 6, 7]], decoder_input_ids: [[0]] },
      calls: { forward: SEQ2SEQ_FORWARD, generate: SEQ2SEQ_GENERATE, stream: SEQ2SEQ_GENERATE },
    },
    vit: {
      load: (name, options) => octavo.AutoModelForImageClassification.from_pretrained(name, options),
      inputs: { pixel_values: { data: new Float32Array(3072), shape: [1, 3, 32, 32] } },
      calls: { forward: FEATURE_FORWARD },
    },
    wav2vec2: {
      load: (name, options) => octavo.AutoModelForCTC.from_pretrained(name, options),
      inputs: { input_values: [Array(500).fill(0.5)] },
      calls: { forward: FEATURE_FORWARD },
    },
    whisper: {
      load: (name, options) => octavo.AutoModelForSpeechSeq2Seq.from_pretrained(name, options),
      inputs: { input_features: { data: new Float32Array(960), shape: [1, 20, 48] }, decoder_input_ids: [[3]] },
      calls: { forward: SPEECH_FORWARD, generate: SPEECH_GENERATE, stream: SPEECH_STREAM },
    },
    clip: {
      load: (name, options) => octavo.AutoModel.from_pretrained<octavo.PreTrainedClipModel>(name, options),
      inputs: { input_ids: [[5, 6]], pixel_values: { data: new Float32Array(3072), shape: [1, 3, 32, 32] } },
      calls: { forward: CLIP_FORWARD, get_text_features: CLIP_TEXT, get_image_features: CLIP_IMAGE },
    },
    bert: {
      load: (name, options) => octavo.AutoModelForMaskedLM.from_pretrained(name, options),
      inputs: { input_ids: [[5, 6, 7]] },
      calls: { forward: ENCODER_FORWARD },
    },
  };

  const free = (result: unknown): unknown => {
    const results = Tensor.is(result) ? [result] : result && typeof result === "object" ? Object.values(result) : [];
    const tensors: unknown[] = results.flat();
    for (const tensor of tensors) if (Tensor.is(tensor)) tensor.dispose();
    return result;
  };

  describe.each(Object.entries(KINDS))("%s", (kind, { load, inputs, calls }) => {
    let model: octavo.PreTrainedModel;
    beforeAll(async () => {
      model = (await load(fixture(kind), { device })) as octavo.PreTrainedModel;
    });
    afterAll(async () => {
      model.dispose();
    });

    test.each(Object.entries(calls))("%s", async (name, table) => {
      const call = method(model, name);
      const own = Object.fromEntries(Object.entries(inputs).filter(([input]) => input in table));
      const small = name === "forward" ? {} : { max_new_tokens: 1 };
      await all(`${name}(it)`, async (odd) => free(await call(odd)));
      await all(`${name}(inputs, it)`, async (odd) => free(await call({ ...own, ...small }, odd)));
      await all(`${name}(it, options)`, async (odd) => free(await call(odd, small)));
      expect(await complaint(() => call({ ...own }, {}, {}))).toBeUndefined();
      for (const option of Object.keys(table)) {
        await all(`${name}({ ${option} })`, async (odd) => free(await call({ ...own, ...small, [option]: odd })));
      }
      for (const option of ["input_ids", "attention_mask", "pixel_values", "input_values", "input_features"]) {
        if (!(option in table)) continue;
        await all(`${name}({ ${option}: [it] })`, async (odd) =>
          free(await call({ ...own, ...small, [option]: [odd] })),
        );
        await all(`${name}({ ${option}: [[it]] })`, async (odd) =>
          free(await call({ ...own, ...small, [option]: [[odd]] })),
        );
      }
    });

    test("all other methods", async () => {
      // `_call` is what `model(inputs)` does: forward.
      const others = methodsOf(model).filter((name) => !(name in calls) && !/dispose|^_call$/i.test(name));
      for (const name of others) {
        if (name === "hold") continue; // holds the weights until `release`, whatever it is given
        // A text is the name of a folder to write.
        const below = (odd: unknown) =>
          name === "save_pretrained" && typeof odd === "string" && odd ? join(temporary("odd"), odd) : odd;
        await all(`${name}(it)`, (odd) => method(model, name)(below(odd)));
      }
      expect(model.weight_bytes).toBeGreaterThan(0);
    });
  });

  // Addresses in the network, which nothing here answers.
  const ELSEWHERE = ["hub"];

  test("from_pretrained", async () => {
    const loading = octavo.AutoModelForCausalLM.from_pretrained as Method;
    const done = async (result: unknown): Promise<void> => {
      const model = (await result) as octavo.PreTrainedModel;
      await model[Symbol.asyncDispose]();
    };
    await all("from_pretrained(it)", (odd) => done(loading(odd)));
    await all("from_pretrained(name, it)", (odd) => done(loading(fixture("llama"), odd)));
    for (const option of Object.keys(FROM_PRETRAINED)) {
      if (ELSEWHERE.includes(option)) continue;
      // 0 is a GPU, which not every machine has and which opens slowly.
      const without = /^device/.test(option) ? ["zero"] : [];
      await all(`{ ${option} }`, (odd) => done(loading(fixture("llama"), { [option]: odd })), without);
    }
  });
});

describe("processors", () => {
  const LOADING = {
    AutoImageProcessor: [octavo.AutoImageProcessor, "clip"],
    AutoFeatureExtractor: [octavo.AutoFeatureExtractor, "whisper"],
    AutoProcessor: [octavo.AutoProcessor, "vit"],
  } as const;
  test.each(Object.entries(LOADING))("%s", async (_, [auto, name]) => {
    const loading = auto.from_pretrained as Method;
    const folder = join(FIXTURES, "processors", name);
    await all("from_pretrained(it)", (odd) => loading(odd));
    await all("from_pretrained(name, it)", (odd) => loading(folder, odd));
    const made = (await loading(folder)) as object;
    const [call, given] =
      typeof made === "function"
        ? [made as Method, [new Float32Array(9)]]
        : [method(made, "process"), [{ images: [] }]];
    await all("called with it", (odd) => call(odd), ["the longest list"]);
    await all("called with it in a list", (odd) => call([odd]));
    await all("options", (odd) => call(...given, odd));
  });
});

test("a tokenizer's from_pretrained", async () => {
  const loading = octavo.AutoTokenizer.from_pretrained as Method;
  await all("from_pretrained(it)", (odd) => loading(odd));
  await all("from_pretrained(name, it)", (odd) => loading(STORYTELLER, odd));
  for (const option of Object.keys(TOKENIZER_FROM_PRETRAINED)) {
    if (option === "hub") continue; // addresses in the network, which nothing here answers
    await all(`{ ${option} }`, (odd) => loading(STORYTELLER, { [option]: odd }));
  }
});

test("a config's from_pretrained", async () => {
  const loading = octavo.AutoConfig.from_pretrained as Method;
  await all("from_pretrained(it)", (odd) => loading(odd));
  await all("from_pretrained(name, it)", (odd) => loading(STORYTELLER, odd));
  for (const option of Object.keys(CONFIG_FROM_PRETRAINED)) {
    if (option === "hub") continue; // addresses in the network, which nothing here answers
    await all(`{ ${option} }`, (odd) => loading(STORYTELLER, { [option]: odd }));
  }
});

test("a model without weights", async () => {
  const config = await octavo.AutoConfig.from_pretrained(fixture("llama"));
  const declaring = octavo.AutoModelForCausalLM.from_config as Method;
  await all("from_config(it)", (odd) => declaring(odd));
  await all("from_config(config, it)", (odd) => declaring(config, odd));
  for (const option of Object.keys(FROM_CONFIG)) {
    await all(`{ ${option} }`, (odd) => declaring(config, { [option]: odd }));
  }
  const model = (await declaring(config)) as object;
  for (const name of methodsOf(model)) await all(`${name}(it)`, (odd) => method(model, name)(odd));
  for (const option of Object.keys(INFER_DEVICE_MAP)) {
    await all(`infer_auto_device_map({ ${option} })`, (odd) =>
      octavo.infer_auto_device_map(model, { warn: () => {}, [option]: option === "verbose" ? false : odd }),
    );
  }
  for (const option of Object.keys(BALANCED_MEMORY)) {
    await all(`get_balanced_memory({ ${option} })`, (odd) => octavo.get_balanced_memory(model, { [option]: odd }));
  }
  for (const option of Object.keys(DISPATCH)) {
    // 0 is a GPU, which not every machine has and which opens slowly.
    const without = option === "device_map" ? ["zero"] : [];
    const filled = async (odd: unknown): Promise<void> => {
      const call = octavo.load_checkpoint_and_dispatch as unknown as Method;
      const made = (await call(model, fixture("llama"), { [option]: odd })) as octavo.PreTrainedModel;
      await made[Symbol.asyncDispose]();
    };
    await all(`load_checkpoint_and_dispatch({ ${option} })`, filled, without);
  }
  await all("check_device_map(model, it)", (odd) => octavo.check_device_map(model, odd as never, { warn: () => {} }));
});

test("no export is without its calls here", () => {
  const kinds = Object.entries(octavo).map(([name, value]) => [name, typeof value] as const);
  const others = kinds.filter(([, kind]) => kind !== "function").map(([name]) => name);
  expect(others.sort()).toEqual([
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForAudioClassification",
    "AutoModelForCTC",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForTokenClassification",
    "AutoProcessor",
    "AutoTokenizer",
    "BetterTransformer",
    "CLIPModel",
    "SDPBackend",
    "torch",
  ]);
});
