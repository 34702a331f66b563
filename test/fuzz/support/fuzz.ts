// Runs the mutants of a format and holds each to the same: it is read, or refused with a typed error of bounded length, and
// leaves nothing behind. A mutant is a function of format, seed and number.
//
//   npx vitest run test/fuzz                                              the recorded seed, 20,000 mutants of each format
//   FUZZ_SECONDS=600 FUZZ_SEED=random npx vitest run test/fuzz            others, for that long each
//   FUZZ_SEED=5 FUZZ_MUTANT=1234 npx vitest run test/fuzz -t config       one again, with the error that it gets

import { expect, test } from "vitest";
import { OctavoError } from "../../../src/core/errors.js";
import { Chance } from "./chance.js";
import { watch } from "./watchdog.js";

/** A format of files and what is done with a mutant of it. */
export interface Format<Mutant> {
  readonly name: string;
  make(chance: Chance): Mutant;
  /**
   * Reads a mutant as the library does; throws what it throws. The chance decides what else is done with one that is read.
   * @returns what is wrong with the result; undefined if nothing is
   */
  read(mutant: Mutant, chance: Chance): Promise<string | undefined>;
  /** Mutants in `npm test`, of a format that is read slowly; others have 20,000. */
  readonly mutants?: number;
  /** What the mutant has left behind: device memory, open files; undefined if nothing. */
  left?(): string | undefined;
}

/** Mutants of each format in `npm test`. */
const MUTANTS = 20_000;
/** The seed of `npm test`. */
const RECORDED = 1;
/** Most characters of an error's message, its hint included. */
const LONGEST = 1000;
/** Failures that are listed before a run ends. */
const ENOUGH = 20;
/** Mutants between two turns of the event loop, which the test runner needs. */
const TURN = 100;

const { FUZZ_SEED, FUZZ_SECONDS, FUZZ_MUTANT } = process.env;
const seed =
  FUZZ_SEED === "random" ? Math.floor(Math.random() * 2 ** 31) : FUZZ_SEED === undefined ? RECORDED : Number(FUZZ_SEED);
const seconds = FUZZ_SECONDS === undefined ? undefined : Number(FUZZ_SECONDS);
const only = FUZZ_MUTANT === undefined ? undefined : Number(FUZZ_MUTANT);

/** Why a message or a warning is not one for a terminal; undefined if it is. */
export function problemOfText(text: string): string | undefined {
  if (text.trim() === "") return "no text";
  if (text.length > LONGEST) return `${text.length} characters: ${text.slice(0, 200)}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal would obey them
  const control = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/.exec(text);
  return control ? `a control character in ${JSON.stringify(text.slice(0, 300))}` : undefined;
}

/** Why an error is not one that a user may see; undefined if it is. */
function problemOf(error: unknown): string | undefined {
  if (!(error instanceof OctavoError)) return `untyped: ${error instanceof Error ? error.stack : String(error)}`;
  return /^ERR_[A-Z_]+$/.test(error.code) ? problemOfText(error.message) : `code ${error.code}`;
}

/** A test that reads the mutants of a format. */
export function fuzz<Mutant>(format: Format<Mutant>): void {
  const { name, mutants = MUTANTS } = format;
  const limit = 600_000 + 1000 * (seconds ?? 0);
  test(`${name}: every mutant is read, or refused with a typed error, and leaves nothing`, {
    timeout: limit,
  }, async () => {
    const failures: string[] = [];
    const codes = new Map<string, number>();
    let accepted = 0;
    let slowest = { ms: 0, number: 0 };
    const dog = watch(name, seed);
    const began = performance.now();
    const more = (number: number): boolean =>
      failures.length < ENOUGH &&
      (only !== undefined
        ? number === only
        : seconds === undefined
          ? number < mutants
          : performance.now() - began < 1000 * seconds);
    let number = only ?? 0;
    try {
      for (; more(number); number++) {
        dog.at(number);
        const start = performance.now();
        const chance = new Chance(name, seed, number);
        const mutant = format.make(chance);
        let problem: string | undefined;
        try {
          problem = await format.read(mutant, chance);
          accepted++;
        } catch (error) {
          problem = problemOf(error);
          const code = error instanceof OctavoError ? error.code : "untyped";
          codes.set(code, (codes.get(code) ?? 0) + 1);
          if (only !== undefined) console.error(error);
        }
        problem ??= format.left?.();
        const ms = performance.now() - start;
        if (ms > slowest.ms) slowest = { ms, number };
        if (problem !== undefined) failures.push(`mutant ${number}: ${problem}`);
        if (number % TURN === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    } finally {
      await dog.stop();
    }
    const refused = [...codes].map(([code, count]) => `${code} ${count}`).join(", ");
    const took = ((performance.now() - began) / 1000).toFixed(1);
    console.log(
      `fuzz ${name}: ${number} mutants of seed ${seed} in ${took} s; ${accepted} read, refused: ${refused}; ` +
        `slowest ${slowest.ms.toFixed(0)} ms (${slowest.number})`,
    );
    expect(failures, `FUZZ_SEED=${seed} FUZZ_MUTANT=<number> npx vitest run test/fuzz -t ${name} repeats one`).toEqual(
      [],
    );
    expect(Object.keys(Object.prototype), "fields of all objects").toEqual([]);
    if (only !== undefined) return;
    // Both ways must have been tried, or the mutations are of no use.
    expect(accepted).toBeGreaterThan(number / 100);
    expect(number - accepted).toBeGreaterThan(number / 20);
  });
}
