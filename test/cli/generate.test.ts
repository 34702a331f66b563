// octavo generate on the built command line and the storyteller: what comes out, where, and with which exit code.

import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { exitCodeOf } from "../../src/cli/failures.js";
import { OutOfMemoryError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { octavo, octavoHere, READY_TIMEOUT, ROOT, ready, STORYTELLER } from "../support/cli.js";

interface Report {
  model: string;
  prompt: string;
  text: string;
  token_ids: number[];
  prompt_tokens: number;
  finish_reason: string;
  results?: { prompt: string; text: string; token_ids: number[] }[];
  seed: number;
  sampling: Record<string, number | boolean>;
  bnb_4bit_compute_dtype: string | null;
  dtype: string;
  quantization: string | null;
  kv_cache: string;
  device: { name: string; isa: string | null; threads: number };
  timings: { load_s: number; first_token_s: number; tokens_per_second: number; new_tokens: number };
  memory: { weight_bytes: number; checkpoint_bytes: number; kv_cache_bytes: number; device_peak_bytes: number };
  guessed_tokens: number | null;
  outlier_columns: number | null;
}

const generate = (...args: string[]) => octavo(["generate", STORYTELLER, ...args]);
const json = async (...args: string[]): Promise<Report> => {
  const { code, stdout, stderr } = await generate(...args, "--json");
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return JSON.parse(stdout) as Report;
};

let folder = "";
beforeAll(async () => {
  await ready();
  folder = await mkdtemp(join(tmpdir(), "octavo-cli-"));
}, READY_TIMEOUT);
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("text", () => {
  it("streams prompt and continuation to stdout and the footer to stderr", async () => {
    const { code, stdout, stderr } = await generate(
      "Once upon a time",
      "--load-in-8bit",
      "--seed",
      "3",
      "--max-new-tokens",
      "24",
    );
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Once upon a time\S* \w+/);
    expect(stdout.endsWith("\n")).toBe(true);
    expect(stderr).toMatch(/device +cpu · \w+ · \d+ threads?/);
    expect(stderr).toMatch(/weights +6\.60 MB in int8 \(11\.0 MB as published\) · loaded in/);
    expect(stderr).toMatch(/first token after .* · [\d.]+ tokens\/s · 24 tokens after a prompt of 4/);
    expect(stderr).toMatch(/cache +[\d.]+ kB in bfloat16 · [\d.]+ MB on the device at most/);
    expect(stderr).toMatch(/outliers +\d+ of 13,440 columns, multiplied in floats/);
    expect(stderr).toMatch(/sampling +temperature 0\.8, top-k 40, top-p 0\.95 · seed 3\n/);
    expect(stderr).not.toContain("\x1b"); // no terminal
  });

  it("keeps keys and values in what it is told, and says what they weigh", async () => {
    const bytes: number[] = [];
    for (const [type, name] of [
      ["f32", "float32"],
      ["bf16", "bfloat16"],
      ["int8", "int8"],
    ]) {
      const said = await json("Once upon a time", "--greedy", "--max-new-tokens", "8", "--kv-cache", type!);
      expect(said).toMatchObject({ kv_cache: name, memory: { kv_cache_bytes: expect.any(Number) } });
      expect(said.token_ids).toHaveLength(8);
      bytes.push(said.memory.kv_cache_bytes);
    }
    const [f32 = 0, bf16 = 0, int8 = 0] = bytes;
    expect(bf16).toBe(f32 / 2);
    expect(int8).toBeGreaterThan(bf16 / 2); // scales
    expect(int8).toBeLessThan(0.6 * bf16);
    const { code, stderr } = await generate("Once", "--kv-cache", "int4");
    expect(code).toBe(2);
    expect(stderr).toMatch(/Allowed choices are f32, bf16, int8/);
  });

  it("gives the same text for the same seed, another for another", async () => {
    const args = ["The old king", "--load-in-8bit", "--max-new-tokens", "30", "-q"];
    const [first, again, other] = await Promise.all(["5", "5", "6"].map((seed) => generate(...args, "--seed", seed)));
    expect(first?.stdout.length).toBeGreaterThan(30);
    expect(again).toEqual(first);
    expect(other?.stdout).not.toBe(first?.stdout);
    expect(first?.stderr).toBe("");
  });

  it("can be had again by the seed that the footer names, whoever drew it", async () => {
    const args = ["The old king", "--max-new-tokens", "30"];
    const drawn = await generate(...args);
    const seed = /sampling .* · seed (\d+)\n/.exec(drawn.stderr)![1]!;
    expect((await generate(...args, "--seed", seed)).stdout).toBe(drawn.stdout);
    const told = await json(...args);
    expect((await json(...args, "--seed", String(told.seed))).token_ids).toEqual(told.token_ids);
    expect(told.sampling).toEqual({
      do_sample: true,
      temperature: 0.8,
      top_k: 40,
      top_p: 0.95,
      min_p: 0,
      repetition_penalty: 1,
      presence_penalty: 0,
      frequency_penalty: 0,
    });
  });

  it("names the settings in force: flags before the model's own, and greedy where nothing is drawn", async () => {
    const few = ["Once", "--max-new-tokens", "2"];
    const flags = ["--temperature", "1.5", "--top-k", "0", "--min-p", "0.1", "--seed", "2"];
    const [drawn, greedy, penalized] = await Promise.all([
      generate(...few, ...flags),
      generate(...few, "--greedy"),
      generate(...few, "--temperature", "0", "--repetition-penalty", "1.2"),
    ]);
    expect(drawn.stderr).toMatch(/sampling +temperature 1\.5, top-p 0\.95, min-p 0\.1 · seed 2\n/);
    expect(greedy.stderr).toMatch(/sampling +greedy\n/);
    expect(penalized.stderr).toMatch(/sampling +greedy, repetition penalty 1\.2\n/);
    expect(await json(...few, "--greedy")).toMatchObject({ sampling: { do_sample: false }, seed: expect.any(Number) });
  });

  it("continues a text without a model with the demo model, and says so once", async () => {
    const args = ["--greedy", "--max-new-tokens", "6"];
    const named = await generate("Once upon a time", ...args, "-q");
    for (const given of [
      ["Once upon a time"],
      ["generate", "Once upon a time"],
      ["generate", "-p", "Once upon a time"],
    ]) {
      const { code, stdout, stderr } = await octavo([...given, ...args], { cwd: folder });
      expect({ code, stdout }).toEqual({ code: 0, stdout: named.stdout });
      expect(stderr.match(/octavo\/storyteller/g)).toHaveLength(1);
      expect(await octavo([...given, ...args, "-q"], { cwd: folder })).toEqual(named);
    }
  });

  it("reads the prompt from standard input", async () => {
    const args = ["--greedy", "--max-new-tokens", "8", "-q"];
    const given = await generate("The wolf", ...args);
    for (const more of [[], ["-"]]) {
      const piped = await octavo(["generate", STORYTELLER, ...more, ...args], { input: "The wolf\n" });
      expect(piped).toEqual(given);
    }
  });

  it("starts from nothing with the model's first token, and from the storyteller where no model is named", async () => {
    const { code, stdout } = await octavo(["generate", "--seed", "1", "--max-new-tokens", "8", "-q"], { cwd: folder });
    expect(code).toBe(0);
    expect(stdout.trim().length).toBeGreaterThan(0);
  });

  it("leaves out the prompt with --no-echo and reads escapes with --escape", async () => {
    const args = ["--greedy", "--max-new-tokens", "8", "-q", "--escape", "<|endoftext|>The Fox\\n\\n"];
    const [whole, rest] = await Promise.all([generate(...args), generate(...args, "--no-echo")]);
    expect(whole.stdout).toBe(`The Fox\n\n${rest.stdout}`);
  });

  it("writes a message by the model's chat template with --chat", async () => {
    const args = ["--greedy", "--max-new-tokens", "8", "-q"];
    const without = await generate("The Fox", "--chat", ...args);
    expect([without.code, without.stderr]).toEqual([2, expect.stringContaining("tokenizer.chat_template is not set")]);
    const model = join(folder, "with-template");
    await cp(join(ROOT, "models", "storyteller"), model, { recursive: true });
    await writeFile(join(model, "chat_template.jinja"), "{{ eos_token }}{{ messages[0].content }}\n\n\n");
    const said = await octavo(["generate", model, "The Fox", "--chat", ...args]);
    const plain = await generate("<|endoftext|>The Fox\\n\\n", "--escape", "--no-echo", ...args);
    expect(said.stdout).toBe(plain.stdout);
  });

  it("continues a file of prompts as it continues each alone", async () => {
    const file = join(folder, "prompts.txt");
    const prompts = ["Once upon a time", "The cat", "In the forest there was"];
    await writeFile(file, `${prompts.join("\n")}\n\n`);
    const args = ["--greedy", "--dtype", "float32", "--max-new-tokens", "10"];
    const batch = await json("--batch-file", file, ...args);
    const singles = await Promise.all(prompts.map((prompt) => json(prompt, ...args)));
    expect(batch.results?.map(({ prompt }) => prompt)).toEqual(prompts);
    expect(batch.results?.map(({ token_ids }) => token_ids)).toEqual(singles.map(({ token_ids }) => token_ids));
    const text = await generate("--batch-file", file, ...args);
    for (const { prompt, text: written } of singles)
      expect(text.stdout).toContain(`==> ${prompt} <==\n${prompt}${written}\n`);
  });
});

describe("--json", () => {
  it("tells what was generated and what it cost", async () => {
    const got = await json("The princess", "--load-in-4bit", "--double-quant", "--seed", "9", "--max-new-tokens", "12");
    expect(got).toMatchObject({
      model: STORYTELLER,
      prompt: "The princess",
      prompt_tokens: 2,
      finish_reason: "length",
      seed: 9,
      dtype: "bfloat16",
      quantization: "nf4",
      bnb_4bit_compute_dtype: "int8",
      outlier_columns: null,
      int8_columns: null,
    });
    expect(got.token_ids).toHaveLength(12);
    expect(got.timings.new_tokens).toBe(12);
    expect(got.timings.first_token_s).toBeGreaterThan(0);
    expect(got.timings.tokens_per_second).toBeGreaterThan(0);
    expect(got.memory.checkpoint_bytes).toBe(10_951_168);
    expect(got.memory.weight_bytes).toBeLessThan(got.memory.checkpoint_bytes / 2);
    expect(got.memory.device_peak_bytes).toBeGreaterThanOrEqual(got.memory.weight_bytes);
    expect(got.device.name).toBe("cpu");
  });

  it("guesses from the prompt without changing the text, and counts what that saved", async () => {
    const prompt = "Run, run, run, run, run, run, run, run, run, run, run,";
    const plain = await json(prompt, "--greedy", "--max-new-tokens", "40");
    const looked = await json(prompt, "--greedy", "--prompt-lookup", "4", "--max-new-tokens", "40");
    expect(looked.token_ids).toEqual(plain.token_ids);
    expect(plain.guessed_tokens).toBeNull();
    expect(looked.guessed_tokens).toBeGreaterThan(0);
    const drawn = ["--top-k", "40", "--seed", "3", "--max-new-tokens", "40"];
    const { stderr, stdout } = await generate(prompt, "--prompt-lookup", "4", ...drawn);
    expect(stdout).toBe((await generate(prompt, ...drawn)).stdout);
    expect(stderr).toMatch(/lookup {4}\d+ of the \d+ tokens guessed/);
  });

  it("multiplies 4 bits in integers unless told otherwise, as the library does when asked", async () => {
    const args = ["The giant said", "--load-in-4bit", "--greedy", "--max-new-tokens", "16"];
    const path = join(ROOT, STORYTELLER);
    const tokenizer = await AutoTokenizer.from_pretrained(path);
    for (const [flags, compute] of [
      [[], "int8"],
      [["--compute-dtype", "float32"], "float32"],
      [["--compute-dtype", "bfloat16"], "bfloat16"],
    ] as const) {
      const got = await json(...args, ...flags);
      expect(got.bnb_4bit_compute_dtype).toBe(compute);
      await using model = await AutoModelForCausalLM.from_pretrained(path, {
        load_in_4bit: true,
        bnb_4bit_quant_type: "nf4",
        bnb_4bit_compute_dtype: compute,
      });
      const [row] = await model.generate({ ...tokenizer(["The giant said"]), max_new_tokens: 16, do_sample: false });
      expect(got.token_ids).toEqual(row?.slice(got.prompt_tokens));
    }
    // float32 weights and the exact backend ask for exact products.
    expect((await json(...args, "--dtype", "float32")).bnb_4bit_compute_dtype).toBe("float32");
    const few = ["--device", "reference", "--max-new-tokens", "1"];
    expect((await json(...args, ...few)).bnb_4bit_compute_dtype).toBe("float32");
    expect((await json("Once", "--max-new-tokens", "1")).bnb_4bit_compute_dtype).toBeNull();
    const { stderr } = await generate(...args, "--compute-dtype", "float32");
    expect(stderr).toMatch(/weights +4\.59 MB in nf4, exact products \(/);
  });

  it("agrees with the library", async () => {
    const prompt = "The giant said";
    const got = await json(prompt, "--load-in-8bit", "--greedy", "--max-new-tokens", "16", "--threads", "1");
    const path = join(ROOT, STORYTELLER);
    const tokenizer = await AutoTokenizer.from_pretrained(path);
    await using model = await AutoModelForCausalLM.from_pretrained(path, { load_in_8bit: true, threads: 1 });
    const [row] = await model.generate({ ...tokenizer([prompt]), max_new_tokens: 16, do_sample: false });
    expect(got.token_ids).toEqual(row?.slice(got.prompt_tokens));
    expect(prompt + got.text).toBe(tokenizer.decode(row ?? [], { skip_special_tokens: true }));
    expect(got.outlier_columns).toBe(await model.outlier_columns());
    expect(got.memory.weight_bytes).toBe(model.weight_bytes);
    expect(got.device.threads).toBe(1);
  });
});

it("uses no more threads than make sense, and says so", async () => {
  const most = 4 * availableParallelism();
  const { code, stdout, stderr } = await generate("Once", "--max-new-tokens", "2", "--threads", "100000", "--json");
  expect(code).toBe(0);
  expect(stderr).toMatch(new RegExp(`^warning: --threads 100000 is far above the .* here; using ${most}\\n$`));
  expect((JSON.parse(stdout) as Report).device.threads).toBeLessThanOrEqual(most);
});

describe("refusals", () => {
  const cases: [what: string, args: string[], code: number, message: RegExp][] = [
    ["an unknown command", ["generat"], 2, /error: unknown command 'generat'\n\(Did you mean generate\?\)/],
    ["an unknown flag", ["generate", STORYTELLER, "x", "--load-in-8bits"], 2, /Did you mean --load-in-8bit\?/],
    ["too many arguments", ["generate", STORYTELLER, "x", "y"], 2, /too many arguments/],
    ["a word for a number", ["generate", STORYTELLER, "x", "--top-k", "many"], 2, /'--top-k <k>'.*whole number/],
    [
      "an option's value",
      ["generate", STORYTELLER, "x", "--temperature", "-1"],
      2,
      /error: temperature must be 0 \(the likeliest token\) or a number from 1e-30 to 3e38/,
    ],
    [
      "an unknown dtype",
      ["generate", STORYTELLER, "x", "--dtype", "int8"],
      2,
      /error: dtype must be.*hint: .*load_in_8bit/s,
    ],
    [
      "an unknown device",
      ["generate", STORYTELLER, "x", "--device", "npu"],
      2,
      /unknown device "npu".*known devices: auto, cpu/,
    ],
    ["8 and 4 bits", ["generate", STORYTELLER, "x", "--load-in-8bit", "--load-in-4bit"], 2, /cannot be used with/],
    [
      "a code without 4 bits",
      ["generate", STORYTELLER, "x", "--quant-type", "fp4"],
      2,
      /--quant-type needs --load-in-4bit/,
    ],
    ["greedy sampling", ["generate", STORYTELLER, "x", "--greedy", "--top-p", "0.5"], 2, /cannot be used with/],
    [
      "a temperature where nothing is drawn",
      ["generate", STORYTELLER, "x", "--greedy", "--temperature", "0.5"],
      2,
      /--temperature 0.5 samples, and cannot be used with --greedy/,
    ],
    ["two prompts", ["generate", STORYTELLER, "x", "--prompt", "y"], 2, /given twice/],
    ["a file for a model", ["generate", "package.json", "x"], 2, /expected a model folder, got a file/],
    ["a folder that is not there", ["generate", "./no/such", "x"], 3, /error: \.\/no\/such: no such folder/],
    ["a folder without a model", ["generate", "src", "x"], 3, /error: /],
    [
      "a model that is not cached",
      ["generate", "someone/nothing", "x"],
      3,
      /someone\/nothing.*hint: HF_HUB_OFFLINE forbids downloads: .*octavo pull someone\/nothing/s,
    ],
    [
      "more tokens than the model reads and than there is memory for",
      ["generate", STORYTELLER, "x", "--max-new-tokens", "1000000000"],
      2,
      /error: the model reads 512 tokens; 1,000,000,\d+ were asked for, the prompt included\n {2}hint: lower/,
    ],
    ["a batch file that is not there", ["generate", STORYTELLER, "--batch-file", "none.txt"], 3, /none\.txt/],
    ["nothing to inspect", ["inspect"], 2, /missing required argument 'model'/],
  ];
  it("ends with a code of its own where memory runs out", () => {
    expect(exitCodeOf(new OutOfMemoryError("a cache of 5 tokens needs more"))).toBe(4);
  });

  it.each(cases)("of %s", async (_, args, code, message) => {
    const got = await octavoHere(args, { HF_HUB_CACHE: join(folder, "cache") });
    expect(got.stderr).toMatch(message);
    expect(got.stderr).toMatch(/^error: /);
    expect(got.stderr).not.toMatch(/\n {4}at |file:\/\//);
    expect(got.stdout).toBe("");
    expect(got.code).toBe(code);
  });

  it("of a damaged checkpoint, with a stack only for those who ask", async () => {
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
      await writeFile(join(folder, name), name === "model.safetensors" ? "not one" : "{");
    }
    const got = await octavo(["inspect", folder]);
    expect(got.code).toBe(1);
    expect(got.stderr).toMatch(/^error: .*config\.json/);
    expect(got.stderr).not.toMatch(/\n {4}at /);
    const debug = await octavo(["inspect", folder], { env: { OCTAVO_DEBUG: "1" } });
    expect(debug.stderr).toMatch(/\n {4}at /);
  });
});

describe("pipes and signals", () => {
  it("ends quietly when nobody reads on", async () => {
    const { code, stderr } = await octavo(["generate", STORYTELLER, "Once", "--max-new-tokens", "500"], {
      watch: (child) => child.stdout?.destroy(),
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });

  // Windows has no signals to send.
  it.skipIf(process.platform === "win32")("stops at Ctrl-C with what is there", async () => {
    let sent = false;
    const { code, stdout, stderr } = await octavo(
      [
        "generate",
        STORYTELLER,
        "Once",
        "--max-new-tokens",
        "500",
        "--repetition-penalty",
        "1.3",
        "--device",
        "reference",
      ],
      {
        watch: (child, text) => {
          if (!sent && text.length > 8) sent = child.kill("SIGINT");
        },
      },
    );
    expect(code).toBe(130);
    expect(stdout.endsWith("\n")).toBe(true);
    expect(stderr).toMatch(/speed.*interrupted\n$/s);
  });

  it("shows help and version on stdout", async () => {
    const [help, version] = await Promise.all([octavo(["generate", "--help"]), octavo(["--version"])]);
    expect(help).toMatchObject({ code: 0, stderr: "" });
    expect(help.stdout).toMatch(/--load-in-8bit.*Examples:/s);
    expect(version).toMatchObject({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
  });
});
