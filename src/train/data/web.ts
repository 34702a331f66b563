// Files of examples in a page: addresses, relative ones too. Files that the user picks are given as they are.

import { fetched } from "../../media/fetched.js";
import { inMemory } from "../../sources/in-memory.js";
import type { DataReader } from "./files.js";
import { type LoadDataset, loaderOf } from "./load.js";

const WEB_DATA: DataReader = {
  find: async (where) => [{ name: where, open: async () => inMemory(where, await fetched(where, { page: true })) }],
};

export const load_dataset: LoadDataset = /* @__PURE__ */ loaderOf(WEB_DATA);
