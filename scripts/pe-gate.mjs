// What an add-on for Windows must be to load on other machines than the one that built it, read from the file itself: only Windows'
// own libraries are linked, only Node-API's entry points are shown, and the protections that a DLL can have are on.
//
//   node scripts/pe-gate.mjs FILE [TARGET]
//
// TARGET is like win32-x64. Prints each breach; exits 1 if there is one.

import { readFileSync } from "node:fs";
import { gate, textAt } from "./gate.mjs";

const ENTRIES = ["napi_register_module_v1", "node_api_module_get_api_version_v1"];
/** Part of every Windows from 10 on; node.exe is not here, because the host may have another name. */
const SYSTEM_DLL = /^(kernel32|msvcrt|ucrtbase|api-ms-win-crt-[a-z0-9-]+)\.dll$/i;
const MACHINES = { x64: 0x8664, arm64: 0xaa64 };
/** Bits of DllCharacteristics. */
const PROTECTIONS = { HIGH_ENTROPY_VA: 0x20, DYNAMIC_BASE: 0x40, NX_COMPAT: 0x100 };
const IMAGE_FILE_DLL = 0x2000;
const PE32_PLUS = 0x20b;
/** Places in the table of directories. */
const [EXPORTS, IMPORTS, DELAYED] = [0, 1, 13];

/** The parts of a DLL that are looked at. @throws RangeError for a file that ends too early */
function parse(bytes) {
  const start = bytes.toString("latin1", 0, 2) === "MZ" ? bytes.readUInt32LE(0x3c) : -1;
  if (start < 0 || bytes.toString("latin1", start, start + 4) !== "PE\0\0") return undefined;
  const optional = start + 24;
  if (bytes.readUInt16LE(optional) !== PE32_PLUS) return undefined;
  const sections = Array.from({ length: bytes.readUInt16LE(start + 6) }, (_, i) => {
    const at = optional + bytes.readUInt16LE(start + 20) + 40 * i;
    const [, address, size, place] = [8, 12, 16, 20].map((offset) => bytes.readUInt32LE(at + offset));
    return { address, size, place };
  });
  /** Where in the file an address of the loaded image lies. */
  const place = (address) => {
    const section = sections.find((one) => address >= one.address && address < one.address + one.size);
    if (!section) throw new RangeError(`address ${address} is in no section`);
    return address - section.address + section.place;
  };
  const text = (address) => textAt(bytes, place(address));
  const directory = (index) => bytes.readUInt32LE(optional + 112 + 8 * index);
  /** The names of libraries in a table of entries, which an empty one ends. */
  const libraries = (index, size, nameAt) => {
    const found = [];
    if (!directory(index)) return found;
    for (let at = place(directory(index)); bytes.readUInt32LE(at + nameAt); at += size)
      found.push(text(bytes.readUInt32LE(at + nameAt)));
    return found;
  };
  const shown = () => {
    if (!directory(EXPORTS)) return [];
    const at = place(directory(EXPORTS));
    const names = place(bytes.readUInt32LE(at + 32));
    return Array.from({ length: bytes.readUInt32LE(at + 24) }, (_, i) => text(bytes.readUInt32LE(names + 4 * i)));
  };
  return {
    machine: bytes.readUInt16LE(start + 4),
    symbols: bytes.readUInt32LE(start + 16),
    isDll: (bytes.readUInt16LE(start + 22) & IMAGE_FILE_DLL) !== 0,
    protections: bytes.readUInt16LE(optional + 70),
    linked: libraries(IMPORTS, 20, 12),
    delayed: libraries(DELAYED, 32, 4),
    shown: shown(),
  };
}

/**
 * What is wrong with an add-on; empty if nothing is.
 * @param {string} file
 * @param {string} [target] such as win32-x64: what it is published for
 * @returns {string[]}
 */
export function peBreaches(file, target) {
  let dll;
  try {
    dll = parse(readFileSync(file));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  if (!dll?.isDll) return ["is no DLL for 64 bits, or not a whole one"];
  const [, cpu] = target?.split("-") ?? [];
  const breaches = [];
  for (const name of dll.linked) if (!SYSTEM_DLL.test(name)) breaches.push(`links ${name}`);
  for (const name of dll.delayed) breaches.push(`links ${name} when it is first used`);
  for (const name of dll.shown) if (!ENTRIES.includes(name)) breaches.push(`shows ${name}`);
  if (!dll.shown.includes(ENTRIES[0])) breaches.push(`has no ${ENTRIES[0]}`);
  for (const [name, bit] of Object.entries(PROTECTIONS)) if (!(dll.protections & bit)) breaches.push(`lacks ${name}`);
  if (dll.symbols > 0) breaches.push("is not stripped");
  if (cpu && dll.machine !== MACHINES[cpu]) breaches.push(`is not for ${cpu}`);
  return breaches;
}

gate(import.meta.url, peBreaches);
