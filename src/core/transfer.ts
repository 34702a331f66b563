// Transfers between devices without making the caller wait: the target's stream is held until the bytes have arrived. Devices
// that share memory hand them over on their own queues; all others go through the host. On the host at most `WINDOW` bytes
// between two devices wait for their target; beyond that the source waits. Every wait is for work that was recorded earlier,
// so devices cannot deadlock.

import type { BackendFailure, BufferId } from "./backend.js";
import type { Device } from "./device.js";
import { sharedCapture } from "./recording.js";

/** Most bytes on the host between two devices; a larger transfer goes alone. */
const WINDOW = 32 << 20;
/** From this size on, bytes count as in flight until the target's own queue has taken them, which may be much later. */
const LARGE = 1 << 20;

/** The way from one device to another through the host. */
class Lane {
  #bytes = 0;
  #waiting: { readonly bytes: number; readonly go: () => void } | undefined;

  /** Resolves when there is room for `bytes`; undefined if there is now. The source's stream is held, so at most one waits. */
  room(bytes: number): Promise<void> | undefined {
    if (this.#fits(bytes)) return undefined;
    return new Promise((go) => {
      this.#waiting = { bytes, go };
    });
  }

  take(bytes: number): void {
    this.#bytes += bytes;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
    const waiting = this.#waiting;
    if (!waiting || !this.#fits(waiting.bytes)) return;
    this.#waiting = undefined;
    waiting.go();
  }

  #fits(bytes: number): boolean {
    return this.#bytes === 0 || this.#bytes + bytes <= WINDOW;
  }
}

const lanes = new WeakMap<Device, WeakMap<Device, Lane>>();

function laneOf(from: Device, to: Device): Lane {
  let targets = lanes.get(from);
  if (!targets) {
    targets = new WeakMap();
    lanes.set(from, targets);
  }
  let lane = targets.get(to);
  if (!lane) {
    lane = new Lane();
    targets.set(to, lane);
  }
  return lane;
}

/** A place in the memory of a device. */
export interface Place {
  readonly device: Device;
  readonly buffer: BufferId;
  readonly offset: number;
}

/**
 * Records a copy of `bytes` bytes from `from` to `to`, on another device. If the source is spoilt or its device is lost, the
 * target is spoilt.
 * @throws DeviceError if a device is closed, or records into a capture that the other takes no part in
 */
export function moveBytes(from: Place, to: Place, bytes: number): void {
  const capture = sharedCapture(from.device, to.device);
  const move = (): void => {
    for (const { device } of [from, to]) device.checkOpen();
    if (!linked(from, to, bytes)) throughHost(from, to, bytes);
  };
  if (capture) capture.push([from.device, to.device], move);
  else move();
}

/** Through memory that both devices reach; false if there is none. */
function linked(from: Place, to: Place, bytes: number): boolean {
  const link = from.device.backend.link?.(to.device.backend);
  if (!link) return false;
  const guarded = (end: () => void) => (): void => {
    try {
      end();
    } catch (error) {
      link.fail((error as Error).message);
      throw error;
    }
  };
  const hand = (device: Device, end: () => void): void => guarded(() => device.enqueue(guarded(end)))();
  hand(from.device, () => link.send(from.buffer, from.offset, bytes));
  hand(to.device, () => link.receive(to.buffer, to.offset, bytes));
  return true;
}

type Arrival = { readonly bytes: Uint8Array } | { readonly failure: BackendFailure };

function throughHost(from: Place, to: Place, bytes: number): void {
  const source = from.device;
  const { backend } = to.device;
  const lane = laneOf(source, to.device);
  let arrive: (arrival: Arrival | Promise<Arrival>) => void;
  const arrival = new Promise<Arrival>((resolve) => {
    arrive = resolve;
  });
  const read = async (): Promise<Arrival> => {
    try {
      return { bytes: await source.backend.read(from.buffer, from.offset, bytes) };
    } catch (error) {
      return { failure: source.failureOf(error) };
    }
  };
  source.enqueue(() => lane.room(bytes));
  source.enqueue(() => {
    lane.take(bytes);
    arrive(read());
  });
  to.device.enqueue(async () => {
    const come = await arrival;
    const done = (): void => lane.give(bytes);
    try {
      if ("bytes" in come) backend.write(to.buffer, to.offset, come.bytes);
      else backend.spoil(to.buffer, to.offset, bytes, come.failure);
      if (bytes >= LARGE) return void backend.read(to.buffer, to.offset, 0, 0).then(done, done);
    } catch (error) {
      spoil(to, bytes, error);
    }
    done();
  });
}

/** Spoils bytes that arrived but could not be written: out of memory, or a lost device, whose reads report it. */
function spoil({ device, buffer, offset }: Place, bytes: number, error: unknown): void {
  try {
    device.backend.spoil(buffer, offset, bytes, device.failureOf(error));
  } catch {
    // The device is lost.
  }
}
