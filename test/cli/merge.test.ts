// octavo merge: a model with an adapter in its weights, in a folder of its own.

import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { AutoModelForCausalLM } from "../../src/index.js";
import { octavo, READY_TIMEOUT, ready } from "../support/cli.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

test("merges, and refuses a folder that holds files", async () => {
  const folder = temporary("merged");
  const args = ["merge", join(FIXTURES, "models", "llama"), join(FIXTURES, "peft", "llama", "dora"), folder, "--json"];
  const { code, stdout } = await octavo(args);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ folder, errors: [] });
  const { inputs } = readJson<{ inputs: { single: { input_ids: number[][] } } }>("models", "llama", "expected.json");
  const model = await AutoModelForCausalLM.from_pretrained(folder);
  const { logits } = model.forward({ input_ids: inputs.single.input_ids });
  const got = await logits.readFloats();
  logits.dispose();
  model.dispose();
  const { values } = readArrays("peft", "llama", "dora", "expected.safetensors").get("merged")!;
  // The fixture's own tolerance.
  got.forEach((x, i) => void expect(Math.abs(x - values[i]!)).toBeLessThan(1e-4));
  const again = await octavo(args);
  expect(again.code).toBe(2);
  expect(again.stdout).toMatch(/holds files already/);
});
