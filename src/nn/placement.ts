// Where the blocks of a model run and how their weights get there: blocks on several devices, with weights that stay on the
// device, or come from another one or from a file. `runBlocks` (pass.ts) calls this; nothing here waits on the host, and all
// of it can be recorded (`captureAll`).

import type { FileStamp } from "../core/backend.js";
import type { Device } from "../core/device.js";
import { DeviceError, OctavoError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { moveBytes } from "../core/transfer.js";
import { transfer } from "../ops/transfer.js";
import type { Model } from "./model.js";
import { type Module, within } from "./module.js";
import type { ModelPlacement } from "./pass.js";

/** The weights of a block, and how they get to its device. */
interface Resident {
  /** Bytes they take while they are there. */
  readonly bytes: number;
  /** Devices that a recording of them must include, besides the block's own. */
  readonly devices: readonly Device[];
  /** Records the start of their transfer: called just before the previous block computes. */
  ask(): void;
  /** Records their arrival: later commands may use them. Comes after `ask`. */
  enter(): void;
  /** Records that they may be evicted. */
  leave(): void;
  /** Records the arrival of some of them alone, outside a pass. */
  bring(some: ReadonlySet<Tensor>): void;
  dispose(): void;
}

const [HOST_COPY, STAGED] = ["weights on the host", "weights from a file"] as const;

/** Weights that lie on another device than they are used on, as reports of memory name them. */
export const AWAY_LABELS: readonly string[] = [HOST_COPY, STAGED];

/** Where the bytes of a tensor are stored, in the layout of its device. */
export interface Kept {
  /** The tensor of the model; a whole allocation. */
  readonly tensor: Tensor;
  /** The file, and the offset of the first byte. */
  readonly file: string;
  readonly position: number;
  /** The file as it was written: if it is another one when it is read, the tensor is spoilt. */
  readonly stamp?: FileStamp;
}

/** Weights that stay on the device. */
function onDevice(tensors: readonly Tensor[]): Resident {
  const nothing = (): void => {};
  const bytes = bytesOf(tensors);
  return { bytes, devices: [], ask: nothing, enter: nothing, leave: nothing, bring: nothing, dispose: nothing };
}

/**
 * Moves weights to the memory of another device, `host`; each pass transfers them back. They must be whole allocations, and
 * are evicted between passes.
 * @throws ShapeError, OutOfMemoryError
 */
export function onHost(tensors: readonly Tensor[], host: Device): Resident {
  const pairs: (readonly [Tensor, Tensor])[] = [];
  const move = (from: Tensor, to: Tensor): void => {
    moveBytes({ device: from.device, ...placeOf(from) }, { device: to.device, ...placeOf(to) }, from.nbytes);
  };
  try {
    for (const tensor of tensors) {
      const copy = Tensor.empty(host, [tensor.nbytes], "u8", HOST_COPY).keep();
      pairs.push([tensor, copy]);
      move(tensor, copy);
    }
    for (const tensor of tensors) tensor.evict();
  } catch (error) {
    for (const [, copy] of pairs) copy.dispose();
    throw error;
  }
  return {
    bytes: bytesOf(tensors),
    devices: [host],
    ask() {},
    enter() {
      for (const [tensor, copy] of pairs) {
        tensor.restore();
        move(copy, tensor);
      }
    },
    leave: () => evict(tensors),
    bring(some) {
      for (const [tensor, copy] of pairs) {
        if (!some.has(tensor)) continue;
        tensor.restore();
        move(copy, tensor);
      }
    },
    dispose() {
      for (const [, copy] of pairs) copy.dispose();
    },
  };
}

/**
 * Weights that each pass loads from a file, read ahead on a thread of their own. If their device cannot read files, they are
 * first read into memory of `via`, a device that can. They are evicted between passes.
 * @throws ShapeError, DeviceError if no device reads files
 */
export function onFile(kept: readonly Kept[], via?: Device): Resident {
  const tensors = kept.map(({ tensor }) => tensor);
  const through = kept.some(({ tensor }) => !tensor.device.readsFiles);
  if (through && !via?.readsFiles) {
    throw new DeviceError(`weights in a file: device ${tensors[0]!.device.name} reads no files`, {
      hint: "name a device that does, such as cpu",
    });
  }
  evict(tensors);
  const bytes = bytesOf(tensors);
  if (!through) {
    return {
      bytes,
      devices: [],
      ask() {
        for (const { tensor, file, position, stamp } of kept) {
          tensor.restore();
          tensor.device.load(tensor, file, position, { ahead: true, stamp });
        }
      },
      enter() {},
      leave: () => evict(tensors),
      bring(some) {
        for (const { tensor, file, position, stamp } of kept) {
          if (!some.has(tensor)) continue;
          tensor.restore();
          tensor.device.load(tensor, file, position, { stamp });
        }
      },
      dispose() {},
    };
  }
  const staged = new Map<Kept, Tensor>();
  const drop = (): void => {
    for (const stage of staged.values()) stage.dispose();
    staged.clear();
  };
  const stage = (some: readonly Kept[]): void => {
    drop();
    try {
      for (const one of some) {
        const stage = Tensor.empty(via!, [one.tensor.nbytes], "u8", STAGED).keep();
        staged.set(one, stage);
        via!.load(stage, one.file, one.position, { ahead: true, stamp: one.stamp });
      }
    } catch (error) {
      drop();
      throw error;
    }
  };
  const arrive = (): void => {
    try {
      for (const [{ tensor }, stage] of staged) {
        tensor.restore();
        moveBytes({ device: via!, ...placeOf(stage) }, { device: tensor.device, ...placeOf(tensor) }, stage.nbytes);
      }
    } finally {
      drop();
    }
  };
  return {
    bytes,
    devices: [via!],
    ask: () => stage(kept),
    enter: arrive,
    leave() {
      drop(); // asked for, but never entered
      evict(tensors);
    },
    bring(some) {
      stage(kept.filter(({ tensor }) => some.has(tensor)));
      arrive();
    },
    dispose: drop,
  };
}

/** Runs `body`; what it records on any of the devices is recorded under `path`. */
function onAll(devices: readonly Device[], path: string, body: () => void): void {
  const [device, ...others] = devices;
  if (!device) body();
  else within(device, path, () => onAll(others, path, body));
}

function placeOf({ buffer, offset }: Tensor): { buffer: number; offset: number } {
  return { buffer, offset };
}

function bytesOf(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, tensor) => sum + tensor.nbytes, 0);
}

function evict(tensors: readonly Tensor[]): void {
  for (const tensor of tensors) tensor.evict();
}

/** The cache device of each layer: that of its block in the model's last stack. */
export function layerDevices(model: Pick<Model, "placement" | "blocks">, device: Device): (layer: number) => Device {
  const { placement } = model;
  const layers = model.blocks.at(-1)!;
  return (layer) => placement?.deviceOf(layers[layer]!) ?? device;
}

/** The tensors of a module's weights, each once. */
export function tensorsOf(module: Module): Tensor[] {
  return [...new Set([...module.parameters()].flatMap((parameter) => parameter.tensors))];
}

/**
 * Blocks on several devices. While block i computes, the weights of block i + 1 are transferred, so at most two blocks are
 * resident. Everything else (embeddings, final norm, head) is on the main device.
 */
export class BlockPlacement implements ModelPlacement, Disposable {
  readonly main: Device;
  readonly #places = new Map<Module, { readonly device: Device; readonly resident: Resident }>();
  /** Blocks whose weights were asked for and have not left. */
  readonly #asked = new Set<Module>();
  /** The last reader outside a pass; they come one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  /** One of them has weights brought now. */
  #visited = false;
  /** Those who come back for more: no pass begins in between. */
  #readers = 0;

  constructor(main: Device) {
    this.main = main;
  }

  /** Sets where a block runs: on the device of its weights, unless they are evicted and `resident` brings them. */
  place(block: Module, resident?: Resident): this {
    const tensors = tensorsOf(block);
    const device = tensors[0]?.device ?? this.main;
    const other = tensors.find((tensor) => tensor.device !== device);
    if (other) {
      throw new DeviceError(`block ${block.path}: its weights are on ${device.name} and on ${other.device.name}`);
    }
    this.#places.set(block, { device, resident: resident ?? onDevice(tensors) });
    return this;
  }

  /** The device that a block runs on. */
  deviceOf(block: Module): Device {
    return this.#places.get(block)?.device ?? this.main;
  }

  /** All devices that take part: a recording of the model needs them all. */
  get devices(): readonly Device[] {
    const places = [...this.#places.values()];
    return [...new Set([this.main, ...places.flatMap(({ device, resident }) => [device, ...resident.devices])])];
  }

  enter(blocks: readonly Module[], index: number, h: Tensor): Tensor {
    const block = blocks[index]!;
    const next = blocks[index + 1];
    if (this.#visited || this.#readers > 0) {
      throw new OctavoError("ERR_IN_USE", "the weights of offloaded blocks are being read by another call", {
        hint: "wait until state_dict or save_pretrained has ended",
      });
    }
    this.#ask(block);
    this.#places.get(block)?.resident.enter();
    if (next) this.#ask(next);
    return transfer(h, this.deviceOf(block));
  }

  leave(blocks: readonly Module[], index: number): void {
    this.#leave(blocks[index]!);
  }

  exit(h: Tensor): Tensor {
    return transfer(h, this.main);
  }

  abandon(): void {
    for (const asked of this.#asked) this.#leave(asked);
  }

  reading(): () => void {
    this.#readers++;
    return () => void this.#readers--;
  }

  async visit<T>(tensors: readonly Tensor[], body: () => Promise<T>): Promise<T> {
    const before = this.#last;
    const visit = (async () => {
      await before;
      return this.#visit(tensors, body);
    })();
    this.#last = visit.catch(() => {}); // told to its caller
    return visit;
  }

  async #visit<T>(tensors: readonly Tensor[], body: () => Promise<T>): Promise<T> {
    const away = tensors.filter((tensor) => !tensor.resident);
    this.#visited = away.length > 0;
    try {
      const some = new Set(away);
      for (const [{ path }, { device, resident }] of this.#places) {
        onAll([device, ...resident.devices], path, () => resident.bring(some));
      }
      return await body();
    } finally {
      this.#visited = false;
      evict(away.filter(({ resident }) => resident));
    }
  }

  #ask(block: Module): void {
    if (this.#asked.has(block)) return;
    this.#asked.add(block);
    const place = this.#places.get(block);
    if (place) onAll([place.device, ...place.resident.devices], block.path, () => place.resident.ask());
  }

  #leave(block: Module): void {
    this.#asked.delete(block);
    this.#places.get(block)?.resident.leave();
  }

  /** Frees the places where the weights are kept; the blocks cannot run any more. */
  dispose(): void {
    for (const { resident } of this.#places.values()) resident.dispose();
    this.#places.clear();
    this.#asked.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
