// Where a loaded model is: all of it on one device, or its blocks elsewhere too. It stays where it was loaded; only its blocks can be
// taken away.

import { Device } from "../core/device.js";
import { parseDType, torchName } from "../core/dtype.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { PlacedModel, SpreadModel } from "../load/fill.js";
import { deviceName, isOn } from "../load/names.js";
import type { FloatDType } from "../nn/weight.js";

export class Places {
  readonly #device: Device;
  readonly #dtype: FloatDType;
  /** Its devices, if it was loaded onto several. */
  readonly #spread: SpreadModel | undefined;
  /** Where its parts are, unless they are all on its device. */
  #placed: PlacedModel | undefined;

  constructor(device: Device, dtype: FloatDType, spread: SpreadModel | undefined) {
    this.#device = device;
    this.#dtype = dtype;
    this.#spread = spread;
    this.#placed = spread;
  }

  get device_map(): Readonly<Record<string, string | number>> {
    return this.#placed ? { ...this.#placed.device_map } : { "": this.#device.name };
  }

  /** @throws OctavoError while weights lie where they are not used */
  checkHere(method: string): void {
    if (!this.#placed?.offloaded) return;
    throw new OctavoError("ERR_OFFLOADED", `${method}: some modules are offloaded to cpu or disk`, {
      hint: "load the model without offload",
    });
  }

  /** @throws OptionError for another device or dtype than the model's */
  checkMove(where: readonly (Device | string | number)[]): void {
    for (const one of where) {
      if (this.#placed && deviceName(one) !== undefined && !(typeof one === "string" && parseDType(one))) {
        const away = this.#placed.offloaded ? "has some modules offloaded to cpu or disk" : "is on several devices";
        throw new OptionError(`to: you can't move a model that ${away}`, {
          hint: "load it elsewhere: from_pretrained(name, { device_map })",
        });
      }
      if (one === this.#device || isOn(this.#device.name, deviceName(one))) continue;
      const dtype = typeof one === "string" ? parseDType(one) : undefined;
      if (dtype === this.#dtype) continue;
      if (dtype) {
        throw new OptionError(`to: the model is in ${torchName(this.#dtype)}, and stays in it`, {
          hint: `load it in another: from_pretrained(name, { dtype: "${torchName(dtype)}" })`,
        });
      }
      const name = Device.is(one) ? one.name : deviceName(one);
      throw new OptionError(
        `to: the model is on ${this.#device.name}, and stays there; asked for ${show(name ?? one)}`,
        {
          hint: `load it there: from_pretrained(name, { device: ${name === undefined ? '"webgpu"' : show(name)} })`,
        },
      );
    }
  }

  /** Places the parts anew; `place` takes them there. @throws OctavoError for a model that is spread already; what `place` throws */
  async rearrange(method: string, place: () => Promise<PlacedModel>): Promise<void> {
    if (this.#placed) throw new OctavoError("ERR_UNSUPPORTED", `${method}: the model is on several devices already`);
    this.#placed = await place();
  }

  /** Frees what lies elsewhere. @returns true if the model's own device was closed with it */
  async close(): Promise<boolean> {
    await this.#placed?.close();
    return this.#spread !== undefined;
  }
}
