// The bytes of tokens: together they are the decoded text, for every kind of decoder that has them.

import { expect, test } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import type { JsonTokenizer } from "../../src/tokenizer/engine.js";
import { uniforms } from "../support/random.js";
import { goldens } from "./golden.js";
import { make } from "./support.js";

/** The text of tokens as their bytes say it; undefined where a token may not be. */
function textOf(tokenizer: JsonTokenizer, ids: readonly number[]): string | undefined {
  const { bytes, begin, notFirst } = tokenizer.token_bytes();
  const parts: number[] = [];
  for (const [n, id] of ids.entries()) {
    const own = bytes[id]!;
    const first = n === 0 && begin !== "kept";
    if (first && (notFirst.has(id) || (begin === "needed" && own[0] !== 0x20))) return undefined;
    parts.push(...(first && own[0] === 0x20 ? own.subarray(1) : own));
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(parts));
  } catch {
    return undefined; // half a character: the automaton goes no such way
  }
}

const refused = new Set<string>();

test.each(goldens.map(({ name, tokenizer }) => [name, tokenizer] as const))("%s", (name, tokenizer) => {
  let table: ReturnType<JsonTokenizer["token_bytes"]>;
  try {
    table = tokenizer.token_bytes();
  } catch (error) {
    expect(error).toBeInstanceOf(OctavoError);
    refused.add(name);
    return;
  }
  const ids = [...tokenizer.get_vocab().values()].filter((id) => table.bytes[id] !== undefined);
  for (const id of tokenizer.special_ids) expect(table.bytes[id]).toBeUndefined();
  const next = uniforms(7);
  let compared = 0;
  for (let n = 0; n < 80; n++) {
    const some = Array.from({ length: 1 + Math.floor(next() * 5) }, () => ids[Math.floor(next() * ids.length)]!);
    const text = textOf(tokenizer, some);
    if (text === undefined) continue;
    expect(tokenizer.decode(some), `${name} ${some.join()}`).toBe(text);
    compared++;
  }
  expect(compared).toBeGreaterThan(0);
});

test("decoders whose tokens depend on their neighbours are refused", () => {
  expect([...refused].length).toBeLessThan(goldens.length / 2);
  for (const decoder of [{ type: "CTC" }, { type: "BPEDecoder" }]) {
    expect(() => make({ decoder }).token_bytes()).toThrow(/depends on the tokens around it/);
  }
});
