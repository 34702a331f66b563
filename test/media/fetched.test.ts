// Files on servers that are hostile, or away.

import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { FormatError, NetworkError, NotFoundError } from "../../src/core/errors.js";
import { fetched } from "../../src/media/fetched.js";

async function from(listener: RequestListener, limits = { timeout: 0.3, most: 1000 }): Promise<unknown> {
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
      answer.write(Buffer.alloc(50, left--));
      if (left > 0) return;
      clearInterval(timer);
      answer.end();
    }, 50);
  });
  expect(steady).toEqual(Uint8Array.from({ length: 500 }, (_, i) => 10 - Math.floor(i / 50)));
});

test("a server that says nothing, before and within a file", async () => {
  for (const begun of [false, true]) {
    const error = await from((_, answer) => void (begun && answer.write("RIFF")));
    expect(error).toBeInstanceOf(NetworkError);
    expect(String(error)).toContain("the server sent nothing for 0.3 s");
  }
});

test("a server that drips", async () => {
  const error = await from((_, answer) => {
    const timer = setInterval(() => answer.write("x"), 50);
    answer.on("close", () => clearInterval(timer));
  });
  expect(error).toBeInstanceOf(NetworkError);
  expect(String(error)).toMatch(/the server sent only \d bytes for 0\.3 s/);
});

test("a page in place of a file, and a file that is not there", async () => {
  const page = await from((_, answer) => void answer.writeHead(200, { "content-type": "text/html" }).end("<p>"));
  expect(page).toBeInstanceOf(FormatError);
  expect(await from((_, answer) => void answer.writeHead(404).end())).toBeInstanceOf(NotFoundError);
});

test("a file without an end, and a claim of a terabyte", async () => {
  const endless = await from((_, answer) => {
    const go = (): void => void (answer.writableEnded || (answer.write("x".repeat(100)) && setTimeout(go, 1)));
    go();
  });
  expect(endless).toBeInstanceOf(FormatError);
  expect(String(endless)).toContain("at most 1000 bytes");
  const claim = await from((_, answer) => void answer.writeHead(200, { "content-length": 1e12 }).write("x"));
  expect(claim).toBeInstanceOf(NetworkError);
});

test("one that refuses, and one that is away", async () => {
  expect(String(await from((_, answer) => void answer.writeHead(403).end()))).toContain(
    "does not let you read the file (403)",
  );
  const away = fetched("http://user:hunter2@127.0.0.1:1/a.png");
  await expect(away).rejects.toThrow(NetworkError);
  await expect(away).rejects.not.toThrow(/hunter2/);
});
