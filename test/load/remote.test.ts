// from_pretrained from a server, in Node: the same model as from disk, in any state of the checkpoint; what is wrong is
// told before or while it loads, and nothing is left on the device.

import { cpSync, readFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { FromWorker } from "../../src/browser/protocol.js";
import { type Port, serve } from "../../src/browser/worker.js";
import type { Device } from "../../src/core/device.js";
import {
  AbortError,
  FormatError,
  NetworkError,
  NotFoundError,
  OctavoError,
  OptionError,
} from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer, type FromPretrainedOptions } from "../../src/generate/auto.js";
import type { ProgressEvent } from "../../src/load/fill.js";
import { surveyModel } from "../../src/load/survey.js";
import { HttpSource } from "../../src/sources/http.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { FileServer } from "../support/server.js";
import { failure } from "../support/source-tools.js";
import { temporary } from "../support/temporary.js";

const root = temporary("remote");
cpSync(join(FIXTURES, "models/llama"), join(root, "llama"), { recursive: true });
cpSync(join(FIXTURES, "models/gpt2"), join(root, "gpt2"), { recursive: true });
cpSync(join(FIXTURES, "checkpoints/llama/safetensors-sharded"), join(root, "sharded"), { recursive: true });
cpSync(STORYTELLER, join(root, "org/teller/resolve/v1"), { recursive: true });

const server = new FileServer(root);
let device: Device;
beforeAll(async () => {
  await server.start();
  device = openTestDevice("reference");
});
afterEach(() => {
  server.reset();
  expectNoLeaks(device);
});
afterAll(async () => {
  await device.close();
  await server.stop();
});

const PROMPT = { input_ids: [[1, 5, 9, 2]] };

async function logitsOf(model: string, options: FromPretrainedOptions = {}): Promise<number[]> {
  const loaded = await AutoModelForCausalLM.from_pretrained(model, { device, ...options });
  try {
    const { logits } = loaded.forward(PROMPT);
    const values = [...(await logits.readFloats())];
    logits.dispose();
    return values;
  } finally {
    loaded.dispose();
  }
}

describe("a model from a server is the one on disk", () => {
  test.each([
    ["llama", {}],
    ["llama", { load_in_8bit: true }],
    ["gpt2", { load_in_4bit: true }], // its matrices are stored transposed
    ["sharded", {}],
  ] as const)("%s %o", async (name, options) => {
    const wanted = await logitsOf(join(root, name), options);
    expect(await logitsOf(`${server.address}/${name}`, options)).toEqual(wanted);
    server.ranges = false;
    expect(await logitsOf(`${server.address}/${name}/`, options)).toEqual(wanted);
  });

  test("by id and revision, from a hub; so is the tokenizer, which needs four files", async () => {
    const hub = server.address;
    const events: ProgressEvent[] = [];
    const model = await AutoModelForCausalLM.from_pretrained("org/teller", {
      device,
      hub,
      revision: "v1",
      token: "mine",
      load_in_8bit: true,
      progress_callback: (event) => events.push(event),
    });
    model.dispose();
    expect(events[0]).toMatchObject({ status: "initiate", name: "org/teller", loaded: 0 });
    expect(events.at(-1)).toMatchObject({
      status: "done",
      progress: 100,
      file: "model.safetensors",
      network: 10_958_163,
    });
    expect(events.at(-1)!.bytes_per_second).toBeGreaterThan(0);
    expect(new Set(server.asked.map(({ authorization }) => authorization))).toEqual(new Set(["Bearer mine"]));
    server.asked.length = 0;
    const tokenizer = await AutoTokenizer.from_pretrained("org/teller", { hub, revision: "v1" });
    const local = await AutoTokenizer.from_pretrained(STORYTELLER);
    expect(tokenizer("The King's daughter").input_ids).toEqual(local("The King's daughter").input_ids);
    expect(server.asked.length).toBeLessThanOrEqual(5);
  });

  test("a survey reads headers only", async () => {
    const source = new HttpSource(`${server.address}/org/teller/resolve/v1`);
    const { checkpoint_bytes, files } = await surveyModel(source);
    await source.close();
    expect(checkpoint_bytes).toBe(10_951_168);
    expect(files).toEqual([{ file: `${source.location}/model.safetensors`, bytes: 10_957_216 }]);
    expect(source.network).toBeLessThan(1.1 * 2 ** 20);
  });
});

describe("files that need not be there", () => {
  const page = "<!DOCTYPE html><html><body>no such page</body></html>";
  const html = (type?: string) => (response: ServerResponse) =>
    response.writeHead(200, type ? { "Content-Type": type } : {}).end(page);
  const status = (code: number) => (response: ServerResponse) =>
    response.writeHead(code, { "Content-Type": "application/xml" }).end("<Error><Code>AccessDenied</Code></Error>");
  const WAYS: [string, (response: ServerResponse) => unknown][] = [
    ["401", status(401)],
    ["403", status(403)],
    ["404", status(404)],
    ["410", status(410)],
    ["a page", html("text/html; charset=utf-8")],
    ["a page as text", html("text/plain")],
    ["a page as JSON", html("application/json")],
    ["a page without a type", html()],
  ];
  /** Whatever is not in the folder is answered in this way; `also` even if it is. */
  const answer = (send: (response: ServerResponse) => unknown, also = /^$/): void => {
    server.misbehave = (request, response, body) => (!body || also.test(request.url!)) && !!send(response);
  };

  test.each(WAYS)("%s: the model and the tokenizer load", async (_, send) => {
    for (const [name, absent] of [
      ["llama", /generation_config/],
      ["sharded", /generation_config|model\.safetensors$/],
    ] as const) {
      const wanted = await logitsOf(join(root, name));
      answer(send, absent);
      expect(await logitsOf(`${server.address}/${name}`)).toEqual(wanted);
    }
    answer(send, /special_tokens_map|\/config\.json|added_tokens/);
    await AutoTokenizer.from_pretrained(`${server.address}/org/teller/resolve/v1`);
  });

  test.each(WAYS)("%s: a file that is needed is an error, as without the others", async (way, send) => {
    const denied = way === "401" || way === "403";
    for (const [needed, load] of [
      [/\/config\.json/, () => logitsOf(`${server.address}/llama`)],
      [/safetensors/, () => logitsOf(`${server.address}/llama`)],
      [/00001-of/, () => logitsOf(`${server.address}/sharded`)],
      [/tokenizer\.json/, () => AutoTokenizer.from_pretrained(`${server.address}/org/teller/resolve/v1`)],
    ] as const) {
      answer(send, needed);
      const error = await failure(load);
      expect(error).toBeInstanceOf(OctavoError);
      if (denied) expect(error).toMatchObject({ details: { status: Number(way) }, hint: /private or gated/ });
      else expect(["ERR_NOT_FOUND", "ERR_FORMAT"]).toContain((error as OctavoError).code);
    }
  });

  test("a server in trouble is not one that lacks them", async () => {
    server.misbehave = (request, response) => /generation_config/.test(request.url!) && !!status(418)(response);
    expect(await failure(() => logitsOf(`${server.address}/llama`))).toMatchObject({ details: { status: 418 } });
  });

  test("are asked for before the weights", async () => {
    await logitsOf(`${server.address}/llama`);
    const names = server.asked.map(({ path }) => path.slice("/llama/".length));
    expect(names.slice(0, 3)).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
  });
});

describe("a server that stands still", () => {
  test.each(["config.json", "generation_config.json", "model.safetensors"])("at %s of a model", async (name) => {
    server.misbehave = (request) => request.url!.endsWith(`/${name}`);
    const error = await failure(() => logitsOf(`${server.address}/llama`, { timeout: 0.4 }));
    expect(error).toMatchObject({ code: "ERR_NETWORK", details: { timeout: 0.4 } });
  });

  test("at a tokenizer, and at a survey in a Worker", async () => {
    server.misbehave = () => true;
    const address = `${server.address}/org/teller/resolve/v1`;
    const error = await failure(() => AutoTokenizer.from_pretrained(address, { timeout: 0.4 }));
    expect(error).toMatchObject({ code: "ERR_NETWORK", details: { timeout: 0.4 } });
    const answer = await new Promise<FromWorker>((resolve) => {
      const port: Port = { onmessage: null, postMessage: (message) => resolve(message as FromWorker) };
      serve(port);
      port.onmessage!({ data: { id: 1, call: "survey", args: { model: address, options: { timeout: 0.4 } } } });
    });
    expect(answer).toMatchObject({ error: { code: "ERR_NETWORK", details: { timeout: 0.4 } } });
  });
});

describe("refused", () => {
  const load = (name: string, options: FromPretrainedOptions = {}) =>
    failure(() => AutoModelForCausalLM.from_pretrained(`${server.address}/${name}`, { device, ...options }));

  test("a folder that is not there", async () => {
    const error = await load("none");
    expect(error).toBeInstanceOf(NotFoundError);
    expect(error).toMatchObject({ details: { url: `${server.address}/none/config.json` } });
  });

  test("a folder without weights", async () => {
    server.misbehave = (request, response) => /safetensors/.test(request.url!) && !!response.writeHead(404).end();
    expect(String(await load("llama"))).toContain("no weights found; looked for model.safetensors");
  });

  test("a page in the place of config.json", async () => {
    server.misbehave = (request, response) =>
      /config/.test(request.url!) && !!response.writeHead(200, { "Content-Type": "text/html" }).end("<html>");
    expect(await load("llama")).toBeInstanceOf(FormatError);
  });

  test("a login page that says it is JSON", async () => {
    server.misbehave = (request, response) =>
      /config/.test(request.url!) && !!response.writeHead(200, { "Content-Type": "application/json" }).end("<html>");
    expect(String(await load("llama"))).toContain("an HTML or XML page");
  });

  test("a shard name that leads elsewhere: nothing is asked for", async () => {
    const index = { weight_map: { a: "../../secret.safetensors" } };
    server.files.set("/sharded/model.safetensors.index.json", Buffer.from(JSON.stringify(index)));
    const error = await load("sharded");
    expect(error).toBeInstanceOf(FormatError);
    expect(server.asked.filter(({ path }) => /secret/.test(path))).toEqual([]);
  });

  test("weights that end early", async () => {
    server.misbehave = (request, response, body) => {
      if (!/model.safetensors/.test(request.url!)) return false;
      response.writeHead(200, { "Content-Length": body!.length });
      response.write(body!.subarray(0, 9000), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    expect(await load("llama")).toBeInstanceOf(NetworkError);
  });

  test("a checkpoint that is cut short on the server", async () => {
    const whole = readFileSync(join(root, "llama/model.safetensors"));
    server.files.set("/llama/model.safetensors", whole.subarray(0, 20_000));
    expect(String(await load("llama"))).toMatch(/expected \d+ bytes by its header, got 20000/);
  });

  test("options that do not go together", async () => {
    expect(await load("llama", { local_files_only: true })).toBeInstanceOf(OptionError);
    expect(await load("llama", { revision: "main" })).toBeInstanceOf(OptionError);
    for (const timeout of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e9, "30" as never]) {
      expect(await load("llama", { timeout }), String(timeout)).toBeInstanceOf(OptionError);
    }
    const hub = (options: object) =>
      failure(() => AutoModelForCausalLM.from_pretrained("org/teller", { device, ...options }));
    expect(await hub({ hub: 3 })).toBeInstanceOf(OptionError);
    expect(await hub({ hub: "nowhere" })).toBeInstanceOf(OptionError);
    expect(await hub({ hub: server.address, revision: "../v1" })).toBeInstanceOf(OptionError);
  });

  test("work that was aborted in the middle leaves nothing behind", async () => {
    const controller = new AbortController();
    const error = await load("org/teller/resolve/v1", {
      signal: controller.signal,
      progress_callback: ({ status }) => status === "initiate" && setTimeout(() => controller.abort(), 5),
    });
    expect(error).toBeInstanceOf(AbortError);
  });
});
