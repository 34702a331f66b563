// What an add-on for Linux must be to load on other machines than the one that built it, read by readelf (binutils): only the C
// library is linked, no version of glibc is asked for that older systems lack, and only Node-API's entry points are shown.
//
//   node scripts/elf-gate.mjs FILE [TARGET]
//
// TARGET is like linux-x64-musl; without it glibc's version is not looked at. Prints each breach; exits 1 if there is one.

import { execFileSync } from "node:child_process";
import { gate } from "./gate.mjs";

/** The newest glibc that a published add-on may ask for: RHEL 8, Debian 10, Ubuntu 20.04 and Lambda have it. */
const GLIBC = [2, 28];
const ENTRIES = ["napi_register_module_v1", "node_api_module_get_api_version_v1"];
const GLIBC_FILES = /^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|ld-linux-(x86-64\.so\.2|aarch64\.so\.1))$/;
const MUSL_FILES = /^libc(\.musl-(x86_64|aarch64)\.so\.1|\.so)$/;
const MACHINES = { x64: "Advanced Micro Devices X86-64", arm64: "AArch64" };

const readelf = (...args) =>
  execFileSync("readelf", ["-W", ...args], { encoding: "utf8", env: { ...process.env, LC_ALL: "C" } });

/**
 * What is wrong with an add-on; empty if nothing is.
 * @param {string} file
 * @param {string} [target] such as linux-arm64-gnu: what it is published for
 * @returns {string[]}
 */
export function elfBreaches(file, target) {
  const [, cpu, libc] = target?.split("-") ?? [];
  const breaches = [];
  const needed = [...readelf("-d", file).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name);
  const fine = libc === "musl" ? MUSL_FILES : GLIBC_FILES;
  for (const name of needed) if (!fine.test(name)) breaches.push(`links ${name}`);
  const symbols = readelf("--dyn-syms", file)
    .split("\n")
    .map((line) => /^\s*\d+:\s+\S+\s+\d+\s+\S+\s+(\S+)\s+\S+\s+(\S+)\s+(\S+)/.exec(line))
    .filter(Boolean);
  for (const [, , section, name] of symbols) {
    if (section !== "UND" && !ENTRIES.includes(name)) breaches.push(`shows ${name}`);
    if (/@(GLIBCXX|CXXABI)_/.test(name)) breaches.push(`asks for ${name} of the C++ library`);
    const [, major, minor] = /@+GLIBC_(\d+)\.(\d+)/.exec(name) ?? [];
    const newer = major !== undefined && Number(major) * 1000 + Number(minor) > GLIBC[0] * 1000 + GLIBC[1];
    if (libc === "musl" && major !== undefined) breaches.push(`asks for ${name}: it is built for glibc`);
    if (libc === "gnu" && newer) breaches.push(`asks for ${name}, newer than glibc ${GLIBC.join(".")}`);
  }
  if (!symbols.some(([, , section, name]) => section !== "UND" && name === ENTRIES[0]))
    breaches.push(`has no ${ENTRIES[0]}`);
  if (cpu && !readelf("-h", file).includes(MACHINES[cpu])) breaches.push(`is not for ${cpu}`);
  return breaches;
}

gate(import.meta.url, elfBreaches);
