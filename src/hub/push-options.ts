// Options and results of uploads, for programs that have no files as well.

import { flag, type Options, signal, such, text } from "../core/options.js";
import { TOKEN } from "../sources/address.js";

export const PUSH = {
  /** Access token with the right to write. Default: that of this machine. */
  token: such<string>((value) => typeof value === "string" && TOKEN.test(value), "text of visible ASCII characters", {
    secret: true,
  }),
  /** The branch to write to. Default: "main". */
  revision: text({ secret: true }),
  /** Make a model that does not exist yet for its owners alone. By default the account's settings decide. */
  private: flag(),
  /** The first line of the commit. */
  commit_message: text(),
  /** Only say what would be uploaded; opens no connection. */
  dry_run: flag(),
  signal: signal(),
};

export interface PushOptions extends Options<typeof PUSH> {}

export interface PushedFile {
  /** Its path below the folder, and in the model. */
  readonly name: string;
  readonly bytes: number;
}

export interface Pushed {
  readonly id: string;
  /** The page of the model. */
  readonly url: string;
  readonly files: readonly PushedFile[];
  readonly bytes: number;
  /** The new commit; undefined for a dry run. */
  readonly commit: string | undefined;
}

/** Uploads what is written into a folder of its own. */
export type PushWritten = (
  write: (folder: string) => Promise<unknown>,
  id: string,
  given: PushOptions,
) => Promise<Pushed>;
