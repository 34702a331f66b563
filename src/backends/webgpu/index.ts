// The WebGPU backend: WGSL kernels behind the Backend contract. Nothing of Node's here: the caller passes the GPU object of
// a browser (`navigator.gpu`), of Deno, or of Dawn (node.ts).

import type { Backend, BackendFailure, BufferId, KernelInfo, PreparedCommands } from "../../core/backend.js";
import { FORGET } from "../../core/command.js";
import { DeviceError, OctavoError, OutOfMemoryError } from "../../core/errors.js";
import { signatures } from "../../ops/index.js";
import { SUBGROUP_MATRIX, subgroupMatrix } from "./device/adapter.js";
import { type Block, Buffers } from "./device/buffers.js";
import { CommandRecorder, type RecorderStatistics } from "./device/command-recorder.js";
import { ErrorScopes, unchecked } from "./device/error-scopes.js";
import { FailureLog } from "./device/failure-log.js";
import type { PreparedStep } from "./device/prepared-step.js";
import type { Kernel, Target } from "./kernel.js";
import { FUSIONS } from "./kernels/fusions.js";
import { KERNELS } from "./kernels/index.js";
import { PATCH } from "./kernels/patch.js";
import { probes } from "./kernels/probe.js";
import { decodeCall } from "./schedule/call.js";
import { byDepth, type Pending } from "./schedule/horizontal-fusion.js";
import { recordTogether } from "./schedule/schedule.js";
import { recordFitting } from "./schedule/split.js";
import type { Shader } from "./shader.js";

export interface WebGPUOptions {
  /** Bytes that allocations may take in all; WebGPU does not say what the device has. */
  readonly budget?: number;
  /** "default" requests only WebGPU's default limits and no features, which every adapter supports. */
  readonly limits?: "adapter" | "default";
  /** False turns off WGSL's integer dot product, subgroups or 16-bit floats, for comparisons. */
  readonly dot4?: boolean;
  readonly subgroups?: boolean;
  readonly f16?: boolean;
  /** False turns off subgroup matrices; a size such as "8x8x8" (M, N, K) is used without asking the adapter. */
  readonly subgroupMatrix?: boolean | string;
  /**
   * A row's results never depend on the number of rows: float and 4-bit products always use the kernels for few rows.
   * LLM.int8() and attention have this property anyway.
   */
  readonly deterministic?: boolean | undefined;
  /** Limits of a binding and of a buffer in bytes, lower than the device's: for tests of splits. */
  readonly binding?: number;
  readonly buffer?: number;
}

/** The backend, with members that only WebGPU has. */
export interface WebGPUBackend extends Backend {
  readonly statistics: Readonly<RecorderStatistics>;
  /** All shaders that calls can use on this device. */
  shaders(): readonly Shader[];
  /** Keys of the shaders used so far. */
  readonly used: ReadonlySet<string>;
  /** Checks a shader, or builds its pipeline, without running it. */
  compile(shader: Shader, how: "check" | "pipeline"): Promise<void>;
}

/** Shaders count elements in 32 bits, and a byte holds two 4-bit elements. */
const LARGEST_BINDING = 2 ** 31;
const DEFAULT_BUDGET = 64 * 2 ** 30;
/** A software adapter lives in the memory of the machine. */
const FALLBACK_BUDGET = 4 * 2 ** 30;

/**
 * Opens a device of an adapter.
 * @throws DeviceError if there is no adapter or it cannot open a device; OutOfMemoryError
 */
export async function openWebGPU(gpu: GPU, options: WebGPUOptions = {}): Promise<WebGPUBackend> {
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new DeviceError("webgpu: this machine offers no adapter", {
      hint: "install a Vulkan, Metal or D3D12 driver, or use the cpu",
    });
  }
  const plain = options.limits === "default";
  const { limits } = adapter;
  let device: GPUDevice;
  try {
    device = await adapter.requestDevice({
      requiredFeatures: plain
        ? []
        : (["subgroups", "shader-f16", SUBGROUP_MATRIX as GPUFeatureName] as const).filter((name) =>
            adapter.features.has(name),
          ),
      requiredLimits: plain
        ? {}
        : {
            maxBufferSize: limits.maxBufferSize,
            maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
            maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
          },
    });
  } catch (error) {
    throw new DeviceError(`webgpu: the adapter cannot open a device: ${(error as Error).message}`, { cause: error });
  }
  const dot4 = options.dot4 !== false && gpu.wgslLanguageFeatures.has("packed_4x8_integer_dot_product");
  const subgroups =
    options.subgroups !== false && device.features.has("subgroups") && gpu.wgslLanguageFeatures.has("subgroup_id");
  const f16 = options.f16 !== false && device.features.has("shader-f16");
  const target: Target = {
    dot4,
    subgroups,
    f16,
    matrix: subgroups && f16 ? await subgroupMatrix(adapter, device, "f16", options.subgroupMatrix) : undefined,
    matrix8: subgroups ? await subgroupMatrix(adapter, device, "i8", options.subgroupMatrix) : undefined,
    deterministic: options.deterministic === true,
    storageBuffers: device.limits.maxStorageBuffersPerShaderStage,
  };
  const backend = new WebGPU(adapter, device, target, options);
  await backend.ready();
  return backend;
}

/** Messages of implementations that ran out of memory: VK_ERROR_OUT_OF_DEVICE_MEMORY, E_OUTOFMEMORY, ... */
const NO_MEMORY = /out[ _]?of[ _]?(\w+[ _])?memory|insufficient memory/i;

function lossOf(reason: string, message: string): OctavoError {
  const text = `webgpu: the device was lost (${reason || "unknown"}): ${message}`;
  const hint = "open a new device and load the model again";
  return NO_MEMORY.test(message) ? new OutOfMemoryError(text, { hint }) : new DeviceError(text, { hint });
}

class WebGPU implements WebGPUBackend {
  readonly name = "webgpu";
  readonly description: string;
  readonly kernels: readonly KernelInfo[];
  readonly budget: number;
  /** True if large products may use subgroup matrices of f16; and of i8. */
  readonly matrices: boolean;
  readonly matrices8: boolean;
  readonly #device: GPUDevice;
  readonly #target: Target;
  readonly #recorder: CommandRecorder;
  readonly #buffers: Buffers;
  readonly #failures: FailureLog;
  readonly #kernels: readonly Kernel[];
  readonly #scopes: ErrorScopes;
  #lost: OctavoError | undefined;
  #closed = false;

  constructor(adapter: GPUAdapter, device: GPUDevice, target: Target, options: WebGPUOptions) {
    const { info } = adapter;
    const known = signatures();
    this.#device = device;
    this.#target = target;
    this.matrices = target.matrix !== undefined;
    this.matrices8 = target.matrix8 !== undefined;
    this.#kernels = [...KERNELS.filter(({ op }) => known.has(op.name)), ...probes(target)];
    this.kernels = this.#kernels.map(({ op }) => ({ name: op.name, signature: op.signature.text }));
    this.budget = options.budget ?? (info.isFallbackAdapter ? FALLBACK_BUDGET : DEFAULT_BUDGET);
    const features = [
      target.subgroups ? "subgroups" : "",
      target.f16 ? "f16" : "",
      target.matrix ? `matrices ${target.matrix.matrix}` : "",
      target.matrix8 ? `int8 matrices ${target.matrix8.matrix}` : "",
      target.dot4 ? "dot4" : "",
    ]
      .filter(Boolean)
      .join(", ");
    const title = info.description || [info.vendor, info.architecture, info.device].filter(Boolean).join(" ");
    this.description = `WebGPU, ${title || "unnamed adapter"}${features ? ` (${features})` : ""}`;
    this.#scopes = new ErrorScopes(device);
    const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
    const whole = (bytes: number): number => Math.floor(bytes / 256) * 256;
    const segment = whole(Math.min(options.buffer ?? maxBufferSize, maxBufferSize));
    this.#recorder = new CommandRecorder(device, this.#scopes, segment, (call, error) =>
      this.#failures.fail(call, error),
    );
    this.#failures = new FailureLog(this.#recorder, (kernel) => this.#kernels[kernel]!.op.signature);
    const binding = whole(
      Math.min(options.binding ?? maxStorageBufferBindingSize, maxStorageBufferBindingSize, LARGEST_BINDING, segment),
    );
    this.#buffers = new Buffers(
      device,
      this.#scopes,
      { buffer: segment, binding },
      (buffer, check) => this.#failures.allocated(buffer, check),
      (block) => this.#recorder.forget(block),
    );
    this.#recorder.buffers = this.#buffers;
    device.onuncapturederror = ({ error: { message } }) => this.#failures.refuse(new DeviceError(`webgpu: ${message}`));
    device.lost.then(({ reason, message }) => {
      if (!this.#closed) this.#lost = lossOf(reason, message);
    });
  }

  /** @throws OutOfMemoryError if the device lacks memory for the buffers that every call needs */
  async ready(): Promise<void> {
    await this.#scopes.heard;
    const { error } = this.#recorder.flag.check;
    if (!error) return;
    await this.close();
    throw error;
  }

  get lost(): boolean {
    return this.#lost !== undefined;
  }

  get statistics(): Readonly<RecorderStatistics> {
    return this.#recorder.statistics;
  }

  get used(): ReadonlySet<string> {
    return this.#recorder.pipelines.used;
  }

  shaders(): readonly Shader[] {
    const all = new Map<string, Shader>();
    for (const kernel of this.#kernels) for (const shader of kernel.shaders(this.#target)) all.set(shader.key, shader);
    for (const fusion of FUSIONS)
      for (const shader of fusion.shaders?.(this.#target) ?? []) all.set(shader.key, shader);
    all.set(PATCH.key, PATCH);
    return [...all.values()];
  }

  compile(shader: Shader, how: "check" | "pipeline"): Promise<void> {
    return this.#recorder.pipelines.compile(shader, how);
  }

  allocate(bytes: number): BufferId {
    this.#alive();
    return this.#buffers.allocate(bytes);
  }

  free(buffer: BufferId): void {
    this.#buffers.free(buffer);
    this.#failures.freed(buffer);
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    this.#alive();
    const block = this.#buffers.block(buffer);
    if (offset < 0 || offset + bytes.length > block.bytes) {
      throw new DeviceError(`webgpu: ${offset}+${bytes.length} bytes of buffer ${buffer} do not exist`);
    }
    // The device writes whole words; ragged ends are patched into their words.
    const first = Math.min(Math.ceil(offset / 4) * 4, offset + bytes.length);
    const last = Math.max(first, Math.floor((offset + bytes.length) / 4) * 4);
    const check = unchecked();
    if (last > first) this.#recorder.write(block, first, bytes.subarray(first - offset, last - offset), check);
    this.#recorder.begin([check]);
    this.#patch(block, offset, bytes.subarray(0, first - offset));
    this.#patch(block, last, bytes.subarray(last - offset));
    this.#failures.wrote(buffer, offset, offset + bytes.length, check);
  }

  spoil(buffer: BufferId, offset: number, bytes: number, failure: BackendFailure): void {
    this.#alive();
    this.#failures.spoilt(buffer, offset, offset + bytes, failure);
  }

  submit(commands: Int32Array, words: number): void {
    this.#alive();
    const first = this.#failures.submit(commands.slice(0, words));
    this.#record(commands, words, first, (call, message) => this.#failures.fail(call, message));
    this.#recorder.submit();
    this.#failures.keepShort();
  }

  prepare(commands: Int32Array, words: number): PreparedCommands {
    const own = commands.slice(0, words);
    let step: PreparedStep | undefined;
    let alive = true;
    // A prepared step cannot report the error of a call that cannot be computed, so with such a call no step is prepared.
    const record = (): boolean => {
      let complete = true;
      this.#record(own, words, 0, () => {
        complete = false;
      });
      return complete;
    };
    return {
      run: () => {
        this.#alive();
        if (!alive) return;
        this.#recorder.submit(); // destroys freed blocks, which makes steps that use them stale
        // Scratch may grow while the step is prepared, which makes the step stale once.
        for (let turn = 0; turn < 3 && (!step || step.stale); turn++) {
          step?.destroy();
          step = this.#recorder.prepare(record);
          this.#recorder.submit();
        }
        if (!step || step.stale) {
          this.submit(own, words);
          return;
        }
        const first = this.#failures.submit(own);
        this.#recorder.replay(step, first, this.#failures.end);
        this.#failures.keepShort();
      },
      dispose: () => {
        alive = false;
        step?.destroy();
      },
    };
  }

  async read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    this.#alive();
    const block = this.#buffers.block(buffer);
    const most = Math.max(bytes, checked);
    if (offset < 0 || offset + most > block.bytes) {
      throw new DeviceError(`webgpu: ${offset}+${most} bytes of buffer ${buffer} do not exist`);
    }
    try {
      return await this.#failures.read(buffer, block, offset, bytes, checked);
    } catch (error) {
      if (error instanceof OctavoError || "failure" in (error as object)) throw error;
      // A lost device refuses the mapping first and says so a moment later.
      await Promise.race([this.#device.lost, new Promise((resolve) => setTimeout(resolve, 100))]);
      throw this.#lost ?? error;
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#lost) await this.#device.queue.onSubmittedWorkDone();
    await this.#recorder.idle(); // earlier reads still get their answers
    this.#buffers.close();
    this.#recorder.close();
    this.#device.destroy();
  }

  #alive(): void {
    if (this.#lost) throw this.#lost;
    if (this.#closed) throw new DeviceError("webgpu: the device is closed");
  }

  /**
   * Records encoded commands, with calls numbered from `first` on; `failed` is called for those that cannot be computed.
   */
  #record(commands: Int32Array, words: number, first: number, failed: (call: number, message: string) => void): void {
    const floats = new Float32Array(commands.buffer, commands.byteOffset, commands.length);
    const blockOf = (buffer: number) => this.#buffers.block(buffer);
    const calls: Pending[] = [];
    for (let at = 0, number = first; at < words; at += commands[at + 1]!, number++) {
      if (commands[at] === FORGET) continue;
      const kernel = this.#kernels[commands[at]!]!;
      const { inputs, outputs, attrs } = kernel.op.signature;
      calls.push({
        kernel,
        call: decodeCall(commands, floats, at, inputs.length + outputs.length, attrs, blockOf),
        number,
      });
    }
    const done = new Set<Pending>();
    const ordered = byDepth(calls);
    ordered.forEach((pending, at) => {
      if (done.has(pending)) return;
      const { kernel, call, number } = pending;
      if (recordTogether(ordered, at, done, this.#recorder, this.#target)) return;
      this.#recorder.begin([number]);
      const message = recordFitting(kernel, call, this.#recorder, this.#target);
      if (message !== undefined) failed(number, message);
    });
  }

  /** Writes up to three bytes inside one word, after everything recorded so far. */
  #patch(block: Block, offset: number, bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    let mask = 0;
    let value = 0;
    const shift = offset % 4;
    for (let i = 0; i < bytes.length; i++) {
      mask |= 0xff << ((shift + i) * 8);
      value |= bytes[i]! << ((shift + i) * 8);
    }
    const word = Math.floor(offset / 4);
    const start = Math.floor((word * 4) / 256) * 256;
    const binding = { block, start, size: Math.min(256, block.bytes - start) };
    this.#recorder.dispatch(PATCH, [binding], { word: word - start / 4, mask: mask >>> 0, value: value >>> 0 }, 1);
  }
}
