// What a case of the self-test is.

import type { DType } from "../core/dtype.js";

type Values = Float32Array | Int32Array | Int8Array | Uint8Array;

/** An operand on the host. `panels` requests the device's own layout where it has one. */
export interface CaseOperand {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly values: Values;
  readonly panels?: boolean;
}

export interface SelfTestCase {
  readonly op: string;
  readonly what: string;
  readonly inputs: readonly (CaseOperand | undefined)[];
  readonly attributes: readonly number[];
  /** Largest accepted error, relative to the largest magnitude of the reference; 0 where codes or ids must be equal. */
  readonly tolerance: number;
}
