// Files on servers that are hostile, or away.

import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { FormatError, NetworkError } from "../../src/core/errors.js";
import { fetched } from "../../src/media/fetched.js";

async function from(listener: RequestListener, limits = { milliseconds: 300, bytes: 1000 }): Promise<unknown> {
  const server = createServer(listener);
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  try {
    return await fetched(`http://127.0.0.1:${(server.address() as AddressInfo).port}/a.wav?key=hunter2`, limits);
  } catch (error) {
    expect(String(error)).not.toContain("hunter2");
    return error;
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("the bytes, in pieces", async () => {
  const steady = await from((_, answer) => {
    let left = 10;
    const timer = setInterval(() => {
      answer.write(Buffer.of(left--));
      if (left > 0) return;
      clearInterval(timer);
      answer.end();
    }, 50);
  });
  expect(steady).toEqual(Uint8Array.of(10, 9, 8, 7, 6, 5, 4, 3, 2, 1));
});

test("a server that says nothing, before and within a file", async () => {
  for (const begun of [false, true]) {
    const error = await from((_, answer) => void (begun && answer.write("RIFF")));
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toContain("the server said nothing for 0.3 s");
  }
});

test("a file without an end, and a claim of a terabyte", async () => {
  const endless = await from((_, answer) => {
    const go = (): void => void (answer.writableEnded || (answer.write("x".repeat(100)) && setTimeout(go, 1)));
    go();
  });
  expect(endless).toBeInstanceOf(FormatError);
  expect(String(endless)).toContain("more than 1000 bytes");
  const claim = await from((_, answer) => void answer.writeHead(200, { "content-length": 1e12 }).write("x"));
  expect(claim).toBeInstanceOf(NetworkError);
});

test("one that refuses, and one that is away", async () => {
  expect(String(await from((_, answer) => void answer.writeHead(403).end()))).toContain("the server answered 403");
  const away = fetched("http://user:hunter2@127.0.0.1:1/a.png");
  await expect(away).rejects.toThrow(NetworkError);
  await expect(away).rejects.not.toThrow(/hunter2/);
});
