// A real Firefox for tests, without a driver: it opens a page whose Worker gets its work from the page's server and posts
// the results. Without Firefox the suites are skipped, with the reason.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "vitest";
import { inPath } from "./runtimes.js";

const NAMES = ["firefox-esr", "firefox"];
const executable = process.env.OCTAVO_FIREFOX || NAMES.map(inPath).find((file) => file !== undefined);

/** Why there is none; undefined if there is one. */
export const whyNoFirefox: string | undefined =
  executable === undefined
    ? `no ${NAMES[0]} (apt-get install firefox-esr, or OCTAVO_FIREFOX=path)`
    : existsSync(executable)
      ? undefined
      : `OCTAVO_FIREFOX=${executable} is not there`;

if (whyNoFirefox) console.warn(`\n*** Firefox suites are SKIPPED: ${whyNoFirefox} ***\n`);

/** `describe` for suites that need Firefox. */
export function describeFirefox(name: string, body: () => void): void {
  if (whyNoFirefox) test.skip(`${name}: ${whyNoFirefox}`);
  else describe(name, { timeout: 120_000 }, body);
}

export type Preferences = Readonly<Record<string, boolean | number | string>>;

/** Disables first-run pages and requests to Mozilla's servers. */
const QUIET: Preferences = {
  "app.update.enabled": false,
  "browser.aboutwelcome.enabled": false,
  "browser.shell.checkDefaultBrowser": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
};

/** Enables WebGPU on Linux, where it is off by default, and on drivers that Firefox blocks. */
export const WITH_WEBGPU: Preferences = {
  "dom.webgpu.enabled": true,
  "dom.webgpu.workers.enabled": true,
  "gfx.webgpu.ignore-blocklist": true,
};

const END_MS = 5000;

/** Opens a page in a Firefox with a profile of its own; returns a function that ends it. */
export function visitFirefox(address: string, preferences: Preferences = {}): () => Promise<void> {
  const profile = mkdtempSync(join(tmpdir(), "octavo-firefox-"));
  const lines = Object.entries({ ...QUIET, ...preferences }).map(
    ([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`,
  );
  writeFileSync(join(profile, "user.js"), lines.join(""));
  const child = spawn(executable!, ["--headless", "--no-remote", "--profile", profile, address], { stdio: "ignore" });
  const ended = once(child, "exit");
  return async () => {
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), END_MS);
    await ended;
    clearTimeout(late);
    rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  };
}
