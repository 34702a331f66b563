// Files behind servers: pieces by range, what is kept and resumed, and every way in which a server can disappoint.

import { beforeEach, describe, expect, test, vi } from "vitest";
import { AbortError, FormatError, NetworkError, NotFoundError } from "../../src/core/errors.js";
import { HttpSource } from "../../src/sources/http.js";
import { CHUNK_BYTES } from "../../src/sources/range-cache.js";
import type { SourceFile } from "../../src/sources/source.js";
import { bytes } from "../support/random.js";
import { MemoryCache } from "../support/range-cache.js";
import { etagOf, FileServer } from "../support/server.js";
import { open, server, withSource } from "../support/source-server.js";
import { failure } from "../support/source-tools.js";

/** Ten requests of eight pieces and a ragged end. */
const WORDS = Uint32Array.from({ length: 20 * CHUNK_BYTES + 1081 }, (_, i) => Math.imul(i, 0x9e3779b1));
const LARGE = Buffer.from(WORDS.buffer, 0, 80 * CHUNK_BYTES + 4321);
const SMALL = Buffer.from(bytes(2, 5000));

beforeEach(() => {
  server.reset();
  server.files.set("/m/large", LARGE).set("/m/small", SMALL).set("/m/empty", Buffer.alloc(0));
});

/** Reads a file from end to end in steps, as a checkpoint is read. */
async function readAll(file: SourceFile, step = 3_000_017): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < file.size; at += step) {
    parts.push(await file.read(at, Math.min(step, file.size - at), { onward: true }));
  }
  return Buffer.concat(parts);
}

const same = (a: Buffer, b: Buffer) => expect(a.equals(b), "the bytes of the file").toBe(true);

describe("addresses", () => {
  test("a name becomes one part of the path, and comes back", () => {
    const source = new HttpSource("https://host/m");
    expect(source.path("sub/a b#1?.json")).toBe("https://host/m/sub/a%20b%231%3F.json");
    expect(source.name(source.path("sub/a b#1?.json"))).toBe("sub/a b#1?.json");
  });
});

describe("reading", () => {
  test("from end to end: a small first request, then eight pieces each, several in flight", async () => {
    await withSource({}, async (source) => {
      same(await readAll(await open(source, "large")), LARGE);
      expect(source.network).toBe(LARGE.length);
      expect(server.asked.length).toBe(12);
      expect(server.asked[0]!.range).toBe(`bytes=0-${CHUNK_BYTES - 1}`);
      await withSource({}, async (other) => {
        const file = await open(other, "large");
        server.asked.length = 0;
        await file.read(0, 10, { onward: true });
        await vi.waitFor(() => expect(server.asked.length).toBeGreaterThan(2), { timeout: 30_000 });
      });
    });
  });

  test("anywhere, backwards, across pieces and not at all", async () => {
    await withSource({}, async (source) => {
      const file = await open(source, "large");
      for (const [at, count] of [
        [LARGE.length - 5, 5],
        [0, 0],
        [CHUNK_BYTES - 3, 7],
        [17, 2 * CHUNK_BYTES + 9],
        [40 * CHUNK_BYTES, 1],
      ] as const) {
        same(Buffer.from(await file.read(at, count)), LARGE.subarray(at, at + count));
      }
      expect(await failure(() => file.read(LARGE.length - 5, 6))).toBeInstanceOf(FormatError);
    });
  });

  test("an empty file, and one that is not there", async () => {
    await withSource({}, async (source) => {
      expect((await open(source, "empty")).size).toBe(0);
      expect(await failure(() => open(source, "none"))).toBeInstanceOf(NotFoundError);
      expect([...(await source.names(["small", "none", "empty"]))]).toEqual(["small", "empty"]);
    });
  });

  test("a server that ignores ranges: small files are held, large ones are one stream", async () => {
    server.ranges = false;
    await withSource({}, async (source) => {
      same(Buffer.from(await (await open(source, "small")).read(0, SMALL.length)), SMALL);
      const file = await open(source, "large");
      same(await readAll(file), LARGE);
      expect(server.asked.length).toBe(2);
      // What the stream has passed is asked for again.
      same(Buffer.from(await file.read(5, 100)), LARGE.subarray(5, 105));
    });
  });

  test("a stream waits for its reader: memory stays bounded", async () => {
    server.ranges = false;
    await withSource({}, async (source) => {
      const file = await open(source, "large");
      await file.read(0, 10, { onward: true });
      await new Promise((resolve) => setTimeout(resolve, 150));
      // 24 pieces ahead, one on the way, and what sockets hold.
      expect(source.network).toBeLessThan(40 * CHUNK_BYTES);
      same(await readAll(file), LARGE);
    });
  });

  test("a server that hides Content-Range is asked with HEAD; one that says no size at all is an error", async () => {
    const hide = (size: boolean) =>
      (server.misbehave = (request, response, body) => {
        if (request.method === "HEAD") {
          response.writeHead(200, size ? { "Content-Length": body!.length } : { "Transfer-Encoding": "chunked" }).end();
        } else response.writeHead(206).end(body!.subarray(0, CHUNK_BYTES));
        return true;
      });
    hide(true);
    await withSource({}, async (source) => expect((await open(source, "small")).size).toBe(SMALL.length));
    hide(false);
    await withSource({}, async (source) => {
      expect(await failure(() => open(source, "small"))).toMatchObject({ code: "ERR_NETWORK", hint: /Content-Range/ });
    });
  });

  test("the token goes along", async () => {
    await withSource({ token: "secret" }, async (source) => void (await open(source, "small")));
    expect(server.asked[0]!.authorization).toBe("Bearer secret");
  });
});

describe("a server that", () => {
  test.each([
    [401, NetworkError, /token/],
    [403, NetworkError, /token/],
    [404, NotFoundError, /config.json/],
    [418, NetworkError, undefined],
  ])("answers %i", async (status, Class, hint) => {
    server.misbehave = (_, response) => !!response.writeHead(status).end();
    const error = await failure(() => withSource({}, (source) => open(source, "small")));
    expect(error).toBeInstanceOf(Class);
    expect(error).toMatchObject({ details: { status, url: `${server.address}/m/small` } });
    if (hint) expect((error as NetworkError).hint).toMatch(hint);
  });

  test("is in trouble for a moment is asked again; for longer is an error", async () => {
    let times = 0;
    server.misbehave = (_, response) => ++times <= 2 && !!response.writeHead(503).end();
    await withSource({}, async (source) => expect((await open(source, "small")).size).toBe(SMALL.length));
    server.misbehave = (_, response) => !!response.writeHead(503).end();
    const error = await failure(() => withSource({}, (source) => open(source, "small")));
    expect(error).toMatchObject({ code: "ERR_NETWORK", details: { status: 503 }, hint: /later/ });
  });

  test("answers with a page", async () => {
    server.misbehave = (_, response) =>
      !!response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end("<!doctype html>");
    const error = await failure(() => withSource({}, (source) => open(source, "small")));
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("HTML page");
    await withSource({}, async (source) => expect((await source.names(["small"])).size).toBe(0));
  });

  /** Sends `count` bytes of what was asked after the first piece and breaks the connection, as long as `often` says. */
  const breakOff = (count: number, often: () => boolean) => {
    server.misbehave = (request, response, body) => {
      const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range!)!.map(Number) as [
        number,
        number,
        number,
      ];
      if (start === 0 || !often()) return false;
      response.writeHead(206, {
        "Content-Length": end + 1 - start,
        "Content-Range": `bytes ${start}-${end}/${body!.length}`,
        ETag: etagOf(body!),
      });
      response.write(body!.subarray(start, start + count), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
  };

  test("breaks off in the middle is asked for the rest", async () => {
    let breaks = 0;
    breakOff(1_500_000, () => ++breaks <= 4);
    await withSource({}, async (source) => same(await readAll(await open(source, "large")), LARGE));
    expect(server.asked.length).toBe(16);
  });

  test("breaks off every time is an error that says where it ended", async () => {
    breakOff(0, () => true);
    await withSource({}, async (source) => {
      const file = await open(source, "large");
      const error = await failure(() => file.read(CHUNK_BYTES + 1, 10));
      expect(error).toMatchObject({ code: "ERR_NETWORK", details: { url: file.path } });
      expect(server.asked.length).toBe(5); // the first piece, and four attempts
    });
  });

  test("sends less than it promised, in one piece", async () => {
    server.ranges = false;
    server.misbehave = (_, response, body) => {
      response.writeHead(200, { "Content-Length": body!.length });
      response.write(body!.subarray(0, 100), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    expect(await failure(() => withSource({}, (source) => open(source, "small")))).toBeInstanceOf(NetworkError);
  });

  test("has another file in the middle", async () => {
    await withSource({}, async (source) => {
      const file = await open(source, "large");
      const other = Buffer.from(LARGE);
      other[other.length - 1]! ^= 1;
      server.files.set("/m/large", other);
      const error = await failure(() => file.read(60 * CHUNK_BYTES, 10));
      expect(error).toBeInstanceOf(FormatError);
      expect(String(error)).toContain("changed on the server");
      server.files.set("/m/large", LARGE.subarray(0, 5));
      expect(String(await failure(() => file.read(60 * CHUNK_BYTES, 10)))).toContain("changed on the server");
    });
  });
});

describe("aborting", () => {
  test("before, and in the middle", async () => {
    const controller = new AbortController();
    await withSource({ signal: controller.signal }, async (source) => {
      const file = await open(source, "large");
      server.misbehave = () => true; // never answers
      const reading = failure(() => file.read(30 * CHUNK_BYTES, 10));
      setTimeout(() => controller.abort(new Error("enough")), 30);
      expect(await reading).toBeInstanceOf(AbortError);
      expect(await failure(() => open(source, "small"))).toBeInstanceOf(AbortError);
    });
  });
});

describe("a cache", () => {
  test("serves the second load; one byte is asked for, to learn whether the file is the same", async () => {
    const cache = new MemoryCache();
    await withSource({ cache }, async (source) => same(await readAll(await open(source, "large")), LARGE));
    server.asked.length = 0;
    await withSource({ cache }, async (source) => {
      same(await readAll(await open(source, "large")), LARGE);
      expect(source.network).toBe(0);
    });
    expect(server.asked.map(({ range }) => range)).toEqual(["bytes=0-0"]);
  });

  test("keeps what came before an abort, and the next load asks for the rest", async () => {
    const cache = new MemoryCache();
    const controller = new AbortController();
    await withSource({ cache, signal: controller.signal }, async (source) => {
      const file = await open(source, "large");
      await file.read(0, 12 * CHUNK_BYTES, { onward: true });
      controller.abort();
    });
    const { pieces } = cache.files.get(`${server.address}/m/large`)!;
    const kept = pieces.size;
    expect(kept).toBeGreaterThanOrEqual(12);
    await withSource({ cache }, async (source) => {
      same(await readAll(await open(source, "large")), LARGE);
      expect(source.network).toBe(LARGE.length - kept * CHUNK_BYTES);
    });
  });

  test("forgets a file that is another one now", async () => {
    const cache = new MemoryCache();
    await withSource({ cache }, async (source) => void (await readAll(await open(source, "small"))));
    const other = Buffer.from(SMALL).fill(7, 0, 10);
    server.files.set("/m/small", other);
    await withSource({ cache }, async (source) => same(await readAll(await open(source, "small")), other));
  });

  test("that is full does not end the load, and says so once", async () => {
    const cache = new MemoryCache();
    cache.full = 5;
    const warnings: string[] = [];
    await withSource({ cache, warn: (message) => warnings.push(message) }, async (source) =>
      same(await readAll(await open(source, "large")), LARGE),
    );
    expect(warnings).toEqual([expect.stringContaining("storage is full")]);
    expect(cache.files.get(`${server.address}/m/large`)!.pieces.size).toBe(5);
  });

  test("serves when the server is away, and says so", async () => {
    const cache = new MemoryCache();
    const away = await new FileServer().start();
    away.files.set("/m/large", LARGE);
    const warnings: string[] = [];
    const { address } = away;
    const load = async () => {
      const source = new HttpSource(`${address}/m`, { cache, warn: (message) => warnings.push(message) });
      same(await readAll(await open(source, "large")), LARGE);
      await source.close();
    };
    await load();
    expect(warnings).toEqual([]);
    await away.stop();
    await load();
    expect(warnings).toEqual([expect.stringContaining("cannot be reached")]);
  });

  test("whose pieces cannot be read is passed over", async () => {
    const cache = new MemoryCache();
    await withSource({ cache }, async (source) => void (await readAll(await open(source, "large"))));
    const { pieces } = cache.files.get(`${server.address}/m/large`)!;
    pieces.set(3, new Uint8Array(9));
    await withSource({ cache }, async (source) => {
      same(await readAll(await open(source, "large")), LARGE);
      expect(source.network).toBe(CHUNK_BYTES);
    });
  });
});
