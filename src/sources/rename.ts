// Renames over what another program may hold. Windows renames neither a file that is open elsewhere nor over one, and programs that
// look for viruses, make indexes or copy to a cloud open every new file for a moment.

import { rename } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import { systemCode } from "./file-errors.js";

const HELD = /^(EPERM|EACCES|EBUSY)$/;
/** Milliseconds for which it is tried. */
const PATIENCE = 2000;

interface How {
  readonly system?: string;
  readonly by?: (from: string, to: string) => Promise<void>;
}

/**
 * Renames a file or a folder over what lies at `to`; on Windows several times where it is refused, for two seconds.
 * @throws the system's error
 */
export async function renameOver(from: string, to: string, how: How = {}): Promise<void> {
  const { system = process.platform, by = rename } = how;
  const end = Date.now() + PATIENCE;
  for (let wait = 10; ; wait = Math.min(2 * wait, 200)) {
    try {
      return await by(from, to);
    } catch (error) {
      if (system !== "win32" || !HELD.test(systemCode(error)) || Date.now() + wait > end) throw error;
    }
    await setTimeout(wait);
  }
}
