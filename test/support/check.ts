// Checks one conformance case on one device against the reference backend. Independent of the test runner, so that it also
// runs in pages.

import type { Device } from "../../src/core/device.js";
import { KernelError } from "../../src/core/errors.js";
import { FAMILIES } from "../conformance/cases/index.js";
import {
  type Bound,
  type Case,
  compare,
  type Family,
  type Floats,
  floatsOf,
  type Results,
  runCase,
  withFloats,
} from "./conformance.js";

/** How the results of a target are compared. */
export interface Tolerance {
  readonly name: string;
  /** Factor on all tolerances: 1 for IEEE arithmetic. */
  readonly scale: number;
  /** Absolute errors up to this always pass, because WGSL may flush subnormals to zero. */
  readonly floor?: number;
  /** Rows, at most, of products that are multiplied in 8-bit codes where they may be; all unless given. */
  readonly codedRows?: number;
  /** True: weights in panels where possible; false: always in plain rows. */
  readonly panels: boolean;
  /** The target's message for cases that it may refuse: single rows above its limits. */
  readonly refuses?: RegExp;
}

export interface Findings {
  readonly problems: string[];
  readonly refused: number;
}

/**
 * WGSL allows divisions, roots and exponentials a few more units of error than IEEE arithmetic. 4-bit products are in floats, which
 * round less than codes.
 */
export const WGSL = { scale: 4, floor: 2 ** -126, codedRows: 0 };

/** Table cases by family and float dtype; all devices use the same objects. */
export const TABLES: ReadonlyMap<Family, readonly (readonly [Floats, readonly Case[]])[]> = new Map(
  FAMILIES.map((family) => [
    family,
    floatsOf(family).map((floats) => [floats, family.table.map((one) => withFloats(family.op, one, floats))] as const),
  ]),
);

export class Checker {
  readonly #reference: Device;
  readonly #expectations = new Map<Case, Promise<Results>>();
  readonly #bounds = new Map<Case["bound"], Case["bound"]>();

  constructor(reference: Device) {
    this.#reference = reference;
  }

  /** Problems of one case on one device; with `keep`, the reference's results are kept for the next device. */
  async check(device: Device, target: Tolerance, family: Family, one: Case, keep: boolean): Promise<string[]> {
    const { op } = family;
    if (one.fails) {
      for (const [where, on] of [
        ["reference", this.#reference],
        [target.name, device],
      ] as const) {
        const outcome = await runCase(on, op, one, target.panels && on === device).then(
          () => "it was computed",
          (error: unknown) =>
            error instanceof KernelError && error.details.op === op.name ? undefined : String(error),
        );
        if (outcome) return [`${one.name}: ${where} must reject with a KernelError of ${op.name}; ${outcome}`];
      }
      return [];
    }
    const want = await this.#expectation(family, one, keep);
    const { codedRows = Number.POSITIVE_INFINITY } = target;
    const meant = one.inFloats && one.inFloats.rows > codedRows ? one.inFloats.bound : one.bound;
    const bound = keep ? this.#bound(meant) : meant;
    const scaled: Case = { ...one, bound: target.scale === 1 ? bound : widened(bound, target) };
    return compare(scaled, want, await runCase(device, op, one, target.panels));
  }

  /** Problems of all cases of a table, and how many of the cases the target may refuse and did. */
  async checkTable(device: Device, target: Tolerance, family: Family, table: readonly Case[]): Promise<Findings> {
    const problems: string[] = [];
    let refused = 0;
    for (const one of table) {
      try {
        problems.push(...(await this.check(device, target, family, one, true)));
      } catch (error) {
        const { message } = error as Error;
        if (target.refuses?.test(message)) refused++;
        else problems.push(`${one.name}: ${message}`);
      }
    }
    return { problems, refused };
  }

  /** The bound of a case, each value of which is computed once: for every target it bounds the same results. */
  #bound(of: Case["bound"]): Case["bound"] {
    const known = this.#bounds.get(of);
    if (known || !of) return known;
    const outputs = new Map<string, Bound>();
    const bound: Case["bound"] = (want, name) => {
      let values = outputs.get(name);
      if (values === undefined) outputs.set(name, (values = remembered(of(want, name), want.length)));
      return values;
    };
    this.#bounds.set(of, bound);
    return bound;
  }

  #expectation(family: Family, one: Case, keep: boolean): Promise<Results> {
    const known = this.#expectations.get(one);
    if (known) return known;
    const results = runCase(this.#reference, family.op, one, false);
    if (keep) this.#expectations.set(one, results);
    return results;
  }
}

function remembered(bound: Bound, length: number): Bound {
  if (typeof bound === "number") return bound;
  const values = new Float64Array(length).fill(-1);
  return (i) => {
    if (values[i] === -1) values[i] = bound(i);
    return values[i]!;
  };
}

function widened(bound: Case["bound"], { scale, floor = 0 }: Tolerance): Case["bound"] {
  return (want, name) => {
    const exact = bound?.(want, name) ?? 0;
    return typeof exact === "number" ? Math.max(exact * scale, floor) : (i) => Math.max(exact(i) * scale, floor);
  };
}
