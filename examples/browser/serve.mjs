// A static server for the example: byte ranges, etags, and the headers that isolate a page (for threads in WebAssembly).
// For trying things out on this machine; any server that answers Range requests serves as well.
//
//   node examples/browser/serve.mjs [--build] [--port 8080] [folder]

import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize, sep } from "node:path";
import { pipeline } from "node:stream";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".map": "application/json",
  ".wasm": "application/wasm",
};

/** Headers that let a page share memory with its Workers. */
export const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

/** The first and last byte that a Range header asks for, "whole" without one, "none" if there are no such bytes. */
function rangeOf(header, size) {
  const range = /^bytes=(\d*)-(\d*)$/.exec(header ?? "");
  if (!range || (range[1] === "" && range[2] === "")) return "whole";
  const first = range[1] === "" ? Math.max(0, size - Number(range[2])) : Number(range[1]);
  const last = range[1] === "" || range[2] === "" ? size - 1 : Math.min(size - 1, Number(range[2]));
  return first > last ? "none" : [first, last];
}

/**
 * Answers one request from the files of a folder.
 * @param {string} folder
 * @param {import("node:http").IncomingMessage} request
 * @param {import("node:http").ServerResponse} response
 * @param {Record<string, string>} [always] headers of all answers
 */
export function serveFile(folder, request, response, always = ISOLATION) {
  let path = "";
  try {
    path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    if (path.includes("\0")) throw new URIError("no path holds a zero");
  } catch {
    response.writeHead(400, always).end();
    return;
  }
  const file = join(folder, normalize(path.endsWith("/") ? `${path}index.html` : path));
  const info = file.startsWith(folder + sep) ? statSync(file, { throwIfNoEntry: false }) : undefined;
  if (!info?.isFile()) {
    response.writeHead(404, { ...always, "Content-Type": "text/plain" }).end("not found\n");
    return;
  }
  const headers = {
    ...always,
    "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
    "Accept-Ranges": "bytes",
    "Cache-Control": "no-cache",
    ETag: `"${info.size.toString(16)}-${Math.floor(info.mtimeMs).toString(16)}"`,
  };
  const range = rangeOf(request.headers.range, info.size);
  if (range === "none") {
    response.writeHead(416, { ...headers, "Content-Range": `bytes */${info.size}` }).end();
    return;
  }
  const [start, end] = range === "whole" ? [0, info.size - 1] : range;
  headers["Content-Length"] = end - start + 1;
  if (range !== "whole") headers["Content-Range"] = `bytes ${start}-${end}/${info.size}`;
  response.writeHead(range === "whole" ? 200 : 206, headers);
  if (request.method === "HEAD" || info.size === 0) response.end();
  else pipeline(createReadStream(file, { start, end }), response, () => {}); // a page may go before it has all
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    options: { build: { type: "boolean" }, port: { type: "string", default: "8080" } },
    allowPositionals: true,
  });
  const here = dirname(fileURLToPath(import.meta.url));
  if (values.build) {
    const { build, describe } = await import("./build.mjs");
    console.log(describe(await build()));
  }
  const folder = positionals[0] ?? join(here, "dist");
  const server = createServer((request, response) => serveFile(folder, request, response));
  server.listen(Number(values.port), "127.0.0.1", () => {
    console.log(`http://localhost:${values.port}/ serves ${folder} (Ctrl+C ends it)`);
  });
}
