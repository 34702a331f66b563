// Parts of models that not every program needs (core/part.ts). from_pretrained opens them, because the methods that take them do not wait.

import { Part } from "../core/part.js";

/** What texts must be: JSON by a schema, an expression, a grammar. */
export const GRAMMAR = new Part(() => import("./grammar/constraint.js"));

/** What adapters do with a model. */
export const ADAPTERS = new Part(() => import("./adapter-work.js"));

/** Opens all of them. */
export const openParts = (): Promise<unknown> => Promise.all([GRAMMAR, ADAPTERS].map((part) => part.open()));
