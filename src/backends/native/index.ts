// The CPU backend: finds the C++ add-on, opens its device and checks that its kernels have this library's op signatures.
// The kernels are in native/; nothing here computes.

import { join, resolve } from "node:path";
import type { Backend, BackendFailure, BufferId, KernelInfo, Link, LoadOptions } from "../../core/backend.js";
import { DTYPE_CODE, type DType } from "../../core/dtype.js";
import { checkOptions, DeviceError, OptionError, OutOfMemoryError } from "../../core/errors.js";
import { signatures as opSignatures } from "../../ops/index.js";
import { builtFile, keptFile, missingHint, packagePlace } from "../_package.js";

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

interface NativeDevice {
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

interface Addon {
  open(options: { threads?: number; isa?: string }): NativeDevice;
  machine(): MachineInfo;
  link(): NativeLink;
  failLink(link: NativeLink, message: string): void;
  panelBytes(dtype: number, rows: number, columns: number): number;
}

export interface NativeOptions {
  /** The device's name in messages; default "cpu". */
  readonly name?: string;
  /** Bytes that allocations may take in all; at most, and by default, 90% of the machine's memory. */
  readonly memory?: number;
  /** Compute threads; default: OCTAVO_THREADS, or the physical cores. */
  readonly threads?: number;
  /** Instruction set level, such as "avx2"; default: OCTAVO_ISA, or the best of this CPU. */
  readonly isa?: string;
  /**
   * A row's results never depend on the number of rows. This excludes the matrix units (AMX), which sum in another order
   * and are used for many rows only; other instruction sets have this property anyway.
   */
  readonly deterministic?: boolean;
  /** Signature text by op name; the kernels of these ops must have exactly this text. */
  readonly signatures?: ReadonlyMap<string, string>;
}

/** The native backend, with its additional members. */
export interface NativeBackend extends Backend {
  readonly isa: string;
  readonly threads: number;
  load(buffer: BufferId, offset: number, file: string, position: number, bytes: number, options?: LoadOptions): void;
  loadCounts(): LoadCounts;
  panelBytes(dtype: DType, rows: number, columns: number): number | undefined;
  /** Resets the clocks per op, and starts or stops them. */
  profile(on: boolean): void;
  profileReport(): readonly OpProfile[];
}

/** Share of the memory left to Node, the page cache and other processes. */
const MARGIN = 0.1;

const ADDON = "octavo.node";
/** What to do about Node's own refusals, by their code. */
const FORBIDDEN: Readonly<Record<string, string>> = {
  ERR_DLOPEN_DISABLED:
    'start node without --no-addons (with --permission, pass --allow-addons), or pass { device: "wasm" }',
};

let loaded: Addon | undefined;
/** The file of it. */
let from = "";

const buildHint = (): string => missingHint("build-native.mjs", "OCTAVO_ADDON");

/** OCTAVO_ADDON, or build/octavo.node of this package, or the copy kept of an earlier one. @throws DeviceError without any */
function load(): Addon {
  const file = process.env.OCTAVO_ADDON || builtFile(ADDON);
  if (file) return open(file);
  const kept = keptFile(ADDON);
  const fitting = kept && openIfFits(kept);
  if (fitting) return fitting;
  const { root, bundled } = packagePlace();
  const where = root
    ? `there is no ${join(root, "build", ADDON)}`
    : "this package is not installed where the program lies";
  throw new DeviceError(`the native add-on ${bundled ? "is not in the bundle" : "is not built"}: ${where}`, {
    hint: buildHint(),
  });
}

/** A kept add-on, unless it cannot be loaded here or has other kernels than this library: then it is as if it were not there. */
function openIfFits(file: string): Addon | undefined {
  try {
    const found = open(file);
    const device = found.open({ threads: 1 });
    const kernels = device.kernels();
    void device.close();
    return misfit(kernels, opSignatures()) ? undefined : found;
  } catch {
    return undefined;
  }
}

/** The first kernel whose signature is not the wanted one. */
function misfit(
  kernels: readonly KernelInfo[],
  signatures: ReadonlyMap<string, string> | undefined,
): (KernelInfo & { wanted: string }) | undefined {
  for (const kernel of kernels) {
    const wanted = signatures?.get(kernel.name);
    if (wanted !== undefined && wanted !== kernel.signature) return { ...kernel, wanted };
  }
  return undefined;
}

function addon(): Addon {
  loaded ??= load();
  return loaded;
}

/** @throws DeviceError for a file that is no add-on, or one for another CPU */
function open(file: string): Addon {
  const module = { exports: {} };
  let found: Addon;
  try {
    // Not `require`: bundlers rewrite it, and then look for the add-on among their own modules.
    process.dlopen(module, resolve(file));
    found = module.exports as Addon;
  } catch (error) {
    const { name, message, code } = error as Error & { code?: string };
    throw new DeviceError(`the native add-on ${file} cannot be loaded: ${message}`, {
      hint: name === "NotCapable" ? "deno run --allow-read --allow-env --allow-ffi" : (FORBIDDEN[code!] ?? buildHint()),
      cause: error,
    });
  }
  const { best, isasCompiled, isasSupported } = found.machine();
  if (best === "") {
    const [built, here] = [isasCompiled, isasSupported].map((levels) => levels.join(", "));
    throw new DeviceError(`the native add-on was built for another CPU: it has ${built}, this CPU has ${here}`, {
      hint: `${buildHint()}, on this machine or with --all`,
      details: { file, expected: isasSupported, got: isasCompiled },
    });
  }
  from = file;
  return found;
}

/** The file of the add-on. @throws DeviceError if it is not built */
export function addonFile(): string {
  addon();
  return from;
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

function threadsFrom(options: NativeOptions): number | undefined {
  if (options.threads !== undefined) return options.threads;
  const text = process.env.OCTAVO_THREADS;
  if (!text) return undefined;
  if (!/^[1-9]\d*$/.test(text)) throw new OptionError(`OCTAVO_THREADS must be a whole number from 1, got "${text}"`);
  return Number(text);
}

/** Levels that use different units for many rows than for few. */
const MATRIX_UNITS: readonly string[] = ["amx"];

/**
 * The instruction set level that the options request; undefined selects the add-on's default, the best one.
 * @throws OptionError if a level with matrix units is requested together with `deterministic`
 */
export function levelFor(
  { isa, deterministic }: Pick<NativeOptions, "isa" | "deterministic">,
  machine: Pick<MachineInfo, "isasCompiled" | "isasSupported" | "best">,
): string | undefined {
  if (!deterministic || !MATRIX_UNITS.includes(isa ?? machine.best)) return isa;
  if (isa !== undefined) {
    throw new OptionError(`deterministic: ${isa} uses matrix units, but only for many rows`, { hint: "leave isa out" });
  }
  // Both lists are in ascending order.
  return machine.isasCompiled.findLast((level) => {
    return machine.isasSupported.includes(level) && !MATRIX_UNITS.includes(level);
  });
}

/**
 * Opens a CPU device.
 * @throws DeviceError if the add-on is missing or was built for other signatures; OptionError for bad options.
 */
export function openNative(options: NativeOptions = {}): NativeBackend {
  checkOptions("openNative", options, ["name", "memory", "threads", "isa", "deterministic", "signatures"]);
  const { name = "cpu", memory } = options;
  if (memory !== undefined && !(Number.isSafeInteger(memory) && memory > 0)) {
    throw new OptionError(`memory must be a whole number of bytes, got ${memory}`);
  }
  const module = addon();
  const threads = threadsFrom(options);
  const { deterministic } = options;
  const isa = levelFor({ isa: options.isa ?? (process.env.OCTAVO_ISA || undefined), deterministic }, module.machine());
  let device: NativeDevice;
  try {
    device = module.open({ threads, isa });
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    if (code === "ERR_NATIVE_OPTION") throw new OptionError(message, { cause: error });
    throw new DeviceError(message, { cause: error });
  }
  const kernels = device.kernels();
  const other = misfit(kernels, options.signatures);
  if (other) {
    const { name: op, signature, wanted } = other;
    device.close();
    throw new DeviceError(
      `the native add-on has another signature for ${op}\n  add-on:  ${signature}\n  library: ${wanted}`,
      { hint: buildHint(), details: { op, expected: wanted, got: signature } },
    );
  }
  return new Native(module, device, kernels, name, memory);
}

class Native implements NativeBackend {
  readonly name: string;
  readonly description: string;
  readonly kernels: readonly KernelInfo[];
  readonly budget: number;
  readonly isa: string;
  readonly threads: number;
  readonly #addon: Addon;
  readonly #device: NativeDevice;
  readonly #panels = process.env.OCTAVO_PANELS !== "0";
  #closing: Promise<void> | undefined;

  constructor(
    module: Addon,
    device: NativeDevice,
    kernels: readonly KernelInfo[],
    name: string,
    memory = Number.POSITIVE_INFINITY,
  ) {
    const machine = module.machine();
    const { isa, threads } = device.info();
    this.name = name;
    this.#addon = module;
    this.#device = device;
    this.kernels = kernels;
    this.isa = isa;
    this.threads = threads;
    this.budget = Math.min(memory, Math.floor(machine.memory * (1 - MARGIN)));
    this.description = `${machine.model}, ${isa}, ${threads} thread${threads === 1 ? "" : "s"}`;
  }

  allocate(bytes: number): BufferId {
    try {
      return this.#device.allocate(bytes);
    } catch (error) {
      throw typed(error);
    }
  }

  /** After `close` all memory is gone, so there is nothing to do: work that was stopped by it still cleans up. */
  free(buffer: BufferId): void {
    if (this.#closing) return;
    try {
      this.#device.free(buffer);
    } catch (error) {
      throw typed(error);
    }
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    try {
      this.#device.write(buffer, offset, bytes);
    } catch (error) {
      throw typed(error);
    }
  }

  submit(commands: Int32Array, words: number): void {
    try {
      this.#device.submit(commands, words);
    } catch (error) {
      throw typed(error);
    }
  }

  read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    try {
      return this.#device.read(buffer, offset, bytes, checked).catch((error) => {
        throw typed(error);
      });
    } catch (error) {
      throw typed(error);
    }
  }

  load(
    buffer: BufferId,
    offset: number,
    file: string,
    position: number,
    bytes: number,
    { ahead = false, site = 0 }: LoadOptions = {},
  ): void {
    try {
      this.#device.load(buffer, offset, file, position, bytes, ahead, site);
    } catch (error) {
      throw typed(error);
    }
  }

  loadCounts(): LoadCounts {
    const { loadsAhead, overlapped } = this.#device.info();
    return { loadsAhead, overlapped };
  }

  spoil(buffer: BufferId, offset: number, bytes: number, { op, site, message }: BackendFailure): void {
    this.#device.spoil(buffer, offset, bytes, op, site, message);
  }

  link(to: Backend): Link | undefined {
    if (!(to instanceof Native)) return undefined;
    const link = this.#addon.link();
    return {
      send: (buffer, offset, bytes) => this.#device.send(buffer, offset, bytes, link),
      receive: (buffer, offset, bytes) => to.#device.receive(buffer, offset, bytes, link),
      fail: (message) => this.#addon.failLink(link, message),
    };
  }

  panelBytes(dtype: DType, rows: number, columns: number): number | undefined {
    if (!this.#panels) return undefined;
    const bytes = this.#addon.panelBytes(DTYPE_CODE[dtype], rows, columns);
    return bytes < 0 ? undefined : bytes;
  }

  profile(on: boolean): void {
    this.#device.profile(on);
  }

  profileReport(): readonly OpProfile[] {
    return this.#device.profileReport();
  }

  close(): Promise<void> {
    this.#closing ??= this.#device.close();
    return this.#closing;
  }
}

function typed(error: unknown): unknown {
  const { code, message } = error as Error & { code?: string };
  if (code === "ERR_NATIVE_OOM") return new OutOfMemoryError(message, { cause: error });
  if (code === "ERR_NATIVE_CLOSED") return new DeviceError(message, { cause: error });
  return error;
}
