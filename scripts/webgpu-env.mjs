// Finds a WebGPU adapter for tests. A real GPU is taken if asked for (OCTAVO_WEBGPU=hardware); otherwise SwiftShader's
// Vulkan driver, a GPU in software, which Debian's chromium package brings.
//
//   node scripts/webgpu-env.mjs             says what is there
//   node scripts/webgpu-env.mjs --install   installs the packages first (Debian, as root)
//   import { selectAdapter }                sets the variables in this process, before Dawn is loaded

import { execFileSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const DRIVERS = [
  "/usr/lib/chromium/vk_swiftshader_icd.json",
  "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
  "/opt/google/chrome/vk_swiftshader_icd.json",
];
const LOADERS = ["/usr/lib", "/usr/lib64", "/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];

/**
 * Sets VK_ICD_FILENAMES and XDG_RUNTIME_DIR of this process.
 * @returns {{ driver: string } | { missing: string }} the driver chosen, or why there is none
 */
export function selectAdapter() {
  if (process.env.OCTAVO_WEBGPU === "off") return { missing: "OCTAVO_WEBGPU=off" };
  const runtime = process.env.XDG_RUNTIME_DIR;
  if (!runtime || !writable(runtime)) process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), "octavo-vulkan-"));
  if (process.env.OCTAVO_WEBGPU === "hardware") return { driver: "the system's own" };
  if (process.platform !== "linux") return { driver: "the system's own" };
  const driver = process.env.VK_ICD_FILENAMES ?? DRIVERS.find((file) => existsSync(file));
  if (!driver) return { missing: "no SwiftShader driver (node scripts/webgpu-env.mjs --install)" };
  if (!LOADERS.some((folder) => existsSync(join(folder, "libvulkan.so.1")))) {
    return { missing: "no Vulkan loader, libvulkan1 (node scripts/webgpu-env.mjs --install)" };
  }
  process.env.VK_ICD_FILENAMES = driver;
  return { driver };
}

function writable(folder) {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--install")) {
    const run = (...words) => execFileSync(words[0], words.slice(1), { stdio: "inherit" });
    run("apt-get", "update");
    run("apt-get", "install", "-y", "--no-install-recommends", "chromium", "libvulkan1");
  }
  const found = selectAdapter();
  if (found.missing) {
    console.error(`webgpu: ${found.missing}`);
    process.exit(1);
  }
  const { create } = await import("webgpu");
  const gpu = create([]);
  const adapter = await gpu.requestAdapter();
  if (!adapter) {
    console.error(`webgpu: ${found.driver} gives no adapter`);
    process.exit(1);
  }
  const { vendor, architecture, device, description } = adapter.info;
  console.log(`webgpu: ${[vendor, architecture, device, description].filter(Boolean).join(", ")} (${found.driver})`);
  console.log(`features: ${[...adapter.features].sort().join(" ")}`);
  console.log(`language: ${[...gpu.wgslLanguageFeatures].sort().join(" ")}`);
  process.exit(0);
}
