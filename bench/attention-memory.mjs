// How much memory attention takes, read from outside: for each length a process of its own computes causal attention of one text of
// random values, or that and its gradients; this one reads the process's resident memory from /proc. Linux only.
// node bench/attention-memory.mjs [--lengths 1024,2048,4096,8192,16384] [--heads 8] [--size 64] [--json]

import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    child: { type: "string" },
    lengths: { type: "string", default: "1024,2048,4096,8192,16384" },
    heads: { type: "string", default: "8" },
    size: { type: "string", default: "64" },
    json: { type: "boolean", default: false },
  },
});
const [heads, size] = [Number(values.heads), Number(values.size)];

/** The built library, which the child runs too. */
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);

const say = (message) => new Promise((resolve) => process.send(message, resolve));
const heard = () => new Promise((resolve) => process.once("message", resolve));

/** Attention of `length` tokens; with gradients by queries, keys and values. */
async function attend({ device, functional, Tensor }, length, learns) {
  const numbers = Float32Array.from({ length: heads * length * size }, (_, i) => Math.sin(i));
  const make = () => Tensor.from(device, numbers, [1, heads, length, size]).keep();
  const [q, k, v, dy] = [make(), make(), make(), make()];
  if (learns) for (const one of [q, k, v]) one.requires_grad_();
  const y = functional.scaled_dot_product_attention(q, k, v, { is_causal: true });
  if (learns) {
    y.backward(dy);
    await k.grad.read();
    for (const one of [q, k, v]) one.grad = undefined;
  } else await y.read();
  for (const one of [y, q, k, v, dy]) one.dispose();
}

async function child(length, learns) {
  const { functional } = await library("nn.js");
  const { openDevice, Tensor } = await library("index.js");
  const device = openDevice("cpu");
  await attend({ device, functional, Tensor }, 64, learns); // everything is loaded
  await say("ready");
  await heard();
  await attend({ device, functional, Tensor }, length, learns);
  await say("done");
  await heard();
  await device.close();
  process.disconnect();
}

/** Bytes that the kernel counts for a process, now and at most. */
function resident(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const bytes = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)[1]) * 1024;
  return { now: bytes("VmRSS"), most: bytes("VmHWM") };
}

/** Bytes by which a process grows at most while it computes, and how long that takes. */
async function grown(length, learns) {
  const own = fork(fileURLToPath(import.meta.url), [
    ...["--child", `${length},${learns ? 1 : 0}`],
    ...["--heads", values.heads, "--size", values.size],
  ]);
  const failed = new Promise((_, reject) => {
    own.once("exit", (code) => code !== 0 && reject(new Error(`the process ended with ${code}`)));
  });
  failed.catch(() => {}); // heard by `next`
  const next = () => Promise.race([once(own, "message"), failed]);
  await next();
  writeFileSync(`/proc/${own.pid}/clear_refs`, "5"); // the peak begins anew
  const before = resident(own.pid).now;
  const start = performance.now();
  own.send("go");
  await next();
  const ms = performance.now() - start;
  const bytes = resident(own.pid).most - before;
  own.send("end");
  await once(own, "exit");
  return { bytes, ms };
}

async function main() {
  const rows = [];
  for (const length of values.lengths.split(",").map(Number)) {
    const forward = await grown(length, false);
    const both = await grown(length, true);
    const tensor = 4 * heads * length * size;
    rows.push({ length, tensor, scores: 4 * heads * length * length, forward, both });
    if (values.json) continue;
    const mb = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
    console.log(
      `${length} tokens: forward ${mb(forward.bytes)} (${forward.ms.toFixed(0)} ms), with gradients ${mb(both.bytes)} ` +
        `(${both.ms.toFixed(0)} ms); a tensor of queries ${mb(tensor)}, all scores would be ${mb(heads * length * length * 4)}`,
    );
  }
  if (values.json) console.log(JSON.stringify({ heads, size, rows }));
}

if (values.child) {
  const [length, learns] = values.child.split(",").map(Number);
  await child(length, learns === 1);
} else await main();
