// Connections that fail and servers that ask to wait: what is tried again, how often, and the error at the end.

import { afterEach, describe, expect, test, vi } from "vitest";
import { AbortError, NetworkError, type OctavoError } from "../../src/core/errors.js";
import { HttpSource, type HttpSourceOptions } from "../../src/sources/http.js";
import { CHUNK_BYTES } from "../../src/sources/range-cache.js";
import { bytes } from "../support/random.js";
import { MemoryCache } from "../support/range-cache.js";
import { etagOf, FileServer } from "../support/server.js";
import { open, rangeOf, read, serve, server, withSource } from "../support/source-server.js";
import { failure } from "../support/source-tools.js";

const JSON_FILE = Buffer.from('{"a":1}');
const TWO = Buffer.from(bytes(3, 2 * CHUNK_BYTES + 77));

afterEach(() => {
  server.reset();
  vi.restoreAllMocks();
});

/** Longer than a test may take. */
const LONG = 3600;

const same = (a: Buffer, b: Buffer) => expect(a.equals(b), "the bytes of the file").toBe(true);

describe("connections that fail", () => {
  test("a reset of the first one is tried again, but not for ever", async () => {
    serve("config.json", JSON_FILE);
    let resets = 0;
    server.misbehave = (request) => ++resets <= 2 && !!request.socket.destroy();
    await withSource({}, async (source) => same(await read(source, "config.json"), JSON_FILE));
    expect(resets).toBe(3);
    server.misbehave = (request) => !!request.socket.destroy();
    server.asked.length = 0;
    const error = await failure(() => withSource({}, (source) => read(source, "config.json")));
    expect(error).toMatchObject({ code: "ERR_NETWORK" });
    expect(String(error)).toMatch(/the connection was reset \((ECONNRESET|UND_ERR_SOCKET)\)/);
    expect(String(error)).not.toMatch(/page|origin/i);
    expect(server.asked.length).toBe(4);
  });

  test("little comes each time: the attempts end", async () => {
    serve("two", TWO);
    server.misbehave = (request, response, body) => {
      const [start, asked] = rangeOf(request);
      const end = Math.min(asked, body!.length);
      const range = { "Content-Range": `bytes ${start}-${end - 1}/${body!.length}`, "Content-Length": end - start };
      response.writeHead(206, { ...range, ETag: etagOf(body!) });
      response.write(body!.subarray(start, start + 100), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    const load = () => withSource({}, async (source) => (await open(source, "two")).read(0, 10));
    expect(await failure(load)).toBeInstanceOf(NetworkError);
    expect(server.asked.length).toBe(4);
  });

  test("nobody listens", async () => {
    const gone = await new FileServer().start();
    const { address } = gone;
    await gone.stop();
    const error = await failure(() => open(new HttpSource(`${address}/m`), "x"));
    expect(String(error)).toMatch(/refused.*\(ECONNREFUSED\)/);
    expect(String(error)).not.toMatch(/page|origin/i);
  });

  test("https of a server for http, a port that may not be used, a redirect in a circle or elsewhere, another protocol", async () => {
    const reason = (address: string) => failure(() => open(new HttpSource(address), "x")).then(String);
    expect(await reason(server.address.replace("http:", "https:"))).toMatch(/TLS.*\((EPROTO|ERR_SSL_\w+)\)/);
    expect(await reason("http://127.0.0.1:9")).toMatch(/bad port/);
    server.misbehave = (request, response) => !!response.writeHead(302, { Location: request.url! }).end();
    expect(await reason(server.address)).toMatch(/redirects in a circle/);
    server.misbehave = (_, response) => !!response.socket!.end("what?\r\n\r\n");
    expect(await reason(server.address)).toMatch(/not HTTP.*\(HPE_\w+\)/);
    server.misbehave = (_, response) => !!response.writeHead(302, { Location: "gopher://x" }).end();
    expect(await reason(server.address)).toMatch(/cannot be reached: .*scheme/);
  });

  test("a redirect to an address with secrets: they are not told", async () => {
    const gone = await new FileServer().start();
    const { address } = gone;
    await gone.stop();
    for (const target of [
      `${address}/x?token=hunter2`,
      address.replace("//", "//user:hunter2@"),
      "http://hunter2.invalid:9/hunter2",
      "data:hunter2",
      "http://host:hunter2/",
    ]) {
      server.misbehave = (_, response) => !!response.writeHead(302, { Location: target }).end();
      const error = (await failure(() => withSource({}, (source) => read(source, "x")))) as OctavoError;
      expect(error).toBeInstanceOf(NetworkError);
      expect(`${error.message} ${error.hint} ${JSON.stringify(error.details)}`).not.toContain("hunter2");
    }
  });

  test("what a cache says of an address in its warnings", async () => {
    const cache = new MemoryCache();
    cache.find = () => Promise.reject(new TypeError("cannot match https://user:hunter2@host/x?token=hunter2 today"));
    serve("config.json", JSON_FILE);
    const warnings: string[] = [];
    await withSource({ cache, warn: (message) => warnings.push(message) }, (source) => read(source, "config.json"));
    expect(warnings).toEqual([expect.stringContaining("cannot match https://...@host/x?... today")]);
  });

  test("a page in a browser is told of the rule for other origins", async () => {
    const gone = await new FileServer().start();
    const { address } = gone;
    await gone.stop();
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
    try {
      const error = await failure(() => open(new HttpSource(`${address}/m`, { page: true }), "x"));
      expect(error).toMatchObject({ hint: expect.stringContaining("Access-Control-Allow-Origin") });
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test("the token is not sent to another server", async () => {
    const other = await new FileServer().start();
    try {
      other.files.set("/m/config.json", JSON_FILE);
      server.misbehave = (request, response) =>
        !!response.writeHead(302, { Location: other.address + request.url! }).end();
      await withSource({ token: "secret" }, async (source) => same(await read(source, "config.json"), JSON_FILE));
      expect(server.asked.map(({ authorization }) => authorization)).toEqual(["Bearer secret"]);
      expect(other.asked.map(({ authorization }) => authorization)).toEqual([undefined]);
    } finally {
      await other.stop();
    }
  });
});

describe("Retry-After", () => {
  /** Timers of 5 to 60 seconds, which nothing else here sets, pass at once and are noted. */
  function hurry(): number[] {
    const real = globalThis.setTimeout;
    const waits: number[] = [];
    vi.spyOn(globalThis, "setTimeout").mockImplementation(((call: () => void, ms = 0, ...rest: []) => {
      const long = ms >= 5000 && ms <= 60_000;
      if (long) waits.push(ms);
      return real(call, long ? 1 : ms, ...rest);
    }) as typeof setTimeout);
    return waits;
  }
  const answer = (after: string) => {
    let times = 0;
    serve("config.json", JSON_FILE);
    server.misbehave = (_, response) => ++times === 1 && !!response.writeHead(429, { "Retry-After": after }).end();
  };
  const load = (options: HttpSourceOptions) =>
    withSource(options, async (source) => same(await read(source, "config.json"), JSON_FILE));

  test("in seconds, and as a date", async () => {
    const waits = hurry();
    answer("7");
    await load({});
    expect(waits).toEqual([7000]);
    answer(new Date(Date.now() + 20_000).toUTCString());
    await load({});
    expect(waits[1]).toBeGreaterThan(10_000);
    expect(waits[1]).toBeLessThanOrEqual(20_000);
  });

  test("is capped by the time limit; what is no time is ignored", async () => {
    const waits = hurry();
    for (const after of ["1000000000", "9".repeat(400), "Fri, 31 Dec 9999 23:59:59 GMT"]) {
      answer(after);
      await load({ timeout: 11 });
    }
    expect(waits).toEqual([11_000, 11_000, 11_000]);
    for (const after of ["-5", "soon", "0", "Thu, 01 Jan 1970 00:00:00 GMT", "1e3"]) {
      answer(after);
      await load({ timeout: 0.9 });
    }
    expect(waits.length).toBe(3);
  });

  test("is ended by the signal, and told if it does not help", async () => {
    server.misbehave = (_, response) => !!response.writeHead(503, { "Retry-After": "900" }).end();
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 60);
    expect(await failure(() => load({ timeout: LONG, signal: controller.signal }))).toBeInstanceOf(AbortError);
    hurry();
    const error = await failure(() => load({}));
    expect(error).toMatchObject({ details: { status: 503, retry_after: 900 }, hint: expect.stringContaining("900 s") });
  });
});
