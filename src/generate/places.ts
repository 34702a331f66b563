// Where a loaded model is: all of it on one device, which may change, or its parts on several, which stay; and in which dtype.

import { Device } from "../core/device.js";
import { parseDType, torchName } from "../core/dtype.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { PlacedModel, SpreadModel } from "../load/fill.js";
import { moveModel } from "../load/move.js";
import { deviceName, isOn } from "../load/names.js";
import type { Model } from "../nn/model.js";
import { Matrix } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";

/** What is known of a loaded model. */
interface Located {
  readonly model: Model;
  readonly dtype: FloatDType;
  readonly compute?: Compute | undefined;
  readonly spread?: SpreadModel;
}

export class Places {
  readonly #model: Model;
  /** How products with floats may round, if the caller chose it. */
  readonly compute: Compute | undefined;
  #device: Device;
  #dtype: FloatDType;
  /** The device that was opened for the model: it stays open as long as the model, wherever that goes, for results that lie there. */
  readonly #own: Device | undefined;
  /** Its devices, if it was loaded onto several. */
  readonly #spread: SpreadModel | undefined;
  /** Where its parts are, unless they are all on its device. */
  #placed: PlacedModel | undefined;

  constructor({ model, dtype, compute, spread }: Located, device: Device, owns: boolean) {
    this.#model = model;
    this.compute = compute;
    this.#device = device;
    this.#own = owns ? device : undefined;
    this.#dtype = dtype;
    this.#spread = spread;
    this.#placed = spread;
  }

  get device(): Device {
    return this.#device;
  }

  get dtype(): FloatDType {
    return this.#dtype;
  }

  get device_map(): Readonly<Record<string, string | number>> {
    return this.#placed ? { ...this.#placed.device_map } : { "": this.#device.name };
  }

  /** Parts of the model, if it is cut by tensor parallelism. */
  get tp_size(): number | undefined {
    return this.#spread?.tp_size;
  }

  /** Where weights lie that are elsewhere than where they are used. */
  get offloaded(): boolean {
    return this.#placed?.offloaded === true;
  }

  /** @throws OctavoError while weights lie where they are not used */
  checkHere(method: string): void {
    if (!this.offloaded) return;
    throw new OctavoError("ERR_OFFLOADED", `${method}: some modules are offloaded to cpu or disk`, {
      hint: "load the model without offload",
    });
  }

  /**
   * What is asked for and is not so already.
   * @throws OptionError for a device that is not open, and for what quantized and dispatched models refuse in Python
   */
  changes(where: readonly (Device | string | number)[]): { readonly device?: Device; readonly dtype?: FloatDType } {
    let device: Device | undefined;
    let dtype: FloatDType | undefined;
    for (const one of where) {
      const asked = typeof one === "string" ? parseDType(one) : undefined;
      if (asked) {
        dtype = asked === this.#dtype ? undefined : asked;
        if (dtype) this.#checkCast(dtype);
        continue;
      }
      if (this.#placed && (Device.is(one) || deviceName(one) !== undefined)) {
        const away = this.offloaded ? "has some modules offloaded to cpu or disk" : "is on several devices";
        throw new OptionError(`to: you can't move a model that ${away}`, {
          hint: "load it elsewhere: from_pretrained(name, { device_map })",
        });
      }
      if (one === this.#device || isOn(this.#device.name, deviceName(one))) continue;
      if (!Device.is(one)) throw this.#notOpen(one);
      device = one;
    }
    return { ...(device ? { device } : {}), ...(dtype ? { dtype } : {}) };
  }

  #notOpen(one: unknown): OptionError {
    const name = deviceName(one);
    const here = this.#device.name;
    const known = name === undefined ? '"webgpu"' : show(name);
    return new OptionError(
      `to: the model is on ${here}, and a device is opened before it moves; got ${show(name ?? one)}`,
      {
        hint: `model.to(await requestDevice(${known})), or load it there: from_pretrained(name, { device: ${known} })`,
      },
    );
  }

  /** @throws OptionError */
  #checkCast(dtype: FloatDType): void {
    const hint = `load it in another: from_pretrained(name, { dtype: "${torchName(dtype)}" })`;
    for (const parameter of this.#model.parameters()) {
      if (!(parameter instanceof Matrix) || (parameter.inner?.scheme ?? "dense") === "dense") continue;
      throw new OptionError(
        "You cannot cast a bitsandbytes model in a new `dtype`. Make sure to load the model using `from_pretrained` using the desired `dtype` by passing the correct `dtype` argument.",
        { hint: `${hint}; or dequantize() it first` },
      );
    }
    if (this.offloaded) {
      throw new OptionError("to: you can't move a model that has some modules offloaded to cpu or disk", { hint });
    }
  }

  /** Takes the model there, and converts it. @throws OutOfMemoryError; the model then is as it was */
  move({ device, dtype }: ReturnType<Places["changes"]>): void {
    const before = this.#device;
    moveModel(this.#model, before, { device, dtype, compute: this.compute });
    if (dtype) this.#dtype = dtype;
    if (!device) return;
    this.#device = device;
    if (before === this.#own) before.arena.trim();
  }

  /** Places the parts anew; `place` takes them there. @throws OctavoError for a model that is spread already; what `place` throws */
  async rearrange(method: string, place: () => Promise<PlacedModel>): Promise<void> {
    if (this.#placed) throw new OctavoError("ERR_UNSUPPORTED", `${method}: the model is on several devices already`);
    this.#placed = await place();
  }

  /** Frees what lies elsewhere, and closes devices that were opened for the model; after its weights. */
  async close(): Promise<void> {
    await this.#placed?.close();
    if (this.#spread) return;
    this.#device.arena.trim();
    await this.#own?.close();
  }
}
