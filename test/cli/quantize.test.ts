// octavo quantize, from the outside.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { octavo, READY_TIMEOUT, ready, STORYTELLER } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

describe("octavo quantize", () => {
  beforeAll(ready, READY_TIMEOUT);

  it("writes a folder that generate continues a text with; another one only with --force", async () => {
    const folder = temporary("nf4");
    const args = ["quantize", STORYTELLER, folder, "--load-in-4bit", "--double-quant", "--max-shard-size", "2MB"];
    const { code, stdout, stderr } = await octavo(args);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/: 8 files, 4\.\d+ MB of weights, \d/);
    expect(readdirSync(folder)).toContain("model-00002-of-00003.safetensors");
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    expect(config.quantization_config).toMatchObject({ bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true });
    const text = await octavo(["generate", folder, "-p", "Once upon a time", "--greedy", "--max-new-tokens", "8"]);
    expect(text.stdout).toMatch(/^Once upon a time\S* /);
    expect(text.stderr).toContain("nf4");

    const again = await octavo(["quantize", STORYTELLER, folder, "--load-in-8bit"]);
    expect(again.code).toBe(2);
    expect(again.stderr).toContain("--force");
    const forced = await octavo(["quantize", STORYTELLER, folder, "--load-in-8bit", "--force", "--json"]);
    expect(JSON.parse(forced.stdout)).toMatchObject({ model: STORYTELLER, folder, warnings: [] });
    expect(readdirSync(folder).filter((name) => name.includes("safetensors"))).toEqual(["model.safetensors"]);
  });

  it("stores what a plan says, or what fits into a number of bytes, and says so before and after", async () => {
    const folder = temporary("plan");
    const [plan, chosen] = [`${folder}.json`, `${folder}-chosen.json`];
    writeFileSync(plan, JSON.stringify({ modules: { self_attn: "int8", mlp: "nf4" } }));
    const made = await octavo(["quantize", STORYTELLER, folder, "--plan", plan]);
    expect({ code: made.code, stderr: made.stderr }).toEqual({ code: 0, stderr: "" });
    const { quantization_config } = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    expect(quantization_config).toMatchObject({ quant_method: "octavo", modules: { self_attn: "int8", mlp: "nf4" } });
    const size = await octavo(["inspect", STORYTELLER, "--plan", plan]);
    expect(size.stdout).toMatch(/selective +5\.13 MB/);
    expect(size.stdout).toMatch(/int8 +24 .*\n +nf4 +18 /);
    const placed = await octavo(["plan", folder, "--max-memory", "cpu=1GB"]);
    expect(placed.stdout).toMatch(/in selective: .*\n\nlinears by scheme/);

    const args = [
      "quantize",
      STORYTELLER,
      folder,
      "--force",
      "--target-bytes",
      "5.5MB",
      "--write-plan",
      chosen,
      "--json",
    ];
    const { weight_bytes, linears, plan: said } = JSON.parse((await octavo(args)).stdout);
    expect(weight_bytes).toBeLessThanOrEqual(5.5e6);
    expect(weight_bytes).toBeGreaterThan(5.3e6);
    expect(linears).toHaveLength(42);
    expect(JSON.parse(readFileSync(chosen, "utf8"))).toEqual(said);
  });

  it("refuses what it cannot do before it writes anything", async () => {
    const folder = temporary("none");
    const cases: [string[], RegExp][] = [
      [[], /needs --load-in-8bit or --load-in-4bit, --plan or --target-bytes/],
      [["--plan", "package.json"], /unknown option/],
      [["--load-in-8bit", "--load-in-4bit"], /cannot be used with/],
      [["--load-in-8bit", "--double-quant"], /--double-quant needs --load-in-4bit/],
      [["--load-in-8bit", "--max-shard-size", "many"], /max_shard_size must be/],
    ];
    for (const [flags, message] of cases) {
      const { code, stderr } = await octavo(["quantize", STORYTELLER, folder, ...flags]);
      expect(code).toBe(2);
      expect(stderr).toMatch(message);
    }
    expect(existsSync(folder)).toBe(false);
  });
});
