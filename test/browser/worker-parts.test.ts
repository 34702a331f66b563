// A Worker's script looks at models; what loads them, and what some calls need besides, comes with the first call that asks for it.

import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WorkerHost, type WorkerLike } from "../../src/browser/client.js";
import { type Port, serve } from "../../src/browser/worker.js";
import { ADAPTERS, GRAMMAR } from "../../src/generate/parts.js";
import { CONVERSATIONS } from "../../src/tokenizer/api.js";
import { ROOT } from "../support/cli.js";
import { type Site, serveFolder } from "./bundle.js";

let site: Site;
let host: WorkerHost;
const { port1: page, port2: worker } = new MessageChannel();

beforeAll(async () => {
  site = await serveFolder(join(ROOT, "models", "storyteller"));
  serve(worker as unknown as Port);
  host = new WorkerHost(Object.assign(page, { terminate: () => page.close() }) as unknown as WorkerLike);
  await host.load(`${site.address}/`, { device: "reference" });
});
afterAll(async () => {
  await host.dispose();
  page.close();
  await site.stop();
});

const missing = /has not been loaded/;

test("a plain text needs none of them", async () => {
  expect((await host.generate("Once", { max_new_tokens: 2, do_sample: false })).token_ids).toHaveLength(2);
  for (const part of [GRAMMAR, ADAPTERS, CONVERSATIONS]) expect(() => part.now).toThrow(missing);
});

test("structured output brings grammars", async () => {
  const { text } = await host.generate("Was she glad?", { choices: [" no"], max_new_tokens: 4, do_sample: false });
  expect(text).toBe(" no");
  expect(() => GRAMMAR.now).not.toThrow();
  expect(() => ADAPTERS.now).toThrow(missing);
});

test("calls about adapters bring adapters, and are refused in their own words", async () => {
  await expect(host.set_adapter("none")).rejects.toThrow(/adapter/);
  expect(() => ADAPTERS.now).not.toThrow();
  expect(() => CONVERSATIONS.now).toThrow(missing);
});

test("conversations to learn from bring templates", async () => {
  const messages = [{ role: "user", content: "Who are you?" }];
  const run = {
    train_dataset: [{ messages }],
    peft_config: { r: 1, target_modules: ["q_proj"] },
    args: { max_steps: 1 },
  };
  await expect(host.train(run)).rejects.toThrow(/template/); // the storyteller has none
  expect(() => CONVERSATIONS.now).not.toThrow();
});
