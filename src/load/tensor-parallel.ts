// A model over several devices by tensor parallelism: the matrices of its blocks, and a head of its own, are cut by outputs
// (nn/tensor-parallel.ts). Each is read by the main device as always, and cut as soon as it is whole.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { Model } from "../nn/model.js";
import { Linear, type Matrix, type Module, type Parameter } from "../nn/module.js";
import { TensorParallel } from "../nn/tensor-parallel.js";
import type { Memory } from "./device-map/memory.js";
import type { SpreadModel } from "./fill.js";
import type { MetaModel } from "./meta.js";
import { deviceName } from "./names.js";
import type { ParallelRequest, Platform } from "./platform.js";

export class Parallel implements SpreadModel {
  readonly main: Device;
  readonly devices: readonly Device[];
  readonly device_map: Readonly<Record<string, string>>;
  readonly warnings: readonly string[] = [];
  readonly offloaded = false;
  readonly #placement: TensorParallel;
  readonly #matrices: ReadonlySet<Parameter | Matrix>;

  private constructor(devices: readonly Device[], model: Model) {
    this.devices = devices;
    this.main = devices[0]!;
    this.device_map = { "": this.main.name };
    this.#placement = new TensorParallel(devices);
    this.#matrices = new Set([...dividedLinears(model)].map(({ weight }) => weight));
  }

  /**
   * Opens the devices for a declared model.
   * @param platform with the threads that logical devices of the CPU share
   * @throws OptionError for a model that cannot be cut, and for bounds of other devices; DeviceError
   */
  static async open(
    platform: Pick<Platform, "requestDevice" | "chooseDevice"> & { cores(): number },
    { module }: MetaModel,
    request: ParallelRequest,
  ): Promise<Parallel> {
    checkModel(module);
    const { names, numbered } = await namesOf(platform, request);
    const onCPU = names.filter((name) => name.startsWith("cpu")).length;
    const threads = request.threads ?? (onCPU > 0 ? Math.max(1, Math.floor(platform.cores() / onCPU)) : undefined);
    const devices: Device[] = [];
    try {
      for (const [place, bytes] of boundsOf(names, request.memory, numbered)) devices.push(await opened(place, bytes));
      return new Parallel(devices, module);
    } catch (error) {
      for (const device of devices) await device.close();
      throw error;
    }

    async function opened(name: string, bytes: number | undefined): Promise<Device> {
      const device = await platform.requestDevice(name, name.startsWith("cpu") ? { threads } : {});
      if (bytes !== undefined) device.limit(bytes);
      return device;
    }
  }

  get tp_size(): number {
    return this.devices.length;
  }

  /** Everything is read by the main device. */
  deviceOf(): Device {
    return this.main;
  }

  filled(parameter: Parameter | Matrix): void {
    if (!this.#matrices.has(parameter)) return;
    const matrix = parameter as Matrix;
    const divided = this.#placement.divide(matrix.weight);
    if (divided) matrix.fill(divided);
  }

  completes(): undefined {
    return undefined;
  }

  async store(): Promise<void> {}

  finish(model: Model): void {
    for (const [, buffer] of model.named_buffers()) buffer.on(this.main);
    model.placement = this.#placement;
  }

  async close(): Promise<void> {
    this.#placement.dispose();
    for (const device of this.devices) await device.close();
  }
}

/** The linears of the blocks, and the head, unless it shares the matrix of an embedding. */
function dividedLinears(model: Model): Set<Linear> {
  const found = new Set<Linear>();
  const owners = new Map<Matrix, Module[]>();
  for (const [, module] of model.named_modules()) {
    const { weight } = module as { weight?: Matrix };
    if (weight) owners.set(weight, [...(owners.get(weight) ?? []), module]);
  }
  const inside = model.blocks.flat().flatMap((block) => [...block.named_modules()].map(([, module]) => module));
  for (const module of [...inside, model.output_embeddings()]) {
    if (!(module instanceof Linear) || !owners.get(module.weight)?.every((one) => one instanceof Linear)) continue;
    found.add(module);
  }
  return found;
}

/** @throws OptionError */
function checkModel(model: Model): void {
  for (const { weight, path } of dividedLinears(model)) {
    if (weight.experts === 1) continue;
    throw new OptionError(
      `tp_plan: "auto" does not cut models with experts: ${path} of ${model.class_name} is a stack`,
      {
        details: { option: "tp_plan" },
        hint: 'device_map: "balanced" spreads its layers',
      },
    );
  }
}

/** The names of the devices, the main one first, and what numbers mean. @throws OptionError, DeviceError */
async function namesOf(
  platform: Pick<Platform, "chooseDevice">,
  { size, devices, kind }: ParallelRequest,
): Promise<{ names: string[]; numbered: (n: number) => string }> {
  const named = devices?.every((one) => typeof one === "string") ? deviceName(devices[0]) : undefined;
  const gpu = (kind ?? named ?? (await platform.chooseDevice()).name).startsWith("webgpu");
  const numbered = (n: number): string => (gpu ? deviceName(n)! : `cpu:${n}`);
  const given = devices ?? Array.from({ length: size }, (_, n) => n);
  const names = given.map((one) => (typeof one === "number" ? numbered(one) : deviceName(one)!));
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice === undefined) return { names, numbered };
  throw new OptionError(`device_mesh: ${show(twice)} is there twice`, { details: { option: "device_mesh" } });
}

/** Each device with its bound, by its name or its number, which means what it means in `device_mesh`. @throws OptionError */
function boundsOf(
  names: readonly string[],
  memory: Memory | undefined,
  numbered: (n: number) => string,
): Map<string, number | undefined> {
  const bounds = new Map<string, number | undefined>(names.map((name) => [name, undefined]));
  for (const [place, bytes] of memory ?? []) {
    const name = typeof place === "number" ? numbered(place) : deviceName(place)!;
    if (!bounds.has(name)) {
      throw new OptionError(`max_memory: no part of the model goes to ${show(place)}`, {
        details: { option: "max_memory" },
        hint: `the devices are ${names.join(", ")}`,
      });
    }
    if (bounds.get(name) !== undefined) {
      throw new OptionError(`max_memory: ${name} is there twice`, { details: { option: "max_memory" } });
    }
    if (bytes < 1) throw new OptionError(`max_memory: ${name} takes a part of every matrix, and may take nothing`);
    bounds.set(name, Math.floor(bytes));
  }
  return bounds;
}
