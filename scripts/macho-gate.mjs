// What an add-on for macOS must be to load on other machines than the one that linked it, read from the file itself: a bundle or
// library of one architecture, that links libSystem alone, looks up only Node-API's functions in its host, shows only Node-API's
// entry points, asks for no newer system than Node does, and is signed where the system wants it. It says nothing of whether it runs.
//
//   node scripts/macho-gate.mjs FILE [TARGET]
//
// TARGET is like darwin-arm64. Prints each breach; exits 1 if there is one.

import { readFileSync } from "node:fs";
import { gate, textAt } from "./gate.mjs";

const ENTRIES = ["_napi_register_module_v1", "_node_api_module_get_api_version_v1"];
const SYSTEM_LIBRARY = "/usr/lib/libSystem.B.dylib";
const MAGIC_64 = 0xfeedfacf;
const CPUS = { x64: 0x01000007, arm64: 0x0100000c };
/** Kinds of files that can be loaded: a library and a bundle. */
const LOADABLE = [6, 8];
/** The newest macOS that may be asked for, which Node 20 runs on: 11 on ARM (there is no older one), 10.15 else. */
const NEWEST = { x64: [10, 15], arm64: [11, 0] };
const LC = { SYMTAB: 0x2, LOAD_DYLIB: 0xc, LOAD_WEAK_DYLIB: 0x80000018, REEXPORT_DYLIB: 0x8000001f };
const [LC_CODE_SIGNATURE, LC_VERSION_MIN_MACOSX, LC_BUILD_VERSION] = [0x1d, 0x24, 0x32];
/** Bits of a symbol's type: for debuggers; a kind, which is 0 for what is looked up elsewhere; seen from outside. */
const [N_STAB, N_TYPE, N_EXT] = [0xe0, 0x0e, 0x01];
/** Where a symbol is looked up: in any image of the process. */
const DYNAMIC_LOOKUP = 0xfe;

/** The parts of a file that are looked at. @throws RangeError for one that ends too early */
function parse(bytes) {
  if (bytes.readUInt32LE(0) !== MAGIC_64) return undefined;
  const found = {
    cpu: bytes.readUInt32LE(4),
    kind: bytes.readUInt32LE(12),
    ...{ libraries: [], symbols: [], system: undefined, signed: false },
  };
  for (let at = 32, left = bytes.readUInt32LE(16); left > 0; at += bytes.readUInt32LE(at + 4), left--) {
    const command = bytes.readUInt32LE(at);
    if ([LC.LOAD_DYLIB, LC.LOAD_WEAK_DYLIB, LC.REEXPORT_DYLIB].includes(command))
      found.libraries.push(textAt(bytes, at + bytes.readUInt32LE(at + 8)));
    if (command === LC_CODE_SIGNATURE) found.signed = bytes.readUInt32LE(at + 12) > 0;
    if (command === LC_VERSION_MIN_MACOSX) found.system = bytes.readUInt32LE(at + 8);
    if (command === LC_BUILD_VERSION) found.system = bytes.readUInt32LE(at + 12);
    if (command !== LC.SYMTAB) continue;
    const [symbols, count, strings] = [8, 12, 16].map((offset) => bytes.readUInt32LE(at + offset));
    for (let i = 0; i < count; i++) {
      const entry = symbols + 16 * i;
      const type = bytes[entry + 4];
      if (type & N_STAB || !(type & N_EXT)) continue;
      const name = textAt(bytes, strings + bytes.readUInt32LE(entry));
      found.symbols.push({ name, own: (type & N_TYPE) !== 0, from: bytes.readUInt16LE(entry + 6) >> 8 });
    }
  }
  return found;
}

/**
 * What is wrong with an add-on; empty if nothing is.
 * @param {string} file
 * @param {string} [target] such as darwin-arm64: what it is published for
 * @returns {string[]}
 */
export function machoBreaches(file, target) {
  let image;
  try {
    image = parse(readFileSync(file));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  if (!image || !LOADABLE.includes(image.kind)) return ["is no bundle or library for 64 bits, or not a whole one"];
  const [, cpu = Object.keys(CPUS).find((name) => CPUS[name] === image.cpu)] = target?.split("-") ?? [];
  const breaches = [];
  for (const name of image.libraries) if (name !== SYSTEM_LIBRARY) breaches.push(`links ${name}`);
  for (const { name, own, from } of image.symbols) {
    if (own && !ENTRIES.includes(name)) breaches.push(`shows ${name}`);
    if (!own && from === DYNAMIC_LOOKUP && !name.startsWith("_napi_")) breaches.push(`looks up ${name} in its host`);
    if (!own && from !== DYNAMIC_LOOKUP && name.startsWith("_napi_")) breaches.push(`looks up ${name} in a library`);
  }
  if (!image.symbols.some(({ name, own }) => own && name === ENTRIES[0]))
    breaches.push(`has no ${ENTRIES[0].slice(1)}`);
  if (image.cpu !== CPUS[cpu]) breaches.push(`is not for ${cpu}`);
  const [major, minor] = NEWEST[cpu] ?? NEWEST.arm64;
  if (image.system === undefined || image.system >> 8 > major * 256 + minor)
    breaches.push(`does not say that macOS ${major}.${minor} is new enough`);
  if (cpu === "arm64" && !image.signed) breaches.push("is not signed, which macOS wants on ARM");
  return breaches;
}

gate(import.meta.url, machoBreaches);
