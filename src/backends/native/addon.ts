// The C++ add-on: what it exports, and where it is found.

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { KernelInfo } from "../../core/backend.js";
import { DeviceError } from "../../core/errors.js";
import { signatures as opSignatures } from "../../ops/index.js";
import { builtFile, keptFile, missingHint, packageManifest, packagePlace } from "../_package.js";
import { fromPackage, platformPackage } from "./platform-package.js";

/** Time and calls of an op since `profile(true)`. */
export interface OpProfile {
  readonly op: string;
  /** Instruction set level of the kernel that ran. */
  readonly isa: string;
  readonly calls: number;
  readonly ns: number;
}

/** The CPU as the add-on sees it. */
export interface MachineInfo {
  readonly model: string;
  readonly features: string;
  /** Physical cores that this process may use. */
  readonly cores: number;
  /** Bytes of memory that this process may use. */
  readonly memory: number;
  readonly isasCompiled: readonly string[];
  readonly isasSupported: readonly string[];
  /** The highest level in both lists; empty if there is none. */
  readonly best: string;
}

/** A link over which two devices transfer bytes; opaque outside the add-on. */
type NativeLink = object;

export interface NativeDevice {
  allocate(bytes: number): number;
  free(buffer: number): void;
  write(buffer: number, offset: number, bytes: Uint8Array): void;
  submit(commands: Int32Array, words: number): void;
  read(buffer: number, offset: number, bytes: number, checked: number): Promise<Uint8Array>;
  load(
    buffer: number,
    offset: number,
    file: string,
    position: number,
    bytes: number,
    ahead: boolean,
    site: number,
    inode?: bigint,
    modified?: bigint,
  ): void;
  spoil(buffer: number, offset: number, bytes: number, op: string, site: number, message: string): void;
  send(buffer: number, offset: number, bytes: number, link: NativeLink): void;
  receive(buffer: number, offset: number, bytes: number, link: NativeLink): void;
  close(): Promise<void>;
  info(): { isa: string; threads: number } & LoadCounts;
  kernels(): (KernelInfo & { isa: string })[];
  profile(on: boolean): void;
  profileReport(): OpProfile[];
}

/** Counts of loads that were read ahead. */
export interface LoadCounts {
  /** Loads that were read ahead. */
  readonly loadsAhead: number;
  /** Kernels that began during such a load. */
  readonly overlapped: number;
}

export interface Addon {
  /** Of the package that it was built for; older builds do not say. */
  readonly version?: string;
  open(options: { threads?: number; isa?: string }): NativeDevice;
  machine(): MachineInfo;
  link(): NativeLink;
  failLink(link: NativeLink, message: string): void;
  panelBytes(dtype: number, rows: number, columns: number): number;
  exchange(a: string, b: string): number;
}

const ADDON = "octavo.node";
/** What to do about Node's own refusals, by their code. */
const FORBIDDEN: Readonly<Record<string, string>> = {
  ERR_DLOPEN_DISABLED:
    'start node without --no-addons (with --permission, pass --allow-addons), or pass { device: "wasm" }',
};

/** Where an add-on was found. */
export type AddonOrigin = "OCTAVO_ADDON" | "own build" | "copy of an earlier build" | "package";

/** The add-on, and where it was loaded from. */
interface Loaded {
  readonly addon: Addon;
  readonly file: string;
  readonly origin: AddonOrigin;
}

let loaded: Loaded | undefined;

/** What to do where the add-on is missing: install the package of this platform, if there is one, or build it. */
export function addonHint(): string {
  const build = missingHint("build-native.mjs", "OCTAVO_ADDON");
  const { root } = packagePlace();
  const listed = listedPackage();
  const install = listed && `npm i ${listed.name}@${listed.version}`;
  // What is published from a release has no sources.
  if (!root || existsSync(join(root, "scripts", "build-native.mjs"))) {
    return install ? `${install}, or build it here: ${build}` : build;
  }
  return (
    install ?? `nobody has built ${platformPackage()}; a clone of Octavo's repository builds the add-on: npm start`
  );
}

/** The package of this platform that belongs to this version; a checkout has none. */
function listedPackage(): { readonly name: string; readonly version: string } | undefined {
  const { optionalDependencies } = packageManifest();
  if (!optionalDependencies) return undefined;
  const name = platformPackage();
  const version = optionalDependencies[name];
  return version === undefined ? undefined : { name, version };
}

/**
 * OCTAVO_ADDON, or build/octavo.node of this package, or the copy kept of an earlier one, or the package of this platform. All
 * but the first must be of this version.
 * @throws DeviceError without any
 */
function load(): Loaded {
  const named = process.env.OCTAVO_ADDON;
  if (named) return open(named, "OCTAVO_ADDON");
  const why: string[] = [];
  const built = builtFile(ADDON);
  if (built) {
    const own = open(built, "own build");
    if (isOurs(own.addon)) return own;
    why.push(`${built} is of version ${own.addon.version}, octavo of ${packageManifest().version}`);
  }
  const kept = keptFile(ADDON);
  const fitting = kept && openIfFits(kept);
  if (fitting) return fitting;
  const listed = listedPackage();
  const found = listed && fromPackage(listed.name);
  if (listed && found) {
    const { name, version } = listed;
    const own = found.version === version ? open(found.file, "package") : undefined;
    if (own && isOurs(own.addon)) return own;
    const got = own?.addon.version ?? found.version;
    throw new DeviceError(`the package ${name} is of version ${got}, and octavo of ${version}: they must match`, {
      hint: `npm i ${name}@${version}`,
      details: { file: found.file, expected: version, got },
    });
  }
  const { root, bundled } = packagePlace();
  if (listed) why.push(`the package ${listed.name} is not installed`);
  else if (!root) why.push("this package is not installed where the program lies");
  else if (why.length === 0) why.push(`there is no ${join(root, "build", ADDON)}`);
  const what = bundled ? "is not in the bundle" : listed ? "is missing" : "is not built";
  throw new DeviceError(`the native add-on ${what}: ${why.join("; ")}`, { hint: addonHint() });
}

/** True for an add-on of this version, or of a time when add-ons had none; its kernels are checked anyway. */
function isOurs({ version }: Addon): boolean {
  const wanted = packageManifest().version;
  return version === undefined || wanted === undefined || version === wanted;
}

/** A kept add-on, unless it cannot be loaded here or has other kernels than this library: then it is as if it were not there. */
function openIfFits(file: string): Loaded | undefined {
  try {
    const found = open(file, "copy of an earlier build");
    if (!isOurs(found.addon)) return undefined;
    const device = found.addon.open({ threads: 1 });
    const kernels = device.kernels();
    void device.close();
    return misfit(kernels, opSignatures()) ? undefined : found;
  } catch {
    return undefined;
  }
}

/** The first kernel whose signature is not the wanted one. */
export function misfit(
  kernels: readonly KernelInfo[],
  signatures: ReadonlyMap<string, string> | undefined,
): (KernelInfo & { wanted: string }) | undefined {
  for (const kernel of kernels) {
    const wanted = signatures?.get(kernel.name);
    if (wanted !== undefined && wanted !== kernel.signature) return { ...kernel, wanted };
  }
  return undefined;
}

function found(): Loaded {
  loaded ??= load();
  return loaded;
}

/** The add-on, loaded on first use. @throws DeviceError if it is not built */
export function addon(): Addon {
  return found().addon;
}

/** @throws DeviceError for a file that is no add-on, or one for another CPU */
function open(file: string, origin: AddonOrigin): Loaded {
  const module = { exports: {} };
  try {
    // Not `require`: bundlers rewrite it, and then look for the add-on among their own modules.
    process.dlopen(module, resolve(file));
  } catch (error) {
    const { name, message, code } = error as Error & { code?: string };
    // Windows says it in two lines.
    const said = message.replace(/\s*[\r\n]+/g, " ").trim();
    throw new DeviceError(`the native add-on ${file} cannot be loaded: ${said}`, {
      hint: name === "NotCapable" ? "deno run --allow-read --allow-env --allow-ffi" : (FORBIDDEN[code!] ?? addonHint()),
      cause: error,
    });
  }
  const addon = module.exports as Addon;
  const { best, isasCompiled, isasSupported } = addon.machine();
  if (best === "") {
    const [built, here] = [isasCompiled, isasSupported].map((levels) => levels.join(", "));
    throw new DeviceError(`the native add-on was built for another CPU: it has ${built}, this CPU has ${here}`, {
      hint: `${addonHint()}, on this machine or with --all`,
      details: { file, expected: isasSupported, got: isasCompiled },
    });
  }
  return { addon, file, origin };
}

/** The file of the add-on. @throws DeviceError if it is not built */
export function addonFile(): string {
  return found().file;
}

/** How the add-on was found. @throws DeviceError if it is not built */
export function addonOrigin(): AddonOrigin {
  return found().origin;
}

/** True if the add-on is built and can be loaded. */
export function nativeAvailable(): boolean {
  try {
    addon();
    return true;
  } catch {
    return false;
  }
}

/** @throws DeviceError if the add-on is not built. */
export function machineInfo(): MachineInfo {
  return addon().machine();
}

/** Swaps what lies at two paths in one step. False if the add-on, the system or the file system cannot. */
export function exchangePaths(a: string, b: string): boolean {
  try {
    return addon().exchange(a, b) === 0;
  } catch {
    return false; // no add-on, or an earlier one
  }
}
