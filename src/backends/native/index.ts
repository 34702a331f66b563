// The CPU backend: opens a device of the C++ add-on and checks that its kernels have this library's op signatures.
// The kernels are in native/; nothing here computes.

import type { Backend, BackendFailure, BufferId, KernelInfo, Link, LoadOptions } from "../../core/backend.js";
import { DTYPE_CODE, type DType } from "../../core/dtype.js";
import { checkOptions, DeviceError, OptionError, OutOfMemoryError } from "../../core/errors.js";
import {
  type Addon,
  addon,
  addonHint,
  type LoadCounts,
  type MachineInfo,
  machineInfo,
  misfit,
  type NativeDevice,
  type OpProfile,
} from "./addon.js";

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

function threadsFrom(options: NativeOptions): number | undefined {
  if (options.threads !== undefined) return options.threads;
  const text = process.env.OCTAVO_THREADS;
  if (!text) return undefined;
  if (!/^[1-9]\d*$/.test(text)) throw new OptionError(`OCTAVO_THREADS must be a whole number from 1, got "${text}"`);
  return Number(text);
}

/** Threads that devices of one model share: those that one device would have. @throws DeviceError without the add-on */
export function threadsToShare(): number {
  return threadsFrom({}) ?? machineInfo().cores;
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
      { hint: addonHint(), details: { op, expected: wanted, got: signature } },
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
    { ahead = false, site = 0, stamp }: LoadOptions = {},
  ): void {
    try {
      this.#device.load(buffer, offset, file, position, bytes, ahead, site, stamp?.inode, stamp?.modified);
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
