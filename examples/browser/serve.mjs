// A static server for the example: byte ranges, etags, and the headers that isolate a page (for threads in WebAssembly).
// For trying things out on this machine; any server that answers Range requests serves as well.
//
//   node examples/browser/serve.mjs [--build [--no-wasm]] [--port 8080] [folder]
//
// --build prepares this checkout and builds the page, with the WASM modules: browsers without WebGPU need them, and so does
// every browser on a machine without a GPU. --no-wasm does without.

import { spawnSync } from "node:child_process";
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize, resolve, sep } from "node:path";
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

/**
 * Ends this process with one line.
 * @param {string} message
 * @param {number} code
 * @returns {never}
 */
function fail(message, code) {
  process.stderr.write(`error: ${message}\n`);
  process.exit(code);
}

/** What the command line says; wrong usage ends the process. */
function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      options: {
        build: { type: "boolean", default: false },
        "no-wasm": { type: "boolean", default: false },
        port: { type: "string", default: "8080" },
      },
      allowPositionals: true,
    });
    if (positionals.length > 1) fail("one folder can be served, not several", 2);
    const port = Number(values.port);
    if (!/^\d+$/.test(values.port) || port > 65535) fail(`--port must be a number up to 65535, got ${values.port}`, 2);
    return { build: values.build, wasm: !values["no-wasm"], port, folder: positionals[0] };
  } catch (error) {
    return fail(error.message, 2);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = readArguments();
  const here = dirname(fileURLToPath(import.meta.url));
  if (wanted.build) {
    const { build, describe, missingModules } = await import("./build.mjs");
    const [missing] = missingModules();
    if (wanted.wasm && missing) {
      const how = "make it with `npm run build:wasm`, or do without (browsers with WebGPU and a GPU alone): --no-wasm";
      fail(`there is no build/${missing}, which the page needs where there is no GPU; ${how}`, 1);
    }
    const { status } = spawnSync(process.execPath, [join(here, "..", "..", "scripts", "setup.mjs")], {
      stdio: "inherit",
    });
    if (status !== 0) process.exit(status ?? 1);
    console.log(describe(await build()));
  }
  const folder = resolve(wanted.folder ?? join(here, "dist"));
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    fail(`there is no folder ${folder}${wanted.folder ? "" : "; --build makes it"}`, 2);
  }
  const server = createServer((request, response) => serveFile(folder, request, response));
  server.on("error", (error) => {
    const taken = error.code === "EADDRINUSE" ? `port ${wanted.port} is in use; choose another with --port` : "";
    fail(taken || error.message, 1);
  });
  server.listen(wanted.port, "127.0.0.1", () => {
    console.log(`http://localhost:${server.address().port}/ serves ${folder} (Ctrl+C ends it)`);
  });
}
