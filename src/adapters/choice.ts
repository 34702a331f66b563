// Which adapters of a model are at work, as their weights see it.

import type { RowMasks } from "./rows.js";

/** Which adapters of a model work; shared by all its weights. */
export interface Choice {
  /** Names of the adapters that work, in order; their products add up. */
  readonly active: readonly string[];
  readonly enabled: boolean;
  /** Names of those that are in the stored weights now. */
  readonly merged: ReadonlySet<string>;
  /** Dropout is at work, in passes that gradients are taken of. */
  readonly training: boolean;
  /** For a pass whose rows have adapters of their own. */
  readonly rows: RowMasks | undefined;
}
