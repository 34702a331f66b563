// Modules of one's own: what they compute and how they train on every device, their states, places and printed trees.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { CheckpointError, FormatError, OctavoError, OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { StateTensor } from "../../src/nn/state.js";
import * as nn from "../../src/nn.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readJson } from "../support/fixtures.js";
import { normals } from "../support/random.js";
import { temporary } from "../support/temporary.js";

const { functional: F } = nn;
/** By torch (fixtures/make_losses.py). */
const LOSSES = readJson<{ name: string; target: number[]; logits: number[]; loss: number | null; grad: number[] }[]>(
  "torch",
  "losses.json",
);

class Net extends nn.Module {
  fc = new nn.Linear(4, 2);
  norm = new nn.LayerNorm(2);

  forward(x: Tensor): Tensor {
    return scope(() => this.norm.forward(this.fc.forward(x)));
  }
}

class Block extends nn.Module {
  up = new nn.Linear(8, 16);
  act = new nn.GELU();
  down = new nn.Linear(16, 8, { bias: false });
  norm = new nn.RMSNorm(8);

  forward(x: Tensor): Tensor {
    return scope(() => F.add(x, this.down.forward(this.act.forward(this.up.forward(this.norm.forward(x))))));
  }
}

class Classifier extends nn.Module {
  table = new nn.Embedding(10, 8);
  blocks = new nn.ModuleList([new Block(), new Block()]);
  head = new nn.Linear(8, 3);

  forward(ids: Tensor): Tensor {
    return scope(() => {
      let x = this.table.forward(ids);
      for (const block of this.blocks) x = (block as Block).forward(x);
      return this.head.forward(x);
    });
  }
}

describe.each(ALL_DEVICES)("%s", (name) => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice(name);
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test("a network of one's own learns", async () => {
    nn.manual_seed(3);
    using net = new Classifier().to(device);
    net.requires_grad_();
    using ids = Tensor.from(
      device,
      Int32Array.from({ length: 10 }, (_, i) => i),
      [10],
    );
    using classes = Tensor.from(
      device,
      Int32Array.from({ length: 10 }, (_, i) => i % 3),
      [10],
    );
    const losses: number[] = [];
    for (let step = 0; step < 12; step++) {
      using loss = scope(() => F.cross_entropy(net.forward(ids), classes));
      loss.backward();
      losses.push((await loss.readFloats())[0]!);
      for (const { data } of net.parameters()) {
        const [values, grad] = [await data.readFloats(), await data.grad!.readFloats()];
        data.write(values.map((value, i) => value - 0.4 * grad[i]!));
      }
      net.zero_grad();
    }
    expect(losses[0]).toBeGreaterThan(1);
    expect(losses.at(-1)).toBeLessThan(0.25 * losses[0]!);
    using logits = nn.no_grad(() => net.forward(ids));
    const rows = await logits.readFloats();
    const best = Array.from({ length: 10 }, (_, r) =>
      [0, 1, 2].reduce((b, c) => (rows[3 * r + c]! > rows[3 * r + b]! ? c : b)),
    );
    expect(best).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
  });

  test("cross_entropy is torch's mean over rows that count, and its gradient", async () => {
    for (const { name: rows, target, logits, loss: wanted, grad } of LOSSES) {
      using x = Tensor.from(device, Float32Array.from(logits), [target.length, 5]).requires_grad_();
      using classes = Tensor.from(device, Int32Array.from(target), [target.length]);
      using loss = F.cross_entropy(x, classes);
      loss.backward();
      const [value = 0] = await loss.readFloats();
      // Rows are weighted by exp(-log n), of which WGSL promises some 10 units in the last place for these n.
      // It promises no NaN either.
      if (wanted === null) expect(name.startsWith("webgpu") ? value || Number.NaN : value, rows).toBeNaN();
      else expect(Math.abs(value - wanted), rows).toBeLessThan(2e-6 * Math.max(1, wanted));
      expect(difference(await x.grad!.readFloats(), grad).max, rows).toBeLessThan(1e-6);
    }
  });

  test("inputs of any rank, layout and float dtype", async () => {
    nn.manual_seed(1);
    using layer = new nn.Sequential(new nn.Linear(6, 4), new nn.LayerNorm(4), new nn.SiLU()).to(device);
    const values = normals(5, 24);
    using x = Tensor.from(device, values, [4, 6]);
    using y = layer.forward(x);
    const wanted = await y.readFloats();
    for (const shape of [
      [2, 2, 6],
      [1, 2, 1, 2, 6],
    ]) {
      using own = Tensor.from(device, values, shape);
      using out = layer.forward(own);
      expect(out.shape).toEqual([...shape.slice(0, -1), 4]);
      expect([...(await out.readFloats())]).toEqual([...wanted]);
    }
    using row = Tensor.from(device, values.slice(0, 6), [6]);
    using first = layer.forward(row);
    expect(first.shape).toEqual([4]);
    using turned = Tensor.from(
      device,
      Float32Array.from({ length: 24 }, (_, i) => values[(i % 4) * 6 + (i >> 2)]!),
      [6, 4],
    );
    using view = turned.permute(1, 0);
    using same = layer.forward(view);
    expect([...(await same.readFloats())]).toEqual([...wanted]);
    for (const dtype of ["f16", "bf16"] as const) {
      using half = Tensor.from(device, values, [4, 6], dtype);
      using out = layer.forward(half);
      expect(out.dtype).toBe(dtype);
      const got = await out.readFloats();
      // Eight bits of a value of up to two, through a norm.
      for (const [i, value] of got.entries())
        expect(Math.abs(value - wanted[i]!)).toBeLessThan(dtype === "f16" ? 0.01 : 0.08);
    }
  });
});

describe("on the reference device", () => {
  let device: Device;
  let other: Device;
  beforeAll(() => {
    device = openDevice("reference");
    other = openDevice("cpu");
  });
  afterAll(async () => {
    for (const one of [device, other]) {
      expectNoLeaks(one);
      await one.close();
    }
  });

  const values = async (module: nn.Module): Promise<Record<string, number[]>> =>
    Object.fromEntries(
      await Promise.all(
        [...(await module.state_dict())].map(async ([name, tensor]) => [name, [...(await tensor.read())]]),
      ),
    );

  test("declaring takes no memory, and the seed decides the first values", async () => {
    const live = device.memory.live;
    nn.manual_seed(7);
    const [a, b] = [new Classifier(), new Classifier()];
    nn.manual_seed(7);
    const again = new Classifier();
    expect(device.memory.live).toBe(live);
    expect(await values(again)).toEqual(await values(a));
    expect(await values(again)).not.toEqual(await values(b));
    const before = await values(again);
    again.to(device);
    expect(await values(again)).toEqual(before); // drawn once
    const weights = before["blocks.0.up.weight"]!;
    const bound = 1 / Math.sqrt(8);
    expect(Math.max(...weights.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(Math.max(...weights.map(Math.abs))).toBeGreaterThan(0.9 * bound);
    expect(before["blocks.0.norm.weight"]).toEqual(Array(8).fill(1));
    again.dispose();
  });

  test("to moves values between devices and dtypes", async () => {
    using net = new Classifier();
    const before = await values(net);
    net.to(device).requires_grad_();
    expect(net.device).toBe(device);
    net.to(other);
    expect(net.device).toBe(other);
    expect(device.memory.live).toBe(0);
    expect([...net.parameters()].every(({ requires_grad }) => requires_grad)).toBe(true);
    expect(await values(net)).toEqual(before);
    net.to(device, "float16");
    expect((await net.state_dict()).get("head.weight")!.dtype).toBe("F16");
    using ids = Tensor.from(device, Int32Array.of(1, 2), [2]);
    using rows = net.table.forward(ids);
    expect(rows.dtype).toBe("f16");
    for (const odd of ["cpu", 3, {}, undefined, "float64"]) expect(() => net.to(odd as never)).toThrow(OptionError);
    expect(() => new nn.Parameter(3).to(device)).toThrow(OctavoError);
  });

  test("states go to files and back", async () => {
    using net = new Classifier().to("bfloat16").to(device);
    const file = `${temporary("states")}.safetensors`;
    await nn.save(await net.state_dict(), file);
    const state = await nn.load(file);
    expect([...state.keys()].sort()).toEqual([...(await net.state_dict()).keys()].sort());
    using there = new Classifier().to(device);
    await there.load_state_dict(state);
    expect(await values(there)).toEqual(await values(net));
    expect((await there.state_dict()).get("head.bias")!.dtype).toBe("F32"); // its own
    using waiting = new Classifier();
    await waiting.load_state_dict(state, { assign: true });
    expect(await values(waiting)).toEqual(await values(net));
    waiting.to(device);
    expect(await values(waiting)).toEqual(await values(net));
    expect((await waiting.state_dict()).get("head.bias")!.dtype).toBe("BF16");
    there.head.weight.requires_grad_();
    await there.load_state_dict(state, { assign: true });
    expect(there.head.weight.requires_grad).toBe(true);
    expect(there.table.weight.requires_grad).toBe(false);
    await expect(nn.save(state, "model.pt")).rejects.toThrow(/pickle/);
    await expect(nn.load(join(temporary("states"), "model.safetensors"))).rejects.toThrow(OctavoError);
    await expect(nn.load(7 as never)).rejects.toThrow(OptionError);
    await expect(nn.save(state, join(file, "below.safetensors"))).rejects.toThrow(OctavoError);
    await expect(nn.save({ a: 1 } as never, file)).rejects.toThrow(OptionError);
  });

  test("files of torch.save are read", async () => {
    const folder = join(FIXTURES, "torch");
    const wanted = await nn.load(join(folder, "expected.safetensors"));
    const got = await nn.load(join(folder, "zip.bin"));
    const both = [...wanted.keys()].filter((name) => got.has(name));
    expect(both.length).toBeGreaterThan(10);
    for (const name of both) {
      expect(Buffer.from(await got.get(name)!.bytes()).equals(await wanted.get(name)!.bytes()), name).toBe(true);
    }
    expect(await nn.text(got.get("int.int64")!)).toMatch(/^tensor\(\[\[ *-?\d+, .*dtype=torch.int64\)$/s);
    await expect(nn.load(join(folder, "module.bin"))).rejects.toThrow(FormatError);
  });

  const torch = readJson<{ states: Record<string, string>; tree: string }>("text", "torch.json");
  const zeros = (...shape: number[]): StateTensor =>
    new StateTensor({
      dtype: "F32",
      shape,
      bytes: async () => new Uint8Array(4 * shape.reduce((n, size) => n * size, 1)),
    });
  const whole = { "fc.weight": zeros(2, 4), "fc.bias": zeros(2), "norm.weight": zeros(2), "norm.bias": zeros(2) };
  const { "fc.weight": _, "fc.bias": __, ...rest } = whole;

  test.each([
    ["missing", rest, true],
    ["unexpected", { ...whole, other: zeros(1), "fc.scale": zeros(1) }, true],
    ["mismatch", { ...whole, "fc.weight": zeros(3, 4) }, false],
    ["all", { "fc.weight": zeros(3, 4), "fc.bias": zeros(2), x: zeros(1) }, true],
  ])("a state that does not fit is refused in torch's words: %s", async (name, state, strict) => {
    using net = new Net().to(device);
    const before = await values(net);
    const error = await net.load_state_dict(state, { strict }).then(
      () => undefined,
      (refused: unknown) => refused,
    );
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as Error).message.trim()).toBe(torch.states[name]!.replaceAll("\t", "    ").trim());
    expect(await values(net)).toEqual(before);
  });

  test("what is missing may be, and codes are no floats", async () => {
    using net = new Net().to(device);
    const keys = await net.load_state_dict({ ...rest, more: zeros(1) }, { strict: false });
    expect(keys).toEqual({ missing_keys: ["fc.weight", "fc.bias"], unexpected_keys: ["more"] });
    expect((await values(net))["norm.weight"]).toEqual([0, 0]);
    const codes = new StateTensor({ dtype: "I8", shape: [2, 4], bytes: async () => new Uint8Array(8) });
    await expect(net.load_state_dict({ ...whole, "fc.weight": codes })).rejects.toThrow(/holds I8/);
    const broken = new StateTensor({ dtype: "F64", shape: [2, 4], bytes: async () => new Uint8Array(7) });
    await expect(net.load_state_dict({ ...whole, "fc.weight": broken })).rejects.toThrow(FormatError);
    for (const odd of [undefined, null, "x", { a: 1 }, new Map([[1, zeros(1)]])]) {
      await expect(net.load_state_dict(odd as never)).rejects.toThrow(OctavoError);
    }
  });

  test("the tree prints as torch prints it, with how weights are stored", () => {
    class Tree extends nn.Module {
      body = new nn.Sequential(new nn.Linear(4, 8), new nn.ReLU());
      all = new nn.ModuleList([new nn.Tanh(), new nn.Tanh(), new nn.Sigmoid()]);
      drop = new nn.Dropout(0.1);
    }
    expect(String(new Tree())).toBe(
      torch.tree.replace("bias=True", "bias=true, weight=floats to be").replace(", inplace=False", ""),
    );
  });

  test("dropout only while training, with masks of the seed", async () => {
    const drop = new nn.Dropout(0.25);
    using x = Tensor.from(device, new Float32Array(2000).fill(3), [2000]);
    nn.manual_seed(1);
    using a = drop.forward(x);
    nn.manual_seed(1);
    using b = drop.forward(x);
    const kept = [...(await a.readFloats())];
    expect([...(await b.readFloats())]).toEqual(kept);
    expect(new Set(kept)).toEqual(new Set([0, 4]));
    const share = kept.filter((value) => value === 0).length / 2000;
    expect(Math.abs(share - 0.25)).toBeLessThan(0.04); // four deviations
    using c = new nn.Sequential(drop).eval().forward(x);
    expect([...(await c.readFloats())]).toEqual(Array(2000).fill(3));
    expect(drop.training).toBe(false);
  });

  test("modules are found by path, and put in the place of others", () => {
    const net = new Classifier();
    expect(net.get_submodule("blocks.1.up")).toBe((net.blocks.at(1) as Block).up);
    expect(() => net.get_submodule("blocks.2")).toThrow(OctavoError);
    const up = new nn.Linear(8, 16);
    net.get_submodule("blocks.1").replace("up", up);
    expect(net.get_submodule("blocks.1.up")).toBe(up);
    expect([...net.named_modules()].map(([name]) => name)).toContain("blocks.0.norm");
  });

  test("odd sizes, options and inputs are refused", () => {
    for (const odd of [0, -1, 1.5, "4", undefined, Number.NaN]) {
      expect(() => new nn.Linear(odd as number, 2)).toThrow(OptionError);
      expect(() => new nn.Embedding(2, odd as number)).toThrow(OptionError);
      expect(() => new nn.LayerNorm(odd as number)).toThrow(OptionError);
      if (odd !== 0 && odd !== undefined) expect(() => new nn.Dropout(odd as number)).toThrow(OptionError);
      expect(() => nn.manual_seed(odd === 0 ? -3 : (odd as number))).toThrow(OptionError);
    }
    expect(() => new nn.Linear(2, 2, { biass: true } as never)).toThrow(/did you mean/);
    expect(() => new nn.Linear(2, 2, { dtype: "int8" } as never)).toThrow(OptionError);
    expect(() => new nn.Sequential({} as never)).toThrow(OptionError);
    expect(() => new nn.ModuleList([1] as never)).toThrow(OptionError);
    using net = new Net().to(device);
    for (const odd of [undefined, null, 1, [1, 2], "x"]) {
      expect(() => net.fc.forward(odd as never)).toThrow(OctavoError);
      expect(() => net.norm.forward(odd as never)).toThrow(OctavoError);
      expect(() => F.add(odd as never, odd as never)).toThrow(OctavoError);
    }
    using x = Tensor.from(device, [1, 2, 3], [3]);
    expect(() => net.fc.forward(x)).toThrow(ShapeError);
    expect(() => net.norm.forward(x)).toThrow(ShapeError);
  });
});
