// What every peer is put through, inside its own process. An engine is a peer with a model loaded; a session is a batch
// of sequences with a cache that can be emptied and used again (so that page faults of fresh memory count for nobody).
// No peer samples; a step is done when its logits are there.

import { readFileSync } from "node:fs";
import { POSITIONS } from "./shapes.mjs";

/**
 * @typedef {object} Session
 * @property {() => void | Promise<void>} reset Empties the cache.
 * @property {(tokens: number) => Promise<void>} feed Runs that many tokens per sequence; logits of the last one.
 * @property {(count: number) => Promise<void>} steps Runs one token per sequence, that many times.
 * @property {() => Promise<Float32Array>} logits Of the first sequence, after the last feed or step.
 * @property {() => void | Promise<void>} close
 *
 * @typedef {object} Engine
 * @property {string} info What the peer says of itself: version, instruction sets, buffers.
 * @property {(rows: number, capacity: number) => Promise<Session>} session
 * @property {() => void | Promise<void>} close
 */

/** A token id for position `at` of sequence `row`; any will do. @param {number} at @param {number} row @param {number} vocab */
export const tokenAt = (at, row, vocab) => 300 + ((at * 7919 + row * 104729) % (vocab - 300));

/** Highest resident set of this process so far, bytes. */
export function peakRss() {
  try {
    // Not resourceUsage().maxRSS: that one inherits the parent's from before exec.
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

/**
 * @param {Engine} engine
 * @param {ReturnType<typeof import("./shapes.mjs").planOf>} plan
 * @param {(text: string) => void} say
 * @returns {Promise<Record<string, number[]>>} Tokens per second by case, one number per run.
 */
export async function measure(engine, plan, say) {
  /** @type {Record<string, number[]>} */
  const rates = {};
  const time = async (name, tokens, run) => {
    const start = performance.now();
    await run();
    const rate = (1000 * tokens) / (performance.now() - start);
    if (name) {
      (rates[name] ??= []).push(rate);
      say(`${name} ${rate.toFixed(1)} tok/s`);
    }
  };
  const LONG = 2048;
  const capacity = plan.longReps > 0 ? LONG + plan.steps + 16 : Math.max(...plan.prefill) + plan.steps + 16;
  if (capacity > POSITIONS) throw new RangeError("the models have too few positions");

  const one = await engine.session(1, capacity);
  await one.feed(64); // warm-up
  await one.steps(3);
  check(await one.logits());
  for (let rep = 0; rep < Math.max(plan.reps, plan.longReps); rep++) {
    for (const length of plan.prefill) {
      if (rep >= (length === LONG ? plan.longReps : plan.reps)) continue;
      await one.reset();
      await time(`prefill${length}`, length, () => one.feed(length));
      if (length !== LONG) continue;
      await one.steps(2);
      await time("decode2048", plan.steps, () => one.steps(plan.steps));
    }
    if (rep >= plan.reps) continue;
    await one.reset();
    await one.feed(1);
    await one.steps(2);
    await time("decode", plan.steps, () => one.steps(plan.steps));
  }
  await one.close();

  const many = await engine.session(plan.batch, plan.steps + 16);
  await many.feed(1);
  await many.steps(2);
  check(await many.logits());
  for (let rep = 0; rep < plan.reps; rep++) {
    await many.reset();
    await many.feed(1);
    await many.steps(2);
    await time(`batch${plan.batch}`, plan.steps * plan.batch, () => many.steps(plan.steps));
  }
  await many.close();
  return rates;
}

/** A peer that computes nonsense must not win. @param {Float32Array} logits */
function check(logits) {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of logits) {
    if (!Number.isFinite(value)) throw new Error(`a logit is ${value}`);
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!(high > low)) throw new Error(`all ${logits.length} logits are ${high}`);
}
