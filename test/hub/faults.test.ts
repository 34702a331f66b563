// A hub that fails: connections that are cut, answers that lie, refusals, disks without room. What is in the cache afterwards is right or
// not there, and the error says what to do.

import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { AbortError, FileError, FormatError, NetworkError, NotFoundError, OptionError } from "../../src/core/errors.js";
import { AutoConfig, AutoModelForCausalLM } from "../../src/generate/auto.js";
import { bytesThere } from "../../src/hub/partials.js";
import { pull } from "../../src/hub/pull.js";
import { sha256 } from "../support/fake-hub.js";
import { hub, place, tree, useHub, weights } from "../support/hub-suite.js";
import { etagOf } from "../support/server.js";
import { failure } from "../support/source-tools.js";

useHub();
afterEach(() => {
  vi.restoreAllMocks();
});

const MB = 1 << 20;
const CONFIG = '{"model_type":"llama"}';
/** Two ranges, one of 8 MB. */
const LARGE = weights(11 * MB + 1000);
const HASH = sha256(LARGE);
const SECRET = "hf_hunter2";

const blobs = (id = "org/tiny"): string => join(place.cache, `models--${id.replace("/", "--")}`, "blobs");
const left = (): string[] => readdirSync(blobs()).filter((name) => name.endsWith(".incomplete"));
const isThere = (): void => expect(readFileSync(join(blobs(), HASH)).equals(LARGE), "the file in the cache").toBe(true);

function publish(body = LARGE): void {
  hub.commit("org/tiny", { "config.json": CONFIG, "model.safetensors": body });
}

/** Begins to answer for a range. @returns its bytes */
function head(request: IncomingMessage, response: ServerResponse, body: Buffer): Buffer {
  const [, first, last] = /(\d+)-(\d+)/.exec(request.headers.range!)!;
  const part = body.subarray(Number(first), Number(last) + 1);
  const range = `bytes ${first}-${Number(first) + part.length - 1}/${body.length}`;
  response.writeHead(206, { "Content-Range": range, "Content-Length": part.length, ETag: etagOf(body) });
  return part;
}

/** Bytes of the large file that were asked for, from where on. */
const starts = (): number[] => hub.cdn.asked.map(({ range }) => Number(/\d+/.exec(range ?? "0")![0]));

describe("the bytes", () => {
  test("large files come by several ranges at once, and the token stays with the hub", async () => {
    publish();
    hub.tokens.add(SECRET);
    // The first of two ranges is answered when the second is asked for.
    const waiting: (() => void)[] = [];
    hub.cdnFault = (request, response, body) => {
      const part = head(request, response, body!);
      if (part.length === MB) return !!response.end(part);
      waiting.push(() => response.end(part));
      if (waiting.length === 2) for (const answer of waiting.splice(0)) answer();
      return true;
    };
    await pull("org/tiny", { token: SECRET });
    isThere();
    expect(waiting).toEqual([]);
    expect(new Set(hub.hub.asked.map(({ authorization }) => authorization))).toEqual(new Set([`Bearer ${SECRET}`]));
    expect(new Set(hub.cdn.asked.map(({ authorization }) => authorization))).toEqual(new Set([undefined]));
  });

  test("connections that are cut go on where they were", async () => {
    publish();
    let cuts = 0;
    hub.cdnFault = (request, response, body) => {
      if (cuts++ % 3 === 0) return false;
      const part = head(request, response, body!);
      response.write(part.subarray(0, 700_000), () => setTimeout(() => response.destroy(), 5));
      return true;
    };
    await pull("org/tiny");
    isThere();
    expect(cuts).toBeGreaterThan(6);
  }, 30_000);

  test("a server without ranges, and one that sends other ranges than it was asked for", async () => {
    publish();
    hub.cdn.ranges = false;
    await pull("org/tiny");
    isThere();
    hub.reset();
    publish(weights(MB));
    hub.cdnFault = (_, response, body) => {
      response.writeHead(206, { "Content-Range": `bytes 5-${body!.length - 1}/${body!.length}` });
      return !!response.end(body!.subarray(5));
    };
    const error = await failure(() => pull("org/tiny", { force_download: true }));
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toMatch(/asked for bytes from 0, got "bytes 5-/);
    expect(left()).toEqual([]);
  });

  test("bytes that are not the file's are deleted", async () => {
    publish();
    const wrong = Buffer.from(LARGE);
    wrong[10 * MB]! ^= 1;
    hub.cdn.files.set(`/blobs/${HASH}`, wrong);
    const error = await failure(() => pull("org/tiny"));
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("not those of the file");
    expect(
      tree(place.cache).filter((name) => /incomplete|safetensors$/.test(name) && !name.includes(".no_exist")),
    ).toEqual([]);
    // A small one, whose hash is git's.
    hub.fault = (request, response) =>
      request.url!.endsWith("/config.json") &&
      !!response
        .writeHead(206, { "Content-Range": "bytes 0-21/22", "Content-Length": 22 })
        .end('{"model_type":"llaMa"}');
    expect(await failure(() => AutoConfig.from_pretrained("org/tiny", { force_download: true }))).toBeInstanceOf(
      FormatError,
    );
    hub.fault = undefined;
    hub.cdn.files.set(`/blobs/${HASH}`, LARGE);
    await pull("org/tiny");
    isThere();
  });

  test("a file of another size than the list says", async () => {
    publish(weights(5000));
    const short = weights(4500);
    for (const name of hub.cdn.files.keys()) hub.cdn.files.set(name, short);
    const error = await failure(() => pull("org/tiny"));
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toMatch(/expected \d+ bytes, got \d+ bytes/);
  });

  test.each([
    ["the first bytes of the file: it goes on behind them", 6 * MB, false],
    ["all of it: nothing is asked for", LARGE.length, false],
    ["other bytes: it begins again", 6 * MB, true],
    ["more than the file: it begins again", LARGE.length + 5, true],
  ])("what another process has left is %s", async (_, size, wrong) => {
    publish();
    const begun = wrong ? Buffer.alloc(size) : LARGE.subarray(0, size);
    writeFileSync(join(blobs(), `${HASH}.${await deadOwner()}.incomplete`), begun);
    await pull("org/tiny");
    isThere();
    expect(left()).toEqual([]);
    const ranges = starts();
    if (!wrong && size < LARGE.length) expect(Math.min(...ranges.filter((at) => at > 0))).toBe(6 * MB);
    if (!wrong && size === LARGE.length) expect(ranges).toEqual([]);
  });

  /** An owner that has gone, for the name of a partial file: that of a download which fails here, with the number of no process. */
  async function deadOwner(): Promise<string> {
    hub.cdnFault = (request, response) =>
      request.headers.range !== "bytes=0-1048575" && !!response.writeHead(403).end();
    await failure(() => pull("org/tiny"));
    hub.cdnFault = undefined;
    hub.cdn.asked.length = 0;
    const [, machine] = /\.([0-9a-f]{8})-/.exec(left()[0]!)!;
    for (const name of left()) rmSync(join(blobs(), name));
    return `${machine}-4194304.0-00`;
  }

  test("aborted, it ends at once, and goes on later", async () => {
    publish();
    const stop = new AbortController();
    hub.cdnFault = (request, response, body) => {
      const part = head(request, response, body!);
      if (part.length === MB) return !!response.end(part);
      response.write(part.subarray(0, 2 * MB), () => setTimeout(() => stop.abort(), 200)); // and then nothing
      return true;
    };
    expect(await failure(() => pull("org/tiny", { signal: stop.signal }))).toBeInstanceOf(AbortError);
    hub.cdnFault = undefined;
    const [name, ...more] = left();
    expect(more).toEqual([]);
    const { size } = statSync(join(blobs(), name!));
    expect(size).toBeGreaterThanOrEqual(MB);
    hub.cdn.asked.length = 0;
    await pull("org/tiny");
    isThere();
    expect(Math.min(...starts().filter((at) => at > 0))).toBe(size);
  });

  test("several loads at once share one download", async () => {
    publish();
    const all = await Promise.all([pull("org/tiny"), pull("org/tiny"), pull("org/tiny")]);
    isThere();
    expect(new Set(all.map(({ folder }) => folder)).size).toBe(1);
    expect(starts().filter((at) => at === 0).length).toBe(1);
  });
});

describe("disks", () => {
  test("that fill up: a typed error, and the rest comes when there is room", async () => {
    publish();
    const probe = await open(join(process.cwd(), "package.json"));
    const methods = Object.getPrototypeOf(probe) as { write: (...args: unknown[]) => Promise<unknown> };
    await probe.close();
    const { write } = methods;
    let calls = 0;
    const full = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    const spy = vi.spyOn(methods, "write").mockImplementation(function (this: unknown, ...args: unknown[]) {
      return ++calls > 10 ? Promise.reject(full) : write.apply(this, args);
    });
    const error = await failure(() => pull("org/tiny"));
    spy.mockRestore();
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toMatch(/the disk is full \(ENOSPC\)\n {2}hint: make room.*is kept/);
    hub.cdn.asked.length = 0;
    // Room is needed only for what is still to come.
    const there = await bytesThere(blobs(), [HASH, "0".repeat(64)]);
    expect([...there]).toEqual([[HASH, statSync(join(blobs(), left()[0]!)).size]]);
    expect(there.get(HASH)).toBeGreaterThan(5 * MB);
    await pull("org/tiny");
    isThere();
    expect(Math.min(...starts().filter((at) => at > 0))).toBeGreaterThan(5 * MB);
    expect([...(await bytesThere(blobs(), [HASH]))]).toEqual([[HASH, LARGE.length]]);
  });

  test("that a model does not fit: before a byte of it is asked for", async () => {
    publish();
    hub.fault = (request, response) => {
      if (!request.url!.includes("/tree/")) return false;
      const file = { type: "file", path: "model.safetensors", size: 2 ** 40, oid: "0".repeat(40) };
      const lfs = { oid: "0".repeat(64), size: 2 ** 40 };
      return !!response.end(JSON.stringify([{ ...file, lfs }]));
    };
    const error = await failure(() => pull("org/tiny"));
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toMatch(/the disk has \d+ bytes left, and 1099511627776 are to come/);
    expect(hub.cdn.asked).toEqual([]);
  });

  test("that may not be written", async () => {
    publish();
    mkdirSync(place.home, { recursive: true });
    writeFileSync(join(place.home, "hub"), "a file in its place");
    expect(await failure(() => pull("org/tiny"))).toBeInstanceOf(FileError);
  });
});

describe("refusals", () => {
  const say = async (options: object = {}, id = "org/tiny"): Promise<unknown> => failure(() => pull(id, options));

  test("no such model: near names, and what a private one needs", async () => {
    publish();
    await pull("org/tiny");
    const error = await say({}, "org/tinny");
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toMatch(/there is no model "org\/tinny" on .*or it is private; did you mean "org\/tiny"\?/);
    expect(String(error)).toContain("set HF_TOKEN");
  });

  test("a gated model, without and with a token", async () => {
    publish();
    hub.repos.get("org/tiny")!.gated = true;
    const error = await say();
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toMatch(
      /"org\/tiny" is gated.*\n {2}hint: accept its terms on http.*\/org\/tiny, then set HF_TOKEN/,
    );
    hub.tokens.add(SECRET);
    process.env.HF_TOKEN = SECRET;
    const other = String(await say());
    expect(other).toMatch(/gated.*\(403\).*\n {2}hint: the account of the token \(from HF_TOKEN\) has no access/);
    expect(other).not.toContain(SECRET);
  });

  test("a token that the hub does not know, by where it is from; token: false sends none", async () => {
    publish();
    mkdirSync(place.home, { recursive: true });
    writeFileSync(join(place.home, "token"), `${SECRET}\n`);
    const error = await say();
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toMatch(/does not accept the token.*\n {2}hint: it comes from .*token: renew it/);
    expect(String(error) + JSON.stringify((error as NetworkError).details)).not.toContain(SECRET);
    await pull("org/tiny", { token: false });
    await expect(pull("org/tiny", { token: true, force_download: true })).rejects.toThrow(/does not accept/);
    process.env.HF_TOKEN = "two words";
    await expect(pull("org/tiny")).rejects.toThrow(/HF_TOKEN holds characters/);
  });

  test("no such revision, no such file", async () => {
    publish();
    const error = await say({ revision: "v9" });
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toMatch(/no revision "v9".*\n {2}hint: .*\/tree\/main shows/);
    hub.commit("org/empty", { "README.md": "x" });
    await expect(pull("org/empty")).rejects.toThrow(/has no config\.json/);
    await expect(AutoConfig.from_pretrained("org/empty")).rejects.toThrow(/"org\/empty" has no file "config\.json"/);
  });

  test("a listed file that its host does not give, or does not have: the model is not what is missing", async () => {
    const shards = Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`w${i}`, `m-${i}.safetensors`]));
    const files = Object.entries(shards).map(([tensor, name], i) => [name, weights(5000, i, tensor)]);
    hub.commit("org/tiny", {
      "config.json": CONFIG,
      "model.safetensors.index.json": JSON.stringify({ weight_map: shards }),
      ...Object.fromEntries(files),
    });
    for (const [status, kind] of [
      [403, NetworkError],
      [404, NotFoundError],
    ] as const) {
      hub.cdn.asked.length = 0;
      hub.cdnFault = (_, response) => !!response.writeHead(status).end();
      const error = await say();
      expect(error).toBeInstanceOf(kind);
      expect(String(error)).toMatch(new RegExp(`resolve/.*m-\\d\\.safetensors: .*\\(${status}\\)`));
      expect(String(error)).not.toContain("there is no model");
      expect(hub.cdn.asked.length).toBeLessThan(9); // one failure ends the others
      expect(tree(place.cache).filter((name) => name.includes("refs/"))).toEqual([]);
    }
  });

  test("a busy hub is asked again, and an error says if it stays busy", async () => {
    publish(weights(5000));
    let refusals = 0;
    hub.fault = (_, response) => refusals++ < 2 && !!response.writeHead(503).end();
    await pull("org/tiny");
    hub.fault = (_, response) => !!response.writeHead(429, { "Retry-After": "1" }).end();
    const error = await say({ timeout: 1, force_download: true });
    expect(error).toBeInstanceOf(NetworkError);
    expect(error).toMatchObject({ details: { status: 429, retry_after: 1 } });
  });

  test.each([
    ["a page", "<!doctype html><html>", /expected a description of a model, got an HTML or XML page/],
    ["other JSON", '{"sha":"main"}', /expected the commit as `sha`, got "main"/],
  ])("%s in place of an answer", async (_, text, message) => {
    publish();
    hub.fault = (_, response) => !!response.end(text);
    const error = await say();
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toMatch(message);
  });

  test.each(["../../x", "/etc/x", "a\\\\b", "a//b"])("a list that names %s", async (path) => {
    publish();
    hub.fault = (request, response) =>
      request.url!.includes("/tree/") &&
      !!response.end(`[{"type":"file","path":"${path}","size":1,"oid":"${"0".repeat(40)}"}]`);
    const error = await say();
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("the name of a file inside the model");
  });
});

describe("without the hub", () => {
  test("what is cached is used, with a warning; a revision that the hub denies is not", async () => {
    const commit = hub.commit("org/tiny", { "config.json": CONFIG, "model.safetensors": weights(5000) });
    await pull("org/tiny");
    const warnings: string[] = [];
    const warn = (message: string): void => {
      warnings.push(message);
    };
    hub.fault = (request) => !!request.socket.destroy();
    const { folder } = await pull("org/tiny", { warn });
    expect(folder).toContain(commit);
    expect(warnings).toEqual([expect.stringMatching(/cannot be reached.*; using what is cached of org\/tiny/)]);
    hub.fault = (_, response) =>
      !!response.writeHead(404, { "X-Error-Code": "RevisionNotFound", "X-Error-Message": "no" }).end();
    expect(await failure(() => pull("org/tiny"))).toBeInstanceOf(NotFoundError);
  }, 30_000);

  test("a model that is nowhere: both places are named, and folders with near names", async () => {
    hub.fault = (request) => !!request.socket.destroy();
    const error = await failure(() => AutoModelForCausalLM.from_pretrained("models/storytelle", { timeout: 1 }));
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toMatch(/neither a folder nor in the cache .*did you mean "models\/storyteller"\?/);
    expect(String(error)).toMatch(/the hub did not give it: .*cannot be reached/);
  }, 30_000);

  test.each(["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])("%s opens no connection", async (variable) => {
    publish();
    process.env[variable] = "yes";
    const error = await failure(() => AutoConfig.from_pretrained("org/tiny"));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toMatch(new RegExp(`${variable} forbids downloads: .*octavo pull org/tiny`));
    await expect(AutoConfig.from_pretrained("org/tiny", { force_download: true })).rejects.toThrow(OptionError);
    expect(hub.asked).toEqual([]);
  });

  test("an address that is none in HF_ENDPOINT; a subfolder that leads out", async () => {
    process.env.HF_ENDPOINT = "ftp://hub";
    await expect(AutoConfig.from_pretrained("org/tiny")).rejects.toThrow(/HF_ENDPOINT must be an http address/);
    for (const subfolder of ["../x", "/x", "a/../../b", "a\\b"]) {
      await expect(AutoConfig.from_pretrained("org/tiny", { subfolder })).rejects.toThrow(OptionError);
      await expect(AutoConfig.from_pretrained("models/storyteller", { subfolder })).rejects.toThrow(OptionError);
    }
  });
});
