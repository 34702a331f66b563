// The library as users of Deno and Bun have it: a project whose dependency is this package as built. Texts must be Node's.

import { cpSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { beforeAll, expect, test } from "vitest";
// @ts-expect-error a script without types
import { selectAdapter } from "../../scripts/webgpu-env.mjs";
import { READY_TIMEOUT, ROOT, ready } from "../support/cli.js";
import { whyNoWasm } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { describeRuntime, NODE, type Runtime } from "../support/runtimes.js";
import { temporary } from "../support/temporary.js";
import type { Looked } from "./shaders.js";

const MAIN = join(ROOT, "dist", "bin", "octavo.js");
const TOKENS = 16;
/** A GPU in software compiles for seconds and computes slowly. */
const GPU_TOKENS = 4;
const FORMS = ["float32", "int8", "nf4"];
/** Mesa's GPU in software. It has 16-bit floats, which SwiftShader has not; in Deno, whose wgpu takes versions that Dawn does not. */
const LLVMPIPE = ["/usr/share/vulkan/icd.d/lvp_icd.x86_64.json", "/usr/share/vulkan/icd.d/lvp_icd.aarch64.json"].find(
  (file) => existsSync(file),
);
const adapter = selectAdapter() as { driver: string } | { missing: string };

interface Story {
  readonly description: string;
  readonly texts: Readonly<Record<string, string>>;
}

let project: string;
let expected: Story["texts"];

beforeAll(async () => {
  await ready();
  project = temporary("project");
  mkdirSync(join(project, "node_modules"), { recursive: true });
  // Deno looks into node_modules where a package.json stands beside it.
  writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, dependencies: { octavo: "*" } }));
  symlinkSync(ROOT, join(project, "node_modules", "octavo"));
  cpSync(join(import.meta.dirname, "story.mjs"), join(project, "story.mjs"));
  ({ texts: expected } = await story(NODE, "cpu", FORMS));
}, READY_TIMEOUT);

async function story(runtime: Runtime, device: string, forms: readonly string[], tokens = TOKENS): Promise<Story> {
  const args = [join(project, "story.mjs"), device, STORYTELLER, String(tokens), ...forms];
  return JSON.parse(await runtime.run(args, { cwd: project, env: { OCTAVO_THREADS: "2" } })) as Story;
}

function suite(runtime: Runtime): void {
  const { name } = runtime;

  test("on the native add-on: Node's texts", async () => {
    const { texts, description } = await story(runtime, "cpu", FORMS);
    expect(texts).toEqual(expected);
    expect(description).toContain("2 threads");
  });

  if (whyNoWasm) test.skip(`on WebAssembly: ${whyNoWasm}`);
  else {
    test("on WebAssembly, with two threads: Node's texts", async () => {
      const { texts, description } = await story(runtime, "wasm", FORMS);
      expect(texts.float32).toBe(expected.float32);
      // Codes of activations are computed the same everywhere, sums of floats in another order: what is quantized may
      // part ways later.
      for (const form of FORMS) expect(texts[form]!.slice(0, 40)).toBe(expected[form]!.slice(0, 40));
      expect(description).toContain("2 threads");
    });
  }

  if ("missing" in adapter) test.skip(`on WebGPU: ${adapter.missing}`);
  else {
    test("on WebGPU: Node's text", async () => {
      const { texts, description } = await story(runtime, "webgpu", ["float32"], GPU_TOKENS);
      expect(texts.float32!.length).toBeGreaterThan("Once upon a time".length);
      expect(expected.float32).toContain(texts.float32);
      console.log(`${name}: ${description}`);
    });
  }

  test("octavo doctor and octavo generate", async () => {
    const found = JSON.parse(await runtime.run([MAIN, "doctor", "--json"]));
    expect(found).toMatchObject({ ok: true, runtime: { name }, problems: [] });
    if ("driver" in adapter) expect(found.webgpu.adapters.length).toBeGreaterThan(0);
    const prompt = [STORYTELLER, "Once upon a time", "--dtype", "float32", "--max-new-tokens", String(TOKENS)];
    const text = await runtime.run([MAIN, "generate", ...prompt, "--greedy"]);
    expect(text.trim()).toBe(expected.float32!.trim());
  });
}

describeRuntime("bun", suite);

describeRuntime("deno", (deno) => {
  suite(deno);

  test("what is not allowed is said, with what allows it", async () => {
    const args = [join(project, "story.mjs"), "cpu", STORYTELLER, "1", "int8"];
    const run = (...allowed: string[]) => deno.run(args, { cwd: project, allowed });
    await expect(run("--allow-env")).rejects.toThrow(/NotFoundError: .*storyteller: not readable .*--allow-read/);
    await expect(run("--allow-read", "--allow-env")).rejects.toThrow(/hint: deno run .*--allow-ffi/);
    expect(JSON.parse(await run("--allow-read", "--allow-env", "--allow-ffi")).texts.int8).toContain(
      "Once upon a time",
    );
  });

  const driver = LLVMPIPE ?? ("driver" in adapter ? process.env.VK_ICD_FILENAMES : undefined);
  if (!driver) test.skip("its compiler takes all shaders: no driver of a GPU in software");
  test.runIf(driver)("its compiler takes all shaders", async () => {
    const script = join(project, "shaders.mjs");
    await build({
      stdin: {
        contents: `import { lookAtShaders } from "./shaders.js"; console.log(JSON.stringify(await lookAtShaders()));`,
        resolveDir: import.meta.dirname,
      },
      outfile: script,
      bundle: true,
      format: "esm",
      target: "es2022",
      logLevel: "warning",
    });
    const found = JSON.parse(await deno.run([script], { env: { VK_ICD_FILENAMES: driver } })) as Looked[];
    for (const { description, shaders, complaints } of found) {
      console.log(`${description}: ${shaders} shaders`);
      expect(complaints).toEqual([]);
      expect(shaders).toBeGreaterThan(300);
    }
    if (LLVMPIPE) expect(found[0]!.description).toContain("f16");
  });
});
