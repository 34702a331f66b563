// What the command line knows of a command without loading it.

import type { Command } from "commander";

export interface CommandEntry {
  /** The heading that help shows it under. */
  readonly group: string;
  readonly description: string;
  /** The command, without its description. */
  load(): Promise<Command>;
}
