// octavo doctor: passes on kernels that are right, and fails on one that is not.

import { beforeAll, describe, expect, it } from "vitest";
import { openReference } from "../../src/backends/reference/index.js";
import { findWasm } from "../../src/backends/wasm/node.js";
import { compareCase, relativeError, selfTest } from "../../src/cli/self-test.js";
import { selfTestCases } from "../../src/cli/self-test-cases.js";
import { Device } from "../../src/core/device.js";
import { openDevice } from "../../src/load/device.js";
import { OPS } from "../../src/ops/index.js";
import { Op } from "../../src/ops/op.js";
import { octavo, READY_TIMEOUT, ready } from "../support/cli.js";
import { whyNoWasm } from "../support/devices.js";

describe("self-test", () => {
  it("has a case for every op", () => {
    const covered = new Set(selfTestCases().map(({ op }) => op));
    expect(OPS.map(({ name }) => name).filter((name) => !covered.has(name))).toEqual([]);
  });

  it("measures errors against the largest magnitude, and never lets NaN pass", () => {
    expect(relativeError([1, 2], [1, 2])).toBe(0);
    expect(relativeError([1, 200], [1, 100])).toBe(1);
    expect(relativeError([0.5], [0.25])).toBe(0.25);
    expect(relativeError([Number.NaN], [1])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError([1], [Number.NaN])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError([Number.POSITIVE_INFINITY], [1])).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError([1], [1, 2])).toBe(Number.POSITIVE_INFINITY);
  });

  it("finds the kernel that computes wrongly, the one that refuses, and the one that is missing", async () => {
    const twist = (name: string): Op => {
      const op = OPS.find((one) => one.name === name)!;
      if (name === "rope") return new Op({ ...op.definition, reference: () => "no" });
      return new Op({
        ...op.definition,
        reference(operands, attributes) {
          const problem = op.definition.reference(operands, attributes);
          operands.y!.data[3] = operands.y!.data[3]! + 1e-3;
          return problem;
        },
      });
    };
    const broken = ["gated", "rope"];
    const ops = OPS.filter(({ name }) => name !== "argmax").map((op) =>
      broken.includes(op.name) ? twist(op.name) : op,
    );
    await using device = new Device(openReference(ops));
    await using reference = openDevice("reference");
    const failed = (await selfTest(device, reference)).filter(({ passed }) => !passed);
    expect(new Set(failed.map(({ op }) => op))).toEqual(new Set(["gated", "rope", "argmax"]));
    expect(failed.find(({ op }) => op === "gated")?.error).toBeGreaterThan(1e-5);
    expect(failed.find(({ op }) => op === "rope")?.problem).toMatch(/no/);
    expect(failed.find(({ op }) => op === "argmax")?.problem).toMatch(/no kernel/);
    expect(device.memory.live + reference.memory.live).toBe(0);
  });

  it("reports an op that does not exist instead of throwing", async () => {
    await using device = openDevice("reference");
    const test = { op: "nothing", what: "", inputs: [], attributes: [], tolerance: 0 };
    expect(await compareCase(device, device, test)).toMatchObject({ passed: false, problem: "there is no such op" });
  });
});

describe("octavo doctor", () => {
  beforeAll(ready, READY_TIMEOUT);

  it("finds this machine well", async () => {
    const { code, stdout, stderr } = await octavo(["doctor", "--verbose"]);
    expect(stdout).toMatch(/all is well\n$/);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/used +\w+, \d+ threads?/);
    for (const { name } of OPS) expect(stdout).toMatch(new RegExp(`^  ${name} .*ok$`, "m"));
  });

  it("says as JSON whether there is a token, never which", async () => {
    const { code, stdout } = await octavo(["doctor", "--json"], { env: { HF_TOKEN: "hf_secret" } });
    expect(code).toBe(0);
    const got = JSON.parse(stdout) as { ok: boolean; hf_token: boolean; self_test: { failed: unknown[] }[] };
    expect(got.ok).toBe(true);
    expect(got.hf_token).toBe(true);
    expect(stdout).not.toContain("hf_secret");
    expect(got.self_test.length).toBeGreaterThan(0);
    for (const { failed } of got.self_test) expect(failed).toEqual([]);
  });

  it("says whether the WASM build is there", async () => {
    const there = findWasm();
    const { stdout } = await octavo(["doctor"]);
    expect(stdout).toMatch(
      there
        ? /^wasm +\S*octavo(-relaxed)?\.wasm \([\d.]+ [kM]B; this node has (no )?relaxed SIMD\)$/m
        : /^wasm +not built/m,
    );
    const without = await octavo(["doctor", "--json"], { env: { OCTAVO_WASM: "/nowhere/octavo.wasm" } });
    expect(without.code).toBe(0);
    expect((JSON.parse(without.stdout) as { wasm: string | null }).wasm).toBeNull();
  });

  const without = { OCTAVO_ADDON: "/nowhere/octavo.node" };

  it.skipIf(whyNoWasm !== undefined)(
    "tests WebAssembly where the add-on is missing, and is content with it",
    async () => {
      const { code, stdout, stderr } = await octavo(["doctor"], { env: without });
      expect(stderr).toBe(""); // the note below says it, once
      expect(stdout.match(/octavo\.node.*cannot be loaded/g)).toHaveLength(1);
      expect(stdout).toMatch(/note: .*octavo\.node.*hint: npm run build:native/s);
      expect(stdout).toMatch(/^ {2}.*(WASM|WebAssembly).* +\d+ cases +largest error .* ok +\(used\)$/m);
      expect(stdout).toMatch(/all is well\n$/);
      expect(code).toBe(0);
      const asked = await octavo(["doctor", "--device", "wasm", "--json"], { env: without });
      const { ok, problems, notes } = JSON.parse(asked.stdout);
      expect({ code: asked.code, ok, problems }).toEqual({ code: 0, ok: true, problems: [] });
      expect(notes).toEqual([expect.stringContaining("octavo.node")]);
    },
  );

  it("fails where what is asked for is missing, or there is nothing to run on, and says what to do", async () => {
    const nothing = { ...without, OCTAVO_WASM: "/nowhere/octavo.wasm" };
    for (const [args, env] of [
      [["--device", "cpu"], without],
      [[], nothing],
    ] as const) {
      const { code, stdout } = await octavo(["doctor", ...args], { env });
      expect(code).toBe(1);
      expect(stdout).toMatch(/problem: .*octavo\.node.*hint: npm run build:native/s);
      expect(stdout).toMatch(/something is wrong/);
    }
  });
});
