// The declarations that users compile against: they name no type of WebGPU's (nobody must install @webgpu/types for Octavo)
// and no `any`, each option has its doc comment, and projects compile that check the libraries they use.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { WORKER_LOAD } from "../../src/browser/options.js";
import { GENERATION } from "../../src/generate/config.js";
import { FROM_PRETRAINED, TOKENIZER_FROM_PRETRAINED } from "../../src/generate/loading-options.js";
import { FORWARD, GENERATE } from "../../src/generate/options.js";
import { DEVICE } from "../../src/load/options.js";
import { BITS_AND_BYTES } from "../../src/quant/config.js";
import { SELECTIVE } from "../../src/quant/selective.js";
import { CALL } from "../../src/tokenizer/options.js";
import { READY_TIMEOUT, ROOT, ready, run } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

test("no declaration that the package leads to mentions a type of WebGPU's, or any", () => {
  const seen = new Set<string>();
  const waiting = [join(ROOT, "dist", "index.d.ts")];
  for (let file = waiting.pop(); file; file = waiting.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    const text = readFileSync(file, "utf8");
    for (const [, path = ""] of text.matchAll(/(?:from|import\()\s*"(\.[^"]+)\.js"/g)) {
      const next = join(dirname(file), `${path}.d.ts`);
      if (existsSync(next)) waiting.push(next);
    }
    const code = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
    expect(code.match(/\bGPU(?:[A-Z][a-z]\w*)?\b/g), file).toBeNull();
    expect(code.match(/\bany\b/g), file).toBeNull();
  }
  expect(seen.size).toBeGreaterThan(20);
});

test.each([
  ["generate/config.d.ts", GENERATION, ["OWN"]],
  ["generate/config-ids.d.ts", GENERATION, ["IDS"]],
  ["generate/ending-options.d.ts", GENERATION, ["ENDING"]],
  ["generate/host-options.d.ts", GENERATION, ["PROCESSORS", "BEAMS"]],
  ["generate/cache-options.d.ts", GENERATION, ["CACHE"]],
  ["generate/loading-options.d.ts", FROM_PRETRAINED, ["MODEL"]],
  ["generate/loading-options.d.ts", TOKENIZER_FROM_PRETRAINED, ["TOKENIZER"]],
  ["tokenizer/options.d.ts", TOKENIZER_FROM_PRETRAINED, ["LOAD_TOKENIZER"]],
  ["generate/options.d.ts", GENERATE, ["INPUTS", "RUN"]],
  ["generate/inputs.d.ts", FORWARD, ["PACKED"]],
  ["generate/python.d.ts", FROM_PRETRAINED, ["PYTHON"]],
  ["quant/config.d.ts", BITS_AND_BYTES, ["OWN"]],
  ["quant/_shared.d.ts", BITS_AND_BYTES, ["SHARED"]],
  ["quant/selective.d.ts", SELECTIVE, ["OWN"]],
  ["tokenizer/options.d.ts", CALL, ["CALL"]],
  ["load/options.d.ts", DEVICE, ["DEVICE"]],
  ["load/options.d.ts", FROM_PRETRAINED, ["SOURCE"]],
  ["browser/options.d.ts", WORKER_LOAD, ["WORKER"]],
])("in %s each option has a doc comment and a type that can be read", (file, table, parts) => {
  const text = readFileSync(join(ROOT, "dist", file), "utf8");
  for (const part of parts) {
    const [, body = ""] = new RegExp(`declare const ${part}: \\{\\n([\\s\\S]*?)\\n\\};`).exec(text)!;
    const options = [...body.matchAll(/^ {4}(\w+): (.*)/gm)];
    expect(options.length).toBeGreaterThan(0);
    for (const [line, name, type] of options) {
      expect(Object.keys(table)).toContain(name);
      expect(type, name).toMatch(/^(?:import\("[\w./-]+"\)\.)?Entry</);
      expect(body, name).toContain(`*/\n${line}`);
    }
  }
});

test("the options that users name come from those parts, not from a table whose comments are lost", () => {
  const declared = (file: string) => readFileSync(join(ROOT, "dist", file), "utf8").replace(/\s+/g, " ");
  for (const [file, words] of [
    [
      "generate/config.d.ts",
      "GenerationOptions extends Options<typeof OWN>, Options<typeof IDS>, Options<typeof ENDING>, Options<typeof PROCESSORS>, Options<typeof BEAMS>, Options<typeof MODES>, Options<typeof CACHE>",
    ],
    ["generate/loading-options.d.ts", "FromPretrainedOptions extends Options<typeof MODEL>, Options<typeof SOURCE>"],
    [
      "generate/loading-options.d.ts",
      "TokenizerOptions extends Options<typeof TOKENIZER>, Options<typeof LOAD_TOKENIZER>, Options<typeof SOURCE>",
    ],
    [
      "generate/options.d.ts",
      "GenerateOptions extends ModelInputs, GenerationOptions, Options<typeof STRUCTURED>, Options<typeof RUN>",
    ],
    ["quant/config.d.ts", "BitsAndBytesOptions extends Options<typeof OWN>, Options<typeof SHARED>"],
    ["quant/selective.d.ts", "SelectiveOptions extends Options<typeof OWN>, Options<typeof SHARED>"],
  ] as const) {
    expect(declared(file)).toContain(words);
  }
});

// --- projects of others, with `skipLibCheck: false`

const USE = `
import { AutoModelForCausalLM, AutoTokenizer, OctavoError, requestDevice, type DeviceOptions } from "octavo";
import { WorkerHost } from "octavo/browser";
import { serve } from "octavo/browser/worker";

export async function tell(options: DeviceOptions): Promise<number[][]> {
  const tokenizer = await AutoTokenizer.from_pretrained("x");
  await using device = await requestDevice("wasm", { ...options, wasm: new Uint8Array(8) });
  const model = await AutoModelForCausalLM.from_pretrained("x", { device, load_in_8bit: true });
  for await (const step of model.stream({ ...tokenizer("a"), max_new_tokens: 4 })) void step.token_ids;
  // @ts-expect-error it is max_new_tokens: the types are those of the package, and not any
  return model.generate({ ...tokenizer("a"), max_new_token: 4 });
}
export const rest = [OctavoError, WorkerHost, serve] as const;
`;

/** What each kind of project knows of its host. */
const PROJECTS: Readonly<Record<string, object>> = {
  "a page": { lib: ["es2022", "dom"], types: [], module: "esnext", moduleResolution: "bundler" },
  "Node with its types": { lib: ["es2022"], types: ["node"], module: "nodenext" },
  "neither the DOM's types nor Node's": { lib: ["es2022"], types: [], module: "nodenext" },
};

/** The oldest compiler that is promised, from the registry. */
const OLDEST = "5.6";

function oldest(): { compiler: string } | { missing: string } {
  const folder = temporary("typescript");
  mkdirSync(folder);
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--prefix", folder];
  const { status, stderr } = spawnSync("npm", ["install", ...options, `typescript@${OLDEST}`], {
    encoding: "utf8",
    shell: process.platform === "win32",
    timeout: 60_000,
  });
  if (status === 0) return { compiler: join(folder, "node_modules", "typescript", "bin", "tsc") };
  return { missing: `npm cannot install it: ${/npm error (.*)/.exec(stderr ?? "")?.[1] ?? "no answer in a minute"}` };
}

function compiles(compiler: string, options: object): ReturnType<typeof run> {
  const project = temporary("project");
  mkdirSync(join(project, "node_modules", "@types"), { recursive: true });
  symlinkSync(ROOT, join(project, "node_modules", "octavo"));
  symlinkSync(join(ROOT, "node_modules", "@types", "node"), join(project, "node_modules", "@types", "node"));
  writeFileSync(join(project, "package.json"), `{ "type": "module" }`);
  writeFileSync(join(project, "use.ts"), USE);
  const compilerOptions = { target: "es2022", strict: true, skipLibCheck: false, noEmit: true, ...options };
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["use.ts"] }));
  return run([compiler, "-p", project]);
}

const old = oldest();
const COMPILERS: [string, string][] = [["this TypeScript", join(ROOT, "node_modules", "typescript", "bin", "tsc")]];
if ("missing" in old) test.skip(`TypeScript ${OLDEST}: ${old.missing}`);
else COMPILERS.push([`TypeScript ${OLDEST}`, old.compiler]);

test.each(
  COMPILERS.flatMap(([name, compiler]) =>
    Object.entries(PROJECTS).map((project) => [name, ...project, compiler] as const),
  ),
)("%s finds no error in the declarations: %s", async (_, _project, options, compiler) => {
  const { code, stdout } = await compiles(compiler, options);
  expect(stdout).toBe("");
  expect(code).toBe(0);
});
