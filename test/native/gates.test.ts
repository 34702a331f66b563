// The gates of published add-ons (scripts/pe-gate.mjs, scripts/macho-gate.mjs): files made here, byte by byte, because nothing that
// makes real ones is everywhere. What the release makes passes the same gates. ELF's is in kept-addon.test.ts, on the real add-on.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, it } from "vitest";
// @ts-expect-error a script without types
import { machoBreaches } from "../../scripts/macho-gate.mjs";
// @ts-expect-error a script without types
import { peBreaches } from "../../scripts/pe-gate.mjs";
import { temporary } from "../support/temporary.js";

type Gate = (file: string, target?: string) => string[];

const ENTRIES = ["napi_register_module_v1", "node_api_module_get_api_version_v1"];

function breaches(gate: unknown, bytes: Buffer, target?: string): string[] {
  const file = temporary("addon.node");
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, bytes);
  return (gate as Gate)(file, target);
}

interface Dll {
  readonly linked?: readonly string[];
  readonly delayed?: readonly string[];
  readonly shown?: readonly string[];
  readonly machine?: number;
  readonly protections?: number;
  readonly symbols?: number;
  readonly kind?: number;
}

/** A DLL with one section, whose addresses are its places in the file and 0x1000. */
function dll(what: Dll): Buffer {
  const { linked = ["KERNEL32.dll", "msvcrt.dll"], delayed = [], shown = ENTRIES } = what;
  const [optional, section, begin] = [0x98, 0x188, 0x200];
  const bytes = Buffer.alloc(0x1000);
  let free = begin;
  const address = (place: number): number => place + 0x1000;
  const take = (size: number): number => (free += size) - size;
  const text = (value: string): number => {
    const at = take(value.length + 1);
    bytes.write(value, at, "latin1");
    return address(at);
  };
  const table = (names: readonly string[], size: number, nameAt: number): number => {
    const at = take(size * (names.length + 1));
    for (const [i, name] of names.entries()) bytes.writeUInt32LE(text(name), at + size * i + nameAt);
    return address(at);
  };
  bytes.write("MZ", 0, "latin1");
  bytes.writeUInt32LE(0x80, 0x3c);
  bytes.write("PE\0\0", 0x80, "latin1");
  bytes.writeUInt16LE(what.machine ?? 0x8664, 0x84);
  bytes.writeUInt16LE(1, 0x86);
  bytes.writeUInt32LE(what.symbols ?? 0, 0x90);
  bytes.writeUInt16LE(section - optional, 0x94);
  bytes.writeUInt16LE(what.kind ?? 0x2022, 0x96);
  bytes.writeUInt16LE(0x20b, optional);
  bytes.writeUInt16LE(what.protections ?? 0x160, optional + 70);
  const exported = take(40);
  const names = take(4 * shown.length);
  bytes.writeUInt32LE(shown.length, exported + 24);
  bytes.writeUInt32LE(address(names), exported + 32);
  for (const [i, name] of shown.entries()) bytes.writeUInt32LE(text(name), names + 4 * i);
  bytes.writeUInt32LE(address(exported), optional + 112);
  bytes.writeUInt32LE(table(linked, 20, 12), optional + 120);
  if (delayed.length > 0) bytes.writeUInt32LE(table(delayed, 32, 4), optional + 112 + 8 * 13);
  for (const [i, value] of [0xe00, address(begin), 0xe00, begin].entries())
    bytes.writeUInt32LE(value, section + 8 + 4 * i);
  return bytes;
}

describe("the gate of DLLs", () => {
  const found = (what: Dll, target = "win32-x64"): string[] => breaches(peBreaches, dll(what), target);

  it("takes what links Windows alone and shows Node-API's entries", () => {
    expect(found({})).toEqual([]);
    expect(found({ linked: ["kernel32.DLL", "api-ms-win-crt-heap-l1-1-0.dll", "ucrtbase.dll"] })).toEqual([]);
    expect(found({ shown: ENTRIES.slice(0, 1) })).toEqual([]);
  });

  it.each<[string, Dll, string[]]>([
    ["a compiler's library", { linked: ["KERNEL32.dll", "libstdc++-6.dll"] }, ["links libstdc++-6.dll"]],
    ["a host of one name", { linked: ["node.exe"] }, ["links node.exe"]],
    ["a host that is linked late", { delayed: ["node.exe"] }, ["links node.exe when it is first used"]],
    ["functions of its own", { shown: [...ENTRIES, "malloc"] }, ["shows malloc"]],
    ["no entry", { shown: [] }, ["has no napi_register_module_v1"]],
    ["another machine's code", { machine: 0xaa64 }, ["is not for x64"]],
    ["fixed addresses", { protections: 0x120 }, ["lacks DYNAMIC_BASE"]],
    ["symbols", { symbols: 7 }, ["is not stripped"]],
    ["a program", { kind: 0x22 }, ["is no DLL for 64 bits, or not a whole one"]],
  ])("refuses %s", (_, what, wanted) => expect(found(what)).toEqual(wanted));

  it("refuses what is cut off, at every byte, and what is none", () => {
    const whole = dll({});
    for (let length = 0; length < 0x2a0; length += 7)
      expect(breaches(peBreaches, whole.subarray(0, length)), `${length} bytes`).not.toEqual([]);
    expect(breaches(peBreaches, Buffer.from("\x7fELF"))).toEqual(["is no DLL for 64 bits, or not a whole one"]);
  });
});

interface Image {
  readonly libraries?: readonly string[];
  /** Names with the place where they are looked up: 1 libSystem, 0xfe the host, 0 here. */
  readonly symbols?: readonly (readonly [string, number])[];
  readonly system?: number;
  readonly signed?: boolean;
  readonly cpu?: number;
  readonly kind?: number;
}

const OWN = ENTRIES.map((name) => [`_${name}`, 0] as const);
const LIBSYSTEM = "/usr/lib/libSystem.B.dylib";

/** A bundle without code. */
function bundle(what: Image): Buffer {
  const { libraries = [LIBSYSTEM], symbols = [...OWN, ["_napi_wrap", 0xfe], ["_malloc", 1]], signed = true } = what;
  const bytes = Buffer.alloc(0x1000);
  let [at, count, free] = [32, 0, 0x800];
  const command = (kind: number, size: number, ...words: readonly number[]): number => {
    for (const [i, value] of [kind, size, ...words].entries()) bytes.writeUInt32LE(value, at + 4 * i);
    [at, count] = [at + size, count + 1];
    return at - size;
  };
  for (const name of libraries) {
    const size = 24 + 8 * Math.ceil((name.length + 1) / 8);
    bytes.write(name, command(0xc, size, 24) + 24, "latin1");
  }
  command(0x32, 24, 1, what.system ?? 0x0b0000, 0, 0);
  if (signed) command(0x1d, 16, 0xf00, 16);
  const strings = 0xa00;
  command(0x2, 24, free, symbols.length, strings, 0x200);
  let text = 1;
  for (const [name, from] of symbols) {
    bytes.writeUInt32LE(text, free);
    bytes[free + 4] = from === 0 ? 0x0f : 0x01;
    bytes.writeUInt16LE(from << 8, free + 6);
    bytes.write(name, strings + text, "latin1");
    text += name.length + 1;
    free += 16;
  }
  bytes.writeUInt32LE(0xfeedfacf, 0);
  bytes.writeUInt32LE(what.cpu ?? 0x0100000c, 4);
  bytes.writeUInt32LE(what.kind ?? 8, 12);
  bytes.writeUInt32LE(count, 16);
  return bytes;
}

describe("the gate of macOS's bundles", () => {
  const found = (what: Image, target = "darwin-arm64"): string[] => breaches(machoBreaches, bundle(what), target);

  it("takes what links libSystem alone and looks up Node-API in its host", () => {
    expect(found({})).toEqual([]);
    expect(found({ cpu: 0x01000007, system: 0x0a0f00, signed: false }, "darwin-x64")).toEqual([]);
  });

  it.each<[string, Image, string[]]>([
    ["a C++ library", { libraries: [LIBSYSTEM, "/usr/lib/libc++.1.dylib"] }, ["links /usr/lib/libc++.1.dylib"]],
    ["a function that nobody has", { symbols: [...OWN, ["_oops", 0xfe]] }, ["looks up _oops in its host"]],
    ["Node-API of a library", { symbols: [...OWN, ["_napi_wrap", 1]] }, ["looks up _napi_wrap in a library"]],
    ["functions of its own", { symbols: [...OWN, ["_best_isa", 0]] }, ["shows _best_isa"]],
    ["no entry", { symbols: [] }, ["has no napi_register_module_v1"]],
    ["a newer system", { system: 0x0e0000 }, ["does not say that macOS 11.0 is new enough"]],
    ["no signature", { signed: false }, ["is not signed, which macOS wants on ARM"]],
    ["another machine's code", { cpu: 0x01000007 }, ["is not for arm64"]],
    ["a program", { kind: 2 }, ["is no bundle or library for 64 bits, or not a whole one"]],
  ])("refuses %s", (_, what, wanted) => expect(found(what)).toEqual(wanted));

  it("refuses what is cut off, at every byte", () => {
    const whole = bundle({});
    for (let length = 0; length < 0xa50; length += 7)
      expect(breaches(machoBreaches, whole.subarray(0, length)), `${length} bytes`).not.toEqual([]);
  });
});
