import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Suites that run on every device, WebGPU in software included. */
const ON_ALL_DEVICES = [
  "adapters",
  "bnb",
  "conformance",
  "core",
  "eval",
  "generate",
  "laws",
  "load",
  "models",
  "nn",
  "ops",
  "quant",
  "train",
  "webgpu",
];
/** They leave their process as they found it, so that others may follow them there, where modules are loaded already. */
const PLAIN = ["checkpoints", "cli", "docs", "fuzz", "hub", "media", "pipelines", "tokenizer", "wasm"];
/** They measure their process, lose and break devices, close what other suites of their folder use, or watch what is opened. */
const ALONE = [
  ...["config", "generation-config", "index", "pickle", "quantized", "safetensors"].map(
    (name) => `test/fuzz/${name}.test.ts`,
  ),
  "test/checkpoints/checkpoint.test.ts",
  ...["responsive", "scratch"].map((name) => `test/laws/${name}.test.ts`),
  "test/tokenizer/piece-cache.test.ts",
  ...["choice", "derived", "device", "loss", "memory", "shaders", "variants"].map(
    (name) => `test/webgpu/${name}.test.ts`,
  ),
];
const folders = [...ON_ALL_DEVICES, ...PLAIN].join("|");

/** Of the suites that share processes the long ones come first: at the end one of them would run alone for a minute. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ project, moduleId }: TestSpecification): number =>
      project.name === "devices" ? (/[\\/](conformance|cli)[\\/]/.test(moduleId) ? 1 : 2) : 0;
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    // One more than the cores that are usual: many files wait for processes, browsers and servers.
    maxWorkers: 3,
    reporters: ["default", "./test/support/reporter.ts"],
    projects: [
      {
        // In processes that are kept: the pipelines of a software adapter are built once (test/support/shared-gpu.ts).
        extends: true,
        test: {
          name: "devices",
          include: [`test/(${folders})/**/*.test.ts`],
          exclude: ALONE,
          isolate: false,
          setupFiles: ["./test/support/shared-device.ts"],
        },
      },
      {
        extends: true,
        test: { name: "apart", include: [`test/!(${folders})/**/*.test.ts`, ...ALONE] },
      },
    ],
    pool: "forks",
    // No test asks the real hub; those of src/hub/ have one of their own.
    env: { HF_HUB_OFFLINE: "1" },
    globalSetup: ["./test/support/run-folder.ts"],
    testTimeout: 60_000,
    // Browsers and software adapters start slowly on a machine that is busy.
    hookTimeout: 120_000,
    setupFiles: ["./test/support/awaited.ts", "./test/support/gpu-errors.ts", "./test/support/temporary.ts"],
  },
});
