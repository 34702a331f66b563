// Names of models and revisions as the hub has them, checked before they become part of a path or an address.

import { OptionError } from "../core/errors.js";
import { quote } from "./files.js";

/** The small model that comes with this package, wherever the program lies; src/load/node.ts finds it. */
export const STORYTELLER = "octavo/storyteller";

/** True if `id` is a model id as the hub has them: `name` or `org/name`, and so safe as part of a path. */
export function isModelId(id: string): boolean {
  const part = "[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?";
  // The cache writes "/" as "--", which is why the hub forbids it in names.
  return new RegExp(`^(?:${part}/)?${part}$`).test(id) && id.length <= 96 && !/--|\.\.|\.git$/.test(id);
}

/** The parts of a folder inside a model, "a/b". @throws OptionError for a name that could lead out of it */
export function subfolderParts(subfolder: string): string[] {
  const parts = subfolder.split("/").filter((part) => part !== "");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  const bad = /[\u0000-\u001f\u007f\\:?#%]|^\.\.?$/;
  if (!subfolder.startsWith("/") && subfolder.length <= 255 && !parts.some((part) => bad.test(part))) return parts;
  throw new OptionError(`subfolder must be the name of a folder inside the model, got ${quote(subfolder)}`);
}

/** @throws OptionError if the revision could be anything but a name below refs/ */
export function checkRevision(revision: string): void {
  const parts = typeof revision === "string" ? revision.split("/") : [];
  // As in git, no part begins with a dot: that rules out "." and ".." as well.
  if (parts.length > 0 && revision.length <= 255 && parts.every((part) => /^[A-Za-z0-9_][\w.+=@-]*$/.test(part)))
    return;
  throw new OptionError(`revision must be a branch, a tag or a commit, got ${quote(String(revision))}`);
}
