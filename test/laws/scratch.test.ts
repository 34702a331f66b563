// Law: a prompt takes the memory of one piece beside weights and cache, whatever its length. Read from outside: the
// resident memory of a process that runs the built library (bench/scratch.mjs prints the same for any shape).

import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { READY_TIMEOUT, ready, run } from "../support/cli.js";

const why = !nativeAvailable()
  ? "the native add-on is not built"
  : existsSync("/proc/self/clear_refs")
    ? undefined
    : "no /proc that tells how much memory another process holds";

const MB = 1 << 20;
/** What the arena may hold above the most that was in use at one time (src/core/arena.ts). */
const SLACK = 32 * MB;

interface Report {
  readonly weights: number;
  readonly cache: number;
  readonly scratch: number;
  readonly kept: number;
  readonly growth: number;
}

describe.skipIf(why !== undefined)(why ? `scratch memory (${why})` : "scratch memory", () => {
  const folder = mkdtempSync(join(tmpdir(), "octavo-scratch-law-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  beforeAll(ready, READY_TIMEOUT);

  test("2,000 tokens in pieces of 512, the last of them odd", async () => {
    const config = join(folder, "config.json");
    // Wide enough that the memory of a piece stands out from that of Node itself.
    const [hidden_size, intermediate_size] = [1024, 2816];
    const fields = { hidden_size, intermediate_size, num_hidden_layers: 12, num_attention_heads: 16 };
    const more = { num_key_value_heads: 4, vocab_size: 1000, max_position_embeddings: 4096 };
    writeFileSync(config, JSON.stringify({ model_type: "llama", ...fields, ...more }));
    const { code, stdout, stderr } = await run(["bench/scratch.mjs", "--config", config, "--tokens", "2000"]);
    expect(code, stderr).toBe(0);
    const { weights, cache, scratch, kept, growth } = JSON.parse(stdout) as Report;
    expect(weights).toBeGreaterThan(130e6);
    // Gate, up and their product; what is before and after them, queries, keys and values, and the residual.
    const piece = 512 * 4 * (3 * intermediate_size + 6 * hidden_size);
    expect(scratch).toBeLessThan(piece + 4 * MB);
    expect(growth).toBeLessThan(scratch + SLACK);
    // The session has ended: its cache may wait for the next one.
    expect(kept).toBeLessThan(scratch + cache + SLACK);
  });

  test("attention and its gradients take memory that grows with the length of a text, not with its square", async () => {
    const args = ["--lengths", "2048,4096", "--heads", "4", "--json"];
    const { code, stdout, stderr } = await run(["bench/attention-memory.mjs", ...args]);
    expect(code, stderr).toBe(0);
    const { rows } = JSON.parse(stdout) as {
      rows: { tensor: number; scores: number; forward: { bytes: number }; both: { bytes: number } }[];
    };
    for (const { tensor, forward, both } of rows) {
      // The numbers on the host and on the device, what a gradient begins from, and their sums.
      expect(forward.bytes).toBeLessThan(11 * tensor + SLACK);
      expect(both.bytes).toBeLessThan(16 * tensor + SLACK);
    }
    expect(rows[1]!.both.bytes).toBeLessThan(rows[1]!.scores / 2);
  });
});
