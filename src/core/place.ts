// Where tensors lie: on which device, and where in their allocation; with the checks of what callers say of it.

import { isWhole } from "./checks.js";
import { Device } from "./device.js";
import { DTYPES, type DType, isDType } from "./dtype.js";
import { DeviceError, DTypeError, OptionError, ShapeError } from "./errors.js";
import { elements, rowStrides, wholeList } from "./shape.js";
import { listed, show } from "./show.js";

/** Position of a tensor in its allocation, in elements (not bytes). A matrix in panels counts as rows. */
export interface Place {
  /** The allocation; compare it by identity. */
  readonly storage: object;
  /** Elements of the allocation. */
  readonly capacity: number;
  readonly shape: readonly number[];
  /** Null when contiguous. */
  readonly strides: readonly number[] | null;
  readonly first: number;
}

/** What every way to make a tensor asks for. @throws DeviceError, DTypeError, OptionError */
export function checkMaking(device: Device, dtype: DType, label: string): void {
  if (!Device.is(device)) {
    throw new DeviceError(`a tensor is made on a Device, got ${show(device)}`, { hint: "openDevice() gives one" });
  }
  if (!isDType(dtype)) throw new DTypeError(`a tensor's dtype is one of ${listed(DTYPES)}, got ${show(dtype)}`);
  if (typeof label !== "string") throw new OptionError(`a tensor's label must be text, got ${show(label)}`);
}

/** A place that a caller gives. @throws ShapeError unless all of it is in its allocation */
export function checkedPlace(place: Place): Pick<Place, "shape" | "strides" | "first" | "capacity"> {
  try {
    const { first, capacity, strides: given } = place;
    const shape = wholeList(place.shape);
    const strides = given === null ? null : wholeList(given);
    if (shape && strides !== undefined && isWhole(first) && isWhole(capacity)) {
      const steps = strides ?? rowStrides(shape);
      const last = shape.reduce((at, size, d) => at + (size - 1) * (steps[d] ?? 0), first);
      if (steps.length === shape.length && (elements(shape) === 0 || last < capacity)) {
        return { shape, strides, first, capacity };
      }
    }
  } catch {
    // Refused below: nothing with members, or with members that cannot be read.
  }
  throw new ShapeError(`part: ${show(place)} is no place in a tensor`);
}
