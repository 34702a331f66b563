// Whose a temporary file or folder is: machine, process and thread in its name, so that what a process that has ended left behind is
// known as such. Node has no locks on files; nothing is right or wrong by these names alone.

import { createHash, randomBytes } from "node:crypto";
import { readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { threadId } from "node:worker_threads";

/** What `ownName` makes, as a pattern with three groups: machine, process, thread. */
export const OWNER = String.raw`([0-9a-f]{8})-(\d+)\.(\d+)-[0-9a-f]+`;

let known: string | undefined;

/** Processes are known by number within one machine, and within one container of it. */
export function machine(): string {
  if (known !== undefined) return known;
  const facts: string[] = [];
  for (const fact of [hostname, () => readlinkSync("/proc/self/ns/pid")]) {
    try {
      facts.push(fact());
    } catch {
      // not Linux, or Deno without permission
    }
  }
  known = createHash("sha256").update(facts.join(" ")).digest("hex").slice(0, 8);
  return known;
}

/** A new name of this thread, for a part of a file's name. */
export function ownName(): string {
  return `${machine()}-${process.pid}.${threadId}-${randomBytes(4).toString("hex")}`;
}

/** False if no process of this machine has the number. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
