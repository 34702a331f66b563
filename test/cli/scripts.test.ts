// Scripts beside the command line: wrong usage is one line on stderr and exit code 2, not a stack trace.

import { createServer } from "node:net";
import { beforeAll, expect, it } from "vitest";
import { READY_TIMEOUT, ROOT, ready, run } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

it.each(["build-native", "build-wasm", "setup"])("scripts/%s.mjs says how it is used", async (name) => {
  for (const flag of ["--help", "-h"]) {
    const { code, stdout, stderr } = await run([`scripts/${name}.mjs`, flag]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(new RegExp(`^usage: node scripts/${name}\\.mjs .*--help`, "s"));
  }
  const { code, stdout, stderr } = await run([`scripts/${name}.mjs`, "--what"]);
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(/unknown option --what\n {2}hint: --help lists them\n$/);
});

it.each([
  ["examples/browser/serve.mjs", ["--port", "abc"], "--port must be a number up to 65535, got abc"],
  ["examples/browser/serve.mjs", ["--foo"], "Unknown option '--foo'"],
  ["examples/browser/serve.mjs", ["no/such/folder"], "there is no folder"],
  ["bench/gpu/main.mjs", ["--shape", "Q"], 'unknown shape "Q"'],
  ["bench/gpu/main.mjs", ["--seconds", "abc"], "--seconds must be a number above 0, got abc"],
  ["bench/gpu/main.mjs", ["--storages", "int9"], 'unknown storage "int9"'],
  ["bench/gpu/main.mjs", ["--foo"], "Unknown option '--foo'"],
])("%s refuses %j", async (script, args, words) => {
  const { code, stdout, stderr } = await run([script, ...args]);
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toMatch(/^error: .*\n$/);
  expect(stderr).toContain(words);
});

it("the example's server says that a port is taken", async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = server.address() as { port: number };
    const { code, stderr } = await run(["examples/browser/serve.mjs", "--port", String(port), "examples"]);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `error: port ${port} is in use; choose another with --port\n`,
    });
  } finally {
    server.close();
  }
});

it("bench/pairs.mjs runs the engine of bench:peers in two checkouts", async () => {
  const sizes = ["--shape", "tiny", "--pairs", "1", "--compare", "bf16,int8", "--dir", temporary("peers")];
  const { code, stdout, stderr } = await run(["bench/pairs.mjs", ROOT, ...sizes]);
  expect({ code, stderr }).toMatchObject({ code: 0 });
  const lines = stdout.trim().split("\n");
  expect(lines.length).toBe(8);
  for (const line of lines) expect(line).toMatch(/^(bf16|int8) +(decode|prefill).* tokens\/s; ratio \d+\.\d+ /);
});
