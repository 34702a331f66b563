// Two checkouts of this repository beside each other: both hold the same model, each in a process of its own, and take turns
// every second, so that a busy moment of the machine hits both. For "before and after" of a change.
// node bench/pairs.mjs OTHER [--shape M] [--compare bf16,int8,nf4-int8] [--pairs 21] [--dir FOLDER]: OTHER is a built
// checkout. Prints for each case the speeds and the ratio (this / other) with the quartiles of its pairs.

import { fork } from "node:child_process";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { checkpointFolder } from "./peers/checkpoint.mjs";
import { SHAPES } from "./peers/shapes.mjs";

const STEPS = 24;
const BATCH = 8;
const CAPACITY = 640;
/** Milliseconds between two runs. */
const PAUSE = 200;
/** Name, tokens per run, and what a run is. @type {[string, number, (one: any, many: any) => Promise<void>][]} */
const CASES = [
  ["decode", STEPS, (one) => one.steps(STEPS)],
  [`decode x ${BATCH}`, STEPS * BATCH, (_, many) => many.steps(STEPS)],
  ["prefill 128", 128, (one) => one.feed(128)],
  ["prefill 512", 512, (one) => one.feed(512)],
];

/** The half of one checkout: opens the model, then runs the case whose number it is sent and answers milliseconds. */
async function child({ root, variant, file, shape }) {
  const { open } = await import(join(root, "bench/peers/engine-octavo.mjs"));
  const engine = await open({ file, variant, threads: 2, shape: SHAPES[shape] });
  const [one, many] = [await engine.session(1, CAPACITY), await engine.session(BATCH, CAPACITY)];
  const run = async (index) => {
    const decodes = index < 2;
    for (const session of [one, many]) await session.reset();
    if (decodes) {
      const session = index === 0 ? one : many;
      await session.feed(1);
      await session.steps(2);
    }
    const start = performance.now();
    await CASES[index][2](one, many);
    return performance.now() - start;
  };
  for (let i = 0; i < CASES.length; i++) await run(i);
  process.on("message", async (index) => process.send(await run(index)));
  process.send("ready");
}

/** The message that a child sends next. @param {import("node:child_process").ChildProcess} process */
const answer = (process) =>
  new Promise((done, fail) => {
    const ended = (code) => fail(new Error(`a process ended with ${code}`));
    process.once("exit", ended);
    process.once("message", (message) => {
      process.off("exit", ended);
      done(message);
    });
  });

const quantile = (values, q) => values.toSorted((a, b) => a - b)[Math.round(q * (values.length - 1))];

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      shape: { type: "string", default: "M" },
      compare: { type: "string", default: "bf16,int8,nf4-int8" },
      pairs: { type: "string", default: "21" },
      dir: { type: "string", default: process.env.OCTAVO_PEERS_DIR },
    },
  });
  const here = dirname(fileURLToPath(import.meta.url));
  if (positionals.length !== 1) throw new Error("give the folder of the other checkout");
  const roots = [resolve(here, ".."), resolve(positionals[0])];
  const file = checkpointFolder(values.dir ?? join(here, "peers/.work"), SHAPES[values.shape]);
  for (const variant of values.compare.split(",")) {
    const halves = [];
    for (const root of roots) {
      const half = fork(fileURLToPath(import.meta.url), [
        "--child",
        JSON.stringify({ root, variant, file, shape: values.shape }),
      ]);
      await answer(half);
      halves.push(half);
    }
    /** Milliseconds by case and half. */
    const times = CASES.map(() => [[], []]);
    for (let pair = 0; pair < Number(values.pairs); pair++) {
      process.stderr.write(`  ${variant} pair ${pair + 1}\n`);
      for (const [index, [ours, theirs]] of times.entries()) {
        const order = pair % 2 ? [0, 1] : [1, 0];
        for (const side of order) {
          // Threads of the other half may wait for work a while before they sleep.
          await new Promise((done) => setTimeout(done, PAUSE));
          const next = answer(halves[side]);
          halves[side].send(index);
          (side === 0 ? ours : theirs).push(await next);
        }
      }
    }
    for (const half of halves) half.kill();
    for (const [index, [ours, theirs]] of times.entries()) {
      const [name, tokens] = CASES[index];
      const ratios = theirs.map((ms, i) => ms / ours[i]);
      const speed = (list, q) => ((1000 * tokens) / quantile(list, q)).toFixed(1);
      console.log(
        `${variant.padEnd(10)} ${name.padEnd(12)} this ${speed(ours, 0.5)} (best ${speed(ours, 0)}), other ` +
          `${speed(theirs, 0.5)} (best ${speed(theirs, 0)}) tokens/s; ratio ${quantile(ratios, 0.5).toFixed(3)} ` +
          `(${quantile(ratios, 0.25).toFixed(3)} to ${quantile(ratios, 0.75).toFixed(3)})`,
      );
    }
  }
}

if (process.argv[2] === "--child") await child(JSON.parse(process.argv[3]));
else await main();
