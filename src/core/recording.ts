// Recordings: the commands of one or several devices, kept to be replayed. Each device's commands are cut into segments
// wherever another step comes between them: a transfer to or from another device, or a load of a file. All steps are replayed
// in the recorded order, so devices wait for each other as they did.

import type { Block } from "./arena.js";
import type { Backend, PreparedCommands } from "./backend.js";
import { isFunction, isOf, listOf } from "./checks.js";
import type { CommandBuffer } from "./command.js";
import { DeviceError, OctavoError, OptionError } from "./errors.js";
import { show } from "./show.js";

/** What a capture needs of a device. */
interface Recorder {
  readonly name: string;
  readonly backend: Backend;
  readonly commands: CommandBuffer;
  readonly stream: { run(operation: () => void): void };
  readonly capturing: Capture | undefined;
  beginCapture(capture: Capture): void;
  endCapture(): readonly Block[];
  replay(run: () => void, commands: number): void;
  release(block: Block): void;
}

/** Commands of one device between two steps of other kinds. */
interface Segment {
  readonly device: Recorder;
  readonly words: Int32Array;
  readonly commands: number;
}

/** A step that is repeated at each replay. */
type Action = () => void;

/** A recording in progress. */
export class Capture {
  readonly devices: ReadonlySet<Recorder>;
  readonly steps: (Segment | Action)[] = [];
  readonly #own = true;

  constructor(devices: Iterable<Recorder>) {
    this.devices = new Set(devices);
  }

  /** True for a capture itself, which a proxy of one is not. */
  static is(value: unknown): value is Capture {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  /** Ends the segment of a device: its next commands come after the steps that follow. */
  cut(device: Recorder): void {
    const { commands } = device;
    if (commands.length === 0) return;
    this.steps.push({ device, words: commands.words.slice(0, commands.length), commands: commands.commands });
    commands.reset();
  }

  /** Adds a step for these devices, after everything they have recorded so far. */
  push(devices: readonly Recorder[], action: Action): void {
    for (const device of devices) this.cut(device);
    this.steps.push(action);
  }
}

/**
 * Records what `body` does on several devices, including transfers between them, without running it (`Device.capture` is
 * the same for one device). `body` must use no other device. The caller disposes the recording.
 * @throws DeviceError inside another capture, or if a device is closed; OptionError for what is no list of devices, and for a
 * body that is no function or asynchronous
 */
export function captureAll(devices: readonly Recorder[], body: () => void): Recording {
  const capture = new Capture(recorders(devices));
  if (!isFunction(body)) throw new OptionError(`captureAll: body must be a function, got ${show(body)}`);
  const begun: Recorder[] = [];
  const blocks: [Recorder, readonly Block[]][] = [];
  let done = false;
  try {
    for (const device of capture.devices) {
      device.beginCapture(capture);
      begun.push(device);
    }
    refusePromise("captureAll", body());
    for (const device of begun) capture.cut(device);
    done = true;
  } finally {
    for (const device of begun) blocks.push([device, device.endCapture()]);
    if (!done) give(blocks);
  }
  return new Recording(capture, blocks);
}

/** The devices of a list. @throws OptionError */
function recorders(devices: readonly Recorder[]): readonly Recorder[] {
  const isRecorder = (one: unknown): one is Recorder => typeof (one as Recorder).beginCapture === "function";
  const list = listOf(devices, isRecorder);
  if (list && list.length > 0) return list;
  throw new OptionError(`captureAll: devices must be a list of at least one Device, got ${show(devices)}`);
}

/** @throws OptionError if a body turns out to be asynchronous; what it still does is not waited for */
export function refusePromise(call: string, result: unknown): void {
  if (!isOf(result, Promise)) return;
  result.catch(() => {});
  throw new OptionError(`${call}: body must not be async`, { hint: "await before it, and record inside" });
}

function give(blocks: readonly (readonly [Recorder, readonly Block[]])[]): void {
  for (const [device, own] of blocks) for (const block of own) device.release(block);
}

/** Commands that can be run again and again; see `Device.capture` and `captureAll`. */
export class Recording implements Disposable {
  readonly #steps: readonly Action[];
  readonly #prepared: [Recorder, PreparedCommands][] = [];
  #blocks: readonly [Recorder, readonly Block[]][];
  #alive = true;

  /** @throws OptionError for what `captureAll` did not make */
  constructor(capture: Capture, blocks: readonly [Recorder, readonly Block[]][]) {
    if (!Capture.is(capture)) {
      throw new OptionError("a Recording is not made by its constructor", {
        hint: "device.capture(() => ...) makes one",
      });
    }
    this.#blocks = blocks;
    this.#steps = capture.steps.map((step) => (typeof step === "function" ? step : this.#prepare(step)));
  }

  #prepare({ device, words, commands }: Segment): Action {
    const { backend } = device;
    const prepared: PreparedCommands = backend.prepare?.(words, words.length) ?? {
      run: () => backend.submit(words, words.length),
      dispose: () => {},
    };
    this.#prepared.push([device, prepared]);
    const run = (): void => prepared.run();
    return () => device.replay(run, commands);
  }

  /** Runs it once more, after everything recorded so far. Returns at once. */
  replay(): void {
    if (!this.#alive) throw new OctavoError("ERR_DISPOSED", "a recording was replayed after dispose()");
    for (const step of this.#steps) step();
  }

  dispose(): void {
    this.#alive = false;
    // After the replays that are still pending.
    for (const [device, prepared] of this.#prepared.splice(0)) device.stream.run(() => prepared.dispose());
    give(this.#blocks);
    this.#blocks = [];
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @throws DeviceError if two devices do not record into the same capture */
export function sharedCapture(from: Recorder, to: Recorder): Capture | undefined {
  const { capturing } = from;
  if (capturing === to.capturing) return capturing;
  throw new DeviceError(
    `a recording of ${capturing ? from.name : to.name} alone cannot hold a transfer from ${from.name} to ${to.name}`,
    { hint: "captureAll([...], body) records on several devices" },
  );
}
