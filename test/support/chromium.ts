// A real Chromium for tests, with a software GPU (SwiftShader). Without it the suites are skipped, with the reason.

import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";
import { describe, test } from "vitest";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  // As in src/backends/webgpu/node.ts: SwiftShader then compiles a shader in a fraction of the time.
  "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  "--disable-quic",
];

const executablePath = process.env.CHROMIUM ?? PLACES.find((file) => existsSync(file));

/** Why there is none; undefined if there is one. */
export const whyNoChromium: string | undefined =
  executablePath === undefined
    ? `no ${PLACES[0]} (apt-get install chromium, or CHROMIUM=path)`
    : existsSync(executablePath)
      ? undefined
      : `CHROMIUM=${executablePath} is not there`;

if (whyNoChromium) console.warn(`\n*** Browser suites are SKIPPED: ${whyNoChromium} ***\n`);

/** `describe` for suites that need a browser. */
export function describeChromium(name: string, body: () => void): void {
  if (whyNoChromium) test.skip(`${name}: ${whyNoChromium}`);
  else describe(name, { timeout: 240_000 }, body);
}

export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}
