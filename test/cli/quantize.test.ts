// octavo quantize, from the outside.

import { existsSync, readdirSync, readFileSync } from "node:fs";
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

  it("refuses what it cannot do before it writes anything", async () => {
    const folder = temporary("none");
    const cases: [string[], RegExp][] = [
      [[], /needs --load-in-8bit or --load-in-4bit/],
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
