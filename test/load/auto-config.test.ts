// AutoConfig: a config.json as it is written, without weights.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ConfigError, NotFoundError, UnsupportedModelError } from "../../src/core/errors.js";
import { AutoConfig } from "../../src/generate/auto.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

function folder(text: string): string {
  const path = temporary("config");
  mkdirSync(path);
  writeFileSync(join(path, "config.json"), text);
  return path;
}

test.each(["qwen3", "vit", "t5"])("%s", async (name) => {
  const config = await AutoConfig.from_pretrained(join(FIXTURES, "models", name));
  expect({ ...config }).toEqual(readJson("models", name, "config.json"));
});

test("by the name of the demo model, and of config.json alone", async () => {
  expect(await AutoConfig.from_pretrained("octavo/storyteller")).toEqual(await AutoConfig.from_pretrained(STORYTELLER));
  expect((await AutoConfig.from_pretrained(folder('{"model_type": "bert"}'))).model_type).toBe("bert");
});

test("what is no config of a known model", async () => {
  await expect(AutoConfig.from_pretrained(temporary("nothing"))).rejects.toThrow(NotFoundError);
  await expect(AutoConfig.from_pretrained(folder('{"hidden_size": 4}'))).rejects.toThrow(ConfigError);
  await expect(AutoConfig.from_pretrained(folder('{"model_type": "qwen33"}'))).rejects.toThrow(UnsupportedModelError);
  await expect(AutoConfig.from_pretrained(folder('{"model_type": "qwen33"}'))).rejects.toThrow(/did you mean "qwen3"/);
});
