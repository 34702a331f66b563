// Servers that claim, contradict themselves, drip, fall silent or give few connections: every wait ends, and every end is a
// typed error or the right bytes.

import type { IncomingMessage, ServerResponse } from "node:http";
import { afterEach, describe, expect, test, vi } from "vitest";
import { readSafetensorsHeader } from "../../src/checkpoints/safetensors.js";
import { AbortError, FormatError, NetworkError, OctavoError } from "../../src/core/errors.js";
import type { HttpSource } from "../../src/sources/http.js";
import { readJsonFile } from "../../src/sources/json.js";
import { CHUNK_BYTES } from "../../src/sources/range-cache.js";
import { readJsonObject, readText } from "../../src/tokenizer/json-file.js";
import { bytes } from "../support/random.js";
import { MemoryCache } from "../support/range-cache.js";
import { etagOf } from "../support/server.js";
import { open, rangeOf, read, serve, server, withSource } from "../support/source-server.js";
import { failure } from "../support/source-tools.js";

const JSON_FILE = Buffer.from('{"a":1}');
const TWO = Buffer.from(bytes(3, 2 * CHUNK_BYTES + 77));

afterEach(() => {
  server.reset();
  vi.restoreAllMocks();
});

/** Short, because most of these tests wait for it; long enough for a busy machine. */
const SHORT = 0.6;
/** Longer than a test may take. */
const LONG = 3600;

const same = (a: Buffer, b: Buffer) => expect(a.equals(b), "the bytes of the file").toBe(true);

function misbehaves(how: () => void): true {
  how();
  return true;
}

/** Sends the wanted range as the server would, with other headers. */
function sendRange(request: IncomingMessage, response: ServerResponse, body: Buffer, headers: object): true {
  const [start, asked] = rangeOf(request);
  const end = Math.min(asked, body.length);
  response.writeHead(206, {
    "Content-Range": `bytes ${start}-${end - 1}/${body.length}`,
    "Content-Length": end - start,
    ETag: etagOf(body),
    ...headers,
  });
  response.end(body.subarray(start, end));
  return true;
}

describe("sizes that are claimed", () => {
  const CLAIMS = ["1000000000000", "1000000000000000", "9007199254740991", "9007199254740993", "9".repeat(30)];
  const WAYS: Record<string, (response: ServerResponse, body: Buffer, claim: string) => void> = {
    "Content-Length": (response, body, claim) => {
      // Node refuses to write less than it says; the socket does not.
      response.socket!.end(`HTTP/1.1 200 OK\r\nContent-Length: ${claim}\r\n\r\n${body.toString("latin1")}`, "latin1");
    },
    "Content-Range": (response, body, claim) => {
      const range = { "Content-Range": `bytes 0-${body.length - 1}/${claim}`, "Content-Length": body.length };
      response.writeHead(206, range).end(body);
    },
    "an unsatisfied range": (response, _, claim) => {
      response.writeHead(416, { "Content-Range": `bytes */${claim}` }).end();
    },
  };
  const READERS: Record<string, (source: HttpSource, file: string) => Promise<unknown>> = {
    "config.json": (source, file) => readJsonFile(source, file),
    "tokenizer.json": (source, file) => readJsonObject(source, file),
    "chat_template.jinja": (source, file) => readText(source, file),
    "model.safetensors": (source, file) => readSafetensorsHeader(source, file),
  };
  for (const [way, send] of Object.entries(WAYS)) {
    for (const [name, reader] of Object.entries(READERS)) {
      test(`${way} of ${name}`, async () => {
        serve(name, JSON_FILE);
        for (const claim of CLAIMS) {
          server.misbehave = (_, response, body) => misbehaves(() => send(response, body!, claim));
          for (const cache of [undefined, new MemoryCache()]) {
            const source = { timeout: SHORT, cache };
            const error = await failure(() => withSource(source, (from) => reader(from, from.path(name))));
            expect(error, claim).toBeInstanceOf(OctavoError);
            expect(["ERR_FORMAT", "ERR_NETWORK"], claim).toContain((error as OctavoError).code);
          }
        }
      });
    }
  }

  test("a whole body without a size, and without an end", async () => {
    const piece = Buffer.alloc(CHUNK_BYTES, 32);
    server.misbehave = (_, response) => {
      response.writeHead(200);
      const more = (): void => void response.write(piece, (error) => !error && more());
      more();
      return true;
    };
    const error = await failure(() => withSource({}, (source) => readJsonFile(source, source.path("config.json"))));
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("neither ranges nor the size");
  });

  test("a range without an end: only what was asked for is taken", async () => {
    serve("two", TWO);
    let open = 0;
    server.misbehave = (request, response, body) => {
      const [start, end] = rangeOf(request);
      const range = `bytes ${start}-${Math.min(end, body!.length) - 1}/${body!.length}`;
      response.writeHead(206, { "Content-Range": range, ETag: etagOf(body!) });
      open++;
      response.on("close", () => open--);
      response.write(body!.subarray(start, end));
      const more = (): void => void response.write(TWO, (error) => !error && more());
      more();
      return true;
    };
    await withSource({}, async (source) => {
      same(await read(source, "two"), TWO);
      expect(source.network).toBe(TWO.length);
      await vi.waitFor(() => expect(open).toBe(0));
    });
    const cache = new MemoryCache();
    await withSource({ cache }, (source) => read(source, "two"));
    await withSource({ cache }, async (source) => same(await read(source, "two"), TWO));
  });

  test("more bytes than memory has", async () => {
    const head = Buffer.from(bytes(1, 100));
    serve("model.safetensors", head);
    const total = 2 ** 39;
    server.misbehave = (request, response, body) =>
      sendRange(request, response, body!, { "Content-Range": `bytes 0-${body!.length - 1}/${total}` });
    await withSource({ timeout: SHORT }, async (source) => {
      const file = await open(source, "model.safetensors");
      expect(await failure(() => file.read(0, total))).toMatchObject({ code: "ERR_OUT_OF_MEMORY" });
    });
  });
});

describe("headers that contradict", () => {
  test.each<[string, object]>([
    ["the start", { "Content-Range": `bytes 1-${CHUNK_BYTES}/${TWO.length}` }],
    ["the end", { "Content-Range": `bytes 0-${TWO.length}/${TWO.length}` }],
    ["start and end", { "Content-Range": `bytes 0--1/${TWO.length}` }],
    ["the unit", { "Content-Range": `lines 0-5/${TWO.length}` }],
    ["one range", { "Content-Type": "multipart/byteranges; boundary=x" }],
    ["bytes as they are", { "Content-Encoding": "gzip" }],
  ])("%s", async (_, headers) => {
    serve("two", TWO);
    server.misbehave = (request, response, body) => sendRange(request, response, body!, headers);
    const error = await failure(() => withSource({ timeout: SHORT }, (source) => read(source, "two")));
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toMatch(/asked for/);
  });

  test.each([204, 205, 304])("no content: %i", async (status) => {
    server.misbehave = (_, response) => !!response.writeHead(status).end();
    const error = await failure(() => withSource({ timeout: SHORT }, (source) => read(source, "two")));
    expect(error).toMatchObject({ code: "ERR_NETWORK", details: { status } });
  });
});

describe("standing still", () => {
  const drip = (response: ServerResponse, ms: number): void => {
    const timer = setInterval(() => response.write("x"), ms);
    response.on("close", () => clearInterval(timer));
  };
  const WAYS: Record<string, (request: IncomingMessage, response: ServerResponse, body: Buffer) => void> = {
    "no answer": () => {},
    "a head and no body": (_, response, body) =>
      response.writeHead(200, { "Content-Length": body.length }).flushHeaders(),
    "half a body": (_, response, body) => {
      response.writeHead(200, { "Content-Length": body.length }).write(body.subarray(0, 3));
    },
    "half a range": (request, response, body) => {
      const [start, asked] = rangeOf(request);
      const end = Math.min(asked, body.length);
      const range = { "Content-Range": `bytes ${start}-${end - 1}/${body.length}`, "Content-Length": end - start };
      response.writeHead(206, { ...range, ETag: etagOf(body) }).write(body.subarray(start, start + 3));
    },
    "bytes that drip": (_, response) => drip(response.writeHead(200, { "Content-Length": 1_000_000 }), 50),
    "bytes that drip without a size": (_, response) => drip(response.writeHead(200), 50),
    "no answer to HEAD": (request, response, body) => {
      if (request.method !== "HEAD") response.writeHead(206).end(body.subarray(...rangeOf(request)));
    },
  };
  for (const [way, send] of Object.entries(WAYS)) {
    test(way, async () => {
      serve("config.json", JSON_FILE);
      server.misbehave = (request, response, body) => misbehaves(() => send(request, response, body!));
      const load = () => withSource({ timeout: SHORT }, (source) => readJsonFile(source, source.path("config.json")));
      const error = await failure(load);
      expect(error).toBeInstanceOf(NetworkError);
      expect(error).toMatchObject({ details: { timeout: SHORT } });
      expect(String(error)).toMatch(/the server sent (nothing|only \d+ bytes) for 0.6 s/);
    });

    test(`${way}, and the signal ends it at once`, async () => {
      serve("config.json", JSON_FILE);
      server.misbehave = (request, response, body) => misbehaves(() => send(request, response, body!));
      const controller = new AbortController();
      setTimeout(() => controller.abort(new Error("enough")), 60);
      const options = { timeout: LONG, signal: controller.signal };
      const load = () => withSource(options, (source) => readJsonFile(source, source.path("config.json")));
      expect(await failure(load)).toBeInstanceOf(AbortError);
    });
  }

  test("for a moment, in the middle of a file: the rest is asked for", async () => {
    serve("two", TWO);
    let times = 0;
    server.misbehave = (request, response, body) => {
      const [start, asked] = rangeOf(request);
      if (start === 0 || times++ > 0) return false;
      const end = Math.min(asked, body!.length);
      const range = { "Content-Range": `bytes ${start}-${end - 1}/${body!.length}`, "Content-Length": end - start };
      response.writeHead(206, { ...range, ETag: etagOf(body!) }).write(body!.subarray(start, start + 5000));
      return true;
    };
    await withSource({ timeout: SHORT }, async (source) => same(await read(source, "two"), TWO));
    expect(times).toBe(2);
  });

  test("a thread that was busy for longer than the limit has missed nothing", async () => {
    serve("config.json", JSON_FILE);
    let answer: (() => void) | undefined;
    server.misbehave = (_, response, body) => {
      answer = () => response.writeHead(200, { "Content-Length": body!.length }).end(body);
      return true;
    };
    await withSource({ timeout: SHORT }, async (source) => {
      const loading = readJsonFile(source, source.path("config.json"));
      await vi.waitFor(() => expect(answer).toBeDefined());
      const end = performance.now() + 2000 * SHORT;
      while (performance.now() < end);
      answer!();
      expect(await loading).toEqual({ a: 1 });
    });
  });

  test("a reader that takes its time is not the server's silence", async () => {
    const large = Buffer.alloc(70 * CHUNK_BYTES, 7);
    serve("large", large);
    server.ranges = false;
    await withSource({ timeout: SHORT }, async (source) => {
      const file = await open(source, "large");
      await file.read(0, 10, { onward: true });
      await new Promise((resolve) => setTimeout(resolve, 2000 * SHORT));
      expect((await file.read(large.length - 1, 1, { onward: true }))[0]).toBe(7);
      expect(server.asked.length).toBe(1);
    });
  });
});

describe("parts of one file are of one version", () => {
  const OTHER = Buffer.from(TWO).fill(9);
  /** The validator of the first answer, then another one. */
  const changing = (validators: object[]) => {
    let times = 0;
    server.misbehave = (request, response, body) =>
      sendRange(request, response, body!, { ETag: "", ...validators[Math.min(times++, validators.length - 1)] });
  };
  const expectChanged = async (work: () => Promise<unknown>) => {
    const error = await failure(work);
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("changed on the server");
  };
  const readTwo = () => withSource({ timeout: SHORT }, (source) => read(source, "two"));

  test.each<[string, object[]]>([
    ["etags", [{ ETag: '"a"' }, { ETag: '"b"' }]],
    ["an etag that goes", [{ ETag: '"a"' }, {}]],
    ["an etag that comes", [{}, { ETag: '"b"' }]],
    [
      "dates",
      [{ "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT" }, { "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT" }],
    ],
    ["sizes", [{}, { "Content-Range": `bytes ${CHUNK_BYTES}-${TWO.length - 1}/${TWO.length + 1}` }]],
  ])("%s", async (_, validators) => {
    serve("two", TWO);
    changing(validators);
    await expectChanged(readTwo);
  });

  test("of GET and HEAD", async () => {
    serve("two", TWO);
    server.misbehave = (request, response, body) => {
      if (request.method === "HEAD") response.writeHead(200, { "Content-Length": body!.length, ETag: '"b"' }).end();
      else response.writeHead(206, { ETag: '"a"' }).end(body!.subarray(...rangeOf(request)));
      return true;
    };
    await expectChanged(readTwo);
  });

  test("of a range and a whole file", async () => {
    serve("two", TWO);
    server.misbehave = (request, response) =>
      rangeOf(request)[0] > 0 && !!response.writeHead(200, { ETag: '"b"', "Content-Length": OTHER.length }).end(OTHER);
    await expectChanged(readTwo);
    server.misbehave = (request, response) =>
      rangeOf(request)[0] > 0 &&
      !!response.writeHead(200, { ETag: etagOf(TWO), "Content-Length": TWO.length }).end(TWO);
    await withSource({}, async (source) => same(await read(source, "two"), TWO));
  });

  test("of whole files, where the rest of one that broke off is asked for", async () => {
    const large = Buffer.alloc(66 * CHUNK_BYTES, 7);
    serve("large", large);
    let times = 0;
    server.misbehave = (_, response, body) => {
      const headers = { "Content-Length": body!.length, ETag: `"${times++}"` };
      response.writeHead(200, headers).write(body!.subarray(0, 3 * CHUNK_BYTES), () => response.destroy());
      return true;
    };
    await expectChanged(() => withSource({}, async (source) => (await open(source, "large")).read(0, large.length)));
  });

  test("of what is cached and what comes", async () => {
    const cache = new MemoryCache();
    serve("two", TWO);
    await withSource({ cache }, async (source) => (await open(source, "two")).read(0, 5));
    await withSource({ cache }, async (source) => {
      const file = await open(source, "two"); // it has asked whether the file is the same
      server.misbehave = (request, response) => sendRange(request, response, OTHER, {});
      await expectChanged(() => file.read(0, file.size));
    });
  });

  test("a part in the cache is not completed if nothing says of which version it is; a whole is used", async () => {
    const cache = new MemoryCache();
    changing([{}]);
    serve("two", TWO);
    await withSource({ cache }, async (source) => (await open(source, "two")).read(0, 5));
    serve("two", OTHER);
    await withSource({ cache }, async (source) => same(await read(source, "two"), OTHER));
    await withSource({ cache }, async (source) => {
      same(await read(source, "two"), OTHER);
      expect(source.network).toBe(0);
    });
  });
});

describe("few connections and no ranges", () => {
  const LARGE = ["a", "b", "c"].map((_, i) => Buffer.alloc(66 * CHUNK_BYTES, i + 1));
  const prepare = () => {
    server.ranges = false;
    server.connections = 1;
    for (const [i, body] of LARGE.entries()) serve("abc"[i]!, body);
    serve("config.json", JSON_FILE);
  };

  test("headers of several files, then a small file, then all of the first", async () => {
    prepare();
    await withSource({ timeout: LONG }, async (source) => {
      const heads = await Promise.all(
        [..."abc"].map(async (name) => {
          const file = await open(source, name);
          const head = await file.read(3, 1);
          await file.close();
          return head[0];
        }),
      );
      expect(heads).toEqual([1, 2, 3]);
      same(await read(source, "config.json"), JSON_FILE);
      const file = await open(source, "a");
      for (let at = 0; at < file.size; at += 8 * CHUNK_BYTES) {
        const count = Math.min(8 * CHUNK_BYTES, file.size - at);
        const got = Buffer.from(await file.read(at, count, { onward: true }));
        same(got, LARGE[0]!.subarray(at, at + count));
      }
    });
  });

  test("a stream that waits for its reader gives way, and goes on later", async () => {
    prepare();
    await withSource({ timeout: 6 }, async (source) => {
      const a = await open(source, "a");
      expect((await a.read(0, 1, { onward: true }))[0]).toBe(1);
      const b = await open(source, "b");
      expect((await b.read(50 * CHUNK_BYTES, 1, { onward: true }))[0]).toBe(2);
      expect((await a.read(60 * CHUNK_BYTES, 1, { onward: true }))[0]).toBe(1);
    });
  });

  test("a server that still does not answer is one without ranges", async () => {
    prepare();
    await withSource({ timeout: SHORT }, async (source) => {
      await (await open(source, "a")).read(0, 1, { onward: true });
      server.misbehave = () => true;
      const error = await failure(() => open(source, "b"));
      expect(error).toBeInstanceOf(NetworkError);
      expect(String(error)).toContain("gives no ranges");
      expect(error).toMatchObject({ hint: expect.stringContaining("Range") });
    });
  });
});
