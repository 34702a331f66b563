// 8-bit blockwise functions of bitsandbytes on tensors: the nearest of 256 values for each element, one absmax a block.

import { parseDType } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { checkedLater, flag, type Options, readOptions, type Table, whole } from "../core/options.js";
import { scope, type Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { blockwiseDequantize, blockwiseQuantize } from "../ops/blockwise.js";
import { contiguous } from "../ops/copy.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { dynamicMap } from "../quant/_dynamic-map.js";
import {
  cast,
  checkedTensor,
  FLOAT_DTYPES,
  flat,
  floatDType,
  floatOf,
  type MapValues,
  mapOn,
  tensorOption,
} from "./functional-checks.js";
import { checkCodes, QuantState } from "./quant-state.js";

/** Elements of a block, by default. */
const BLOCK = 4096;

const QUANTIZE = {
  /** The values of the codes, ascending; the signed dynamic map by default. */
  code: checkedLater<MapValues>(),
  /** Elements that share a scale. */
  blocksize: whole(1),
  /** Quantize the scales as well, in blocks of the same size. */
  nested: flag(),
} satisfies Table;
export interface QuantizeBlockwiseOptions extends Options<typeof QUANTIZE> {}

/** Repeats one number. */
const repeated = (one: Tensor, count: number): Tensor => contiguous(one.view(1).expand(count));

/**
 * Quantizes a float tensor of any shape to 8 bits: `[codes, quant_state]`, codes u8 in its shape. The nearest value is the nearest:
 * a zero stays zero where the map has one.
 * @throws OptionError, DTypeError, ShapeError
 */
export function quantize_blockwise(
  A: Tensor,
  options: QuantizeBlockwiseOptions = {},
): [codes: Tensor, quant_state: QuantState] {
  const place = "quantize_blockwise";
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  const { code = dynamicMap(true), blocksize = BLOCK, nested = false } = readOptions(place, QUANTIZE, options);
  return scope(() => {
    const map = mapOn(place, x.device, code);
    const { codes, absmax } = blockwiseQuantize(flat(x), map, blocksize);
    const common = { code: map.alias(), blocksize };
    const own = { ...common, shape: x.shape, dtype: floatOf(x) };
    const shaped = codes.view(...x.shape);
    if (!nested) return [shaped, new QuantState({ ...own, absmax })];
    const blocks = absmax.size;
    const offset = scale(sumRows(absmax.view(blocks, 1)), blocks > 0 ? 1 / blocks : 0);
    const rest = add(absmax, repeated(scale(offset, -1), blocks));
    const twice = blockwiseQuantize(rest, map, blocksize);
    const state2 = new QuantState({ ...common, absmax: twice.absmax, shape: [blocks] });
    return [shaped, new QuantState({ ...own, absmax: twice.codes, offset, state2 })];
  });
}

const DEQUANTIZE = {
  absmax: tensorOption(),
  code: checkedLater<MapValues>(),
  blocksize: whole(1),
  dtype: floatDType(),
} satisfies Table;
export interface DequantizeBlockwiseFields extends Options<typeof DEQUANTIZE> {}

/**
 * The values of 8-bit codes in their shape: `map[code] * absmax`, rounded once to the dtype of the tensor that was quantized.
 * @param quant_state what `quantize_blockwise` returned beside the codes; or absmax, code, blocksize and dtype
 * @throws OptionError, DTypeError, ShapeError
 */
export function dequantize_blockwise(A: Tensor, quant_state: QuantState | DequantizeBlockwiseFields): Tensor {
  const place = "dequantize_blockwise";
  const codes = checkedTensor(place, "A", A, ["u8"]);
  return scope(() => {
    if (!QuantState.is(quant_state)) {
      const {
        absmax,
        code = dynamicMap(true),
        blocksize = BLOCK,
        dtype = "f32",
      } = readOptions(place, DEQUANTIZE, quant_state);
      if (!absmax) throw new OptionError(`${place}: without a QuantState the absmax is needed`);
      const statistics = checkedTensor(place, "absmax", absmax, ["f32"]);
      const values = blockwiseDequantize(flat(codes), flat(statistics), mapOn(place, codes.device, code), blocksize);
      return cast(values, parseDType(dtype)!).view(...codes.shape);
    }
    const { blocksize, code, dtype, quant_type } = quant_state;
    if (quant_type) throw new OptionError(`${place}: the state is that of 4-bit codes; dequantize_4bit() takes it`);
    checkCodes(place, codes.size, quant_state);
    const absmax = absmaxOf(quant_state);
    return cast(blockwiseDequantize(flat(codes), absmax, code, blocksize), dtype).view(...codes.shape);
  });
}

/** The absmax of a state in f32. */
function absmaxOf({ absmax, offset, state2 }: QuantState): Tensor {
  if (!state2 || !offset) return absmax;
  const values = blockwiseDequantize(absmax, state2.absmax, state2.code, state2.blocksize);
  return add(values, repeated(offset, values.size));
}
