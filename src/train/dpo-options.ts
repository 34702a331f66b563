// Options of DPO, with the names and defaults of TRL's DPOConfig.

import { listOf } from "../core/checks.js";
import { flag, number, type Options, such } from "../core/options.js";
import { PREFERENCE } from "./data/preference.js";
import { ROUTER } from "./router-options.js";

export const DPO_LOSSES = ["sigmoid", "hinge", "ipo", "robust"] as const;
export type DPOLoss = (typeof DPO_LOSSES)[number];

const isLoss = (value: unknown): value is DPOLoss => (DPO_LOSSES as readonly unknown[]).includes(value);

export const DPO = {
  ...PREFERENCE,
  ...ROUTER,
  /** How far the model may go from the reference: rewards are this times what answers have become likelier, in nats. Default 0.1. */
  beta: number((n) => n > 0 && n < 1e6, "a number above 0"),
  /**
   * "sigmoid" (Rafailov et al. 2023, default), "hinge" (Zhao et al. 2023), "ipo" (Azar et al. 2023), or "robust" (Chowdhury et al. 2024);
   * as in TRL a list of one is the same.
   */
  loss_type: such<DPOLoss | readonly [DPOLoss]>(
    (value) => isLoss(value) || listOf(value, isLoss)?.length === 1,
    `one of ${DPO_LOSSES.map((name) => JSON.stringify(name)).join(", ")}`,
    { hint: "TRL's other losses, and sums of several, are not here" },
  ),
  /** Share of examples whose preference is taken to be wrong, of "sigmoid" (Mitchell 2023) and "robust". Default 0. */
  label_smoothing: number((n) => n >= 0 && n < 0.5, "a number of at least 0, below 0.5"),
  /** Dropout of adapters is off (default: true). */
  disable_dropout: flag(),
};

export interface DPOOptions extends Options<typeof DPO> {}
