// The parts of the example page that need no browser: errors in a reader's words, and how far two texts agree.

import { expect, test } from "vitest";
import { agreement, cut } from "../../examples/browser/agreement.js";
import { explain } from "../../examples/browser/errors.js";
import { DeviceError, NetworkError, NotFoundError, OptionError, OutOfMemoryError } from "../../src/core/errors.js";
import { unreachable } from "../../src/sources/http-errors.js";

const PLACE = { origin: "http://localhost:8080", online: true };
const OWN = "http://localhost:8080/models/storyteller/config.json";
const FOREIGN = "https://hub.example/org/name/resolve/main/config.json";
const WASM = "http://localhost:8080/octavo.wasm";

test.each<[string, unknown, string, string | undefined]>([
  [
    "the page's own server has gone",
    unreachable(OWN, new TypeError("Failed to fetch"), true),
    "The server of this page does not answer.",
    "See if it still runs",
  ],
  [
    "another server cannot be reached",
    unreachable(FOREIGN, new TypeError("Failed to fetch"), true),
    "https://hub.example/",
    "Access-Control-Allow-Origin",
  ],
  [
    "a gated model",
    new NetworkError("no", { details: { url: FOREIGN, status: 401 } }),
    "hub.example does not let this page read the model.",
    "Choose one that everybody may read",
  ],
  [
    "a busy server",
    new NetworkError("the server answered 503", { hint: "try again later", details: { url: OWN, status: 503 } }),
    "The server answered 503.",
    "Try again later.",
  ],
  [
    "no model there",
    new NotFoundError("no", { details: { url: OWN } }),
    "There is no model at http://localhost:8080/models/storyteller/",
    "config.json",
  ],
  [
    "a shard is not there",
    new NotFoundError("no such file", { details: { url: "http://localhost:8080/m/a.safetensors" } }),
    "No such file.",
    undefined,
  ],
  [
    "no WASM module",
    new DeviceError("x", { hint: "y", details: { url: WASM, status: 404 } }),
    "WebAssembly cannot be loaded:",
    "npm run build:wasm",
  ],
  [
    "a page in its place",
    new DeviceError("x", { details: { url: WASM, got: "an HTML page" } }),
    "WebAssembly cannot be loaded:",
    "npm run build:wasm",
  ],
  [
    "its server has gone",
    new DeviceError("x", { details: { url: WASM, got: "nothing" } }),
    "The server of this page does not answer.",
    "See if it still runs",
  ],
  [
    "the Worker is dead",
    new DeviceError("the Worker failed: no script"),
    "The part of this page that runs models has failed",
    "Reload the page.",
  ],
  [
    "another device's error",
    new DeviceError("webgpu: lost", { hint: "open a new device" }),
    "webgpu: lost.",
    "Open a new device.",
  ],
  ["too little memory", new OutOfMemoryError("no room", { hint: "load in 4 bits" }), "No room.", "Load in 4 bits."],
  [
    "a wrong option",
    new OptionError("seed must be a whole number, got 0.5"),
    "Seed must be a whole number, got 0.5.",
    undefined,
  ],
  ["an error of the platform", new TypeError("x is undefined"), "X is undefined.", undefined],
  ["no error at all", "just text", "Just text.", undefined],
])("explains: %s", (_, error, what, how) => {
  const said = explain(error, PLACE);
  expect(said.what).toContain(what);
  if (how === undefined) expect(said.how).toBeUndefined();
  else expect(said.how).toContain(how);
  expect(`${said.what} ${said.how}`).not.toMatch(/Error:|\n|\bhint\b/);
});

test("a browser without a connection says so, whoever was asked", () => {
  for (const url of [OWN, FOREIGN]) {
    const { what } = explain(unreachable(url, new TypeError("Failed to fetch"), true), { ...PLACE, online: false });
    expect(what).toBe("This browser is offline.");
  }
});

test("agreement counts the equal tokens at the beginning", () => {
  expect(agreement([1, 2, 3], [1, 2, 3])).toEqual({ equal: 3, of: 3, differs: undefined });
  expect(agreement([1, 2, 3], [1, 5, 3])).toEqual({ equal: 1, of: 3, differs: 1 });
  expect(agreement([1, 2], [1, 2, 3])).toEqual({ equal: 2, of: 3, differs: 2 });
  expect(agreement([1, 2, 3], [])).toEqual({ equal: 0, of: 3, differs: 0 });
  expect(agreement([], [])).toEqual({ equal: 0, of: 0, differs: undefined });
});

test("a text is cut at the token that differs, which may be a part of a character", () => {
  expect(cut(["a", " b", " c"], 1)).toEqual({ before: "a", token: " b", after: " c" });
  expect(cut(["a", "", "", "é", "x"], 1)).toEqual({ before: "a", token: "é", after: "x" });
  expect(cut(["a", "b"], 2)).toEqual({ before: "ab", token: "", after: "" });
  expect(cut([], 0)).toEqual({ before: "", token: "", after: "" });
});
