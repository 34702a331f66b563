// Sizes as preprocessor_config.json has them, and what an image becomes by one.

import { ShapeError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { shapeText, show } from "../core/show.js";

const side = z.int().min(1).max(16_384);
const pair = z.tuple([side, side]);
const sides = z.strictObject({ height: side, width: side });

/** What is cut out of an image. */
export const cropSize = z.union([side, pair, sides]);
/** What an image is resized to. */
export const imageSize = z.union([
  side,
  pair,
  sides,
  z.strictObject({ shortest_edge: side, longest_edge: side.nullish() }),
  z.strictObject({ max_height: side, max_width: side }),
]);

export type CropSize = z.infer<typeof cropSize>;
export type ImageSize = z.infer<typeof imageSize>;

/** Height and width of what is cut out. */
export function cropOf(size: CropSize): readonly [height: number, width: number] {
  if (typeof size === "number") return [size, size];
  return "height" in size ? [size.height, size.width] : size;
}

/** As Python's round(): halves go to the even neighbour. */
function rounded(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** The shorter side is `short`; less where the longer one would be more than `most`. */
function byEdges(height: number, width: number, short: number, most: number | undefined): [number, number] {
  const [less, more] = [Math.min(height, width), Math.max(height, width)];
  let [newShort, exact] = [short, short];
  if (most !== undefined && (more / less) * short > most) {
    exact = (most * less) / more;
    newShort = rounded(exact);
  }
  if (most !== undefined && less === newShort) return [height, width];
  const long = Math.trunc((exact * more) / less);
  return height <= width ? [newShort, long] : [long, newShort];
}

/**
 * Height and width of an image after it is resized.
 * @param square whether a number alone means both sides, and not the shorter one
 * @throws ShapeError where nothing is left of a side
 */
export function resizedTo(
  { height, width }: { readonly height: number; readonly width: number },
  size: ImageSize,
  square: boolean,
): readonly [height: number, width: number] {
  let to: readonly [number, number];
  if (typeof size === "number") to = square ? [size, size] : byEdges(height, width, size, undefined);
  else if ("height" in size) to = [size.height, size.width];
  else if ("shortest_edge" in size) to = byEdges(height, width, size.shortest_edge, size.longest_edge ?? undefined);
  else if ("max_height" in size) {
    const scale = Math.min(size.max_height / height, size.max_width / width);
    to = [Math.trunc(height * scale), Math.trunc(width * scale)];
  } else to = size;
  if (to[0] > 0 && to[1] > 0) return to;
  throw new ShapeError(`an image of ${shapeText([height, width])} has no side left at size ${show(size)}`);
}
