// The browser as a platform: models come from servers and stay in the browser's storage; devices are WebGPU and
// WebAssembly. It works in Workers and pages, and in Deno and Bun where only `navigator.gpu` and `fetch` are needed.

import { Device } from "../core/device.js";
import { DeviceError, NotFoundError, OptionError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";
import { deviceName } from "../load/names.js";
import { checkDeviceOptions, type DeviceOptions, optionsFor, type SourceOptions } from "../load/options.js";
import { type DeviceChoice, type Platform, sharing } from "../load/platform.js";
import { modelAddress, quoteAddress, tokenForServer } from "../sources/address.js";
import { HttpSource } from "../sources/http.js";
import { STORYTELLER } from "../sources/model-id.js";
import type { Source } from "../sources/source.js";
import { BROWSER_MEDIA } from "./media.js";
import { openCache } from "./storage.js";
import { isRelative, WEB } from "./web.js";

const DEVICE_NAMES = ["auto", "webgpu", "wasm", "reference"] as const;
/** Devices that take each option. `wasm`, the module, is allowed with every name, for pages that let people choose the device. */
const OWNERS = { threads: ["wasm", "auto"], deterministic: DEVICE_NAMES, wasm: DEVICE_NAMES } as const;

/** Where a page looks for the storyteller: other libraries for pages expect models that are served with it below /models/, too. */
const PACKAGED = `/models/${STORYTELLER}/`;

/**
 * An address, whole or relative to the page or Worker ("./models/x/", "/models/x/"), or the id of a model on a hub. "octavo/storyteller" is
 * at /models/octavo/storyteller/ of the page's server.
 * @throws OptionError; NotFoundError, NetworkError, AbortError if the storyteller is not there
 */
async function source(model: string, options: SourceOptions): Promise<Source> {
  const { hub, revision, timeout, cache = true, signal, warn } = options;
  for (const key of ["cache_dir", "local_files_only", "force_download"] as const) {
    if (options[key] !== undefined) throw new OptionError(`${key} has no meaning in a browser`);
  }
  const packaged = model === STORYTELLER && hub === undefined && options.subfolder === undefined;
  const name = packaged ? PACKAGED : model;
  const relative = typeof name === "string" && hub === undefined && isRelative(name);
  const address = modelAddress(relative ? resolved(name) : name, hub, revision, options.subfolder);
  const token = tokenForServer(options.token);
  const page = WEB.location !== undefined; // Deno and Bun have none
  const http = { token, timeout, signal, warn, page, cache: cache ? await openCache() : undefined };
  const found = new HttpSource(address, http);
  if (packaged) await expectPackaged(found);
  return found;
}

/** @throws NotFoundError if the server of the page does not have the storyteller; NetworkError, AbortError */
async function expectPackaged(source: HttpSource): Promise<void> {
  let there = false;
  try {
    there = (await source.names(["config.json"])).has("config.json");
  } finally {
    if (!there) await source.close();
  }
  if (there) return;
  throw new NotFoundError(`${STORYTELLER} lies in a package, and this page's server does not have it at ${PACKAGED}`, {
    hint: `copy node_modules/@octavo/storyteller/storyteller to ${PACKAGED} of what is served, or pass the address of such a folder`,
    details: { url: source.path("config.json") },
  });
}

/** @throws OptionError if there is no page to resolve the address against */
function resolved(address: string): string {
  const base = WEB.location?.href;
  if (base && URL.canParse(address, base)) return new URL(address, base).href;
  throw new OptionError(`${quoteAddress(address)} is relative, and there is no page to resolve it against`);
}

/**
 * Opens a device: "webgpu", "wasm" (the kernels as WebAssembly: use it in a Worker),
 * "reference" (slow and exact), or "auto": WebGPU where there is an adapter, else WebAssembly.
 * @throws DeviceError for an unknown name, or if the device is not there; OptionError for an option that the device does not have
 */
export async function requestDevice(device: string | number = "auto", given: DeviceOptions = {}): Promise<Device> {
  const name = deviceName(device) ?? show(device);
  const known = (DEVICE_NAMES as readonly string[]).includes(name);
  const options = known ? checkDeviceOptions(name, given, OWNERS) : {};
  switch (name) {
    case "webgpu": {
      const api = await gpu();
      // A page that runs WebAssembly has no use for the shaders.
      const { openWebGPU } = await import("../backends/webgpu/index.js");
      return new Device(await openWebGPU(api, { deterministic: options.deterministic }));
    }
    case "wasm": {
      const { openWasmDevice } = await import("./wasm-device.js");
      return openWasmDevice(options);
    }
    case "reference": {
      const [{ openReference }, { OPS }] = await Promise.all([
        import("../backends/reference/index.js"),
        import("../ops/index.js"),
      ]);
      return new Device(openReference(OPS));
    }
    case "auto": {
      const { name, reason } = await chooseDevice();
      const opened = await requestDevice(name, optionsFor(name, options));
      opened.reason = reason;
      return opened;
    }
  }
  const near = suggestion(name, DEVICE_NAMES);
  throw new DeviceError(`unknown device ${show(name)}${near ? `; did you mean "${near}"?` : ""}`, {
    hint: name === "cpu" ? 'in a browser it is "wasm"' : `devices in a browser: ${DEVICE_NAMES.join(", ")}`,
  });
}

/** The device that "auto" chooses here, and why. */
export async function chooseDevice(): Promise<DeviceChoice> {
  const adapter = await WEB.navigator?.gpu?.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (!WEB.navigator?.gpu) return { name: "wasm", reason: "this browser has no WebGPU" };
  if (!adapter) return { name: "wasm", reason: "WebGPU offers no adapter" };
  if (adapter.info.isFallbackAdapter) {
    return { name: "wasm", reason: "the only WebGPU adapter is software, which is slower than WebAssembly" };
  }
  return { name: "webgpu", reason: "WebGPU offers an adapter", instead: "wasm" };
}

/** @throws DeviceError if there is no WebGPU, or no adapter: what to do about it is another thing here than in Node */
async function gpu(): Promise<GPU> {
  const { gpu } = WEB.navigator ?? {};
  if (!gpu) {
    throw new DeviceError("webgpu: this browser has no WebGPU, or the page is not secure (https or localhost)", {
      hint: 'use the device "wasm", or a current browser',
    });
  }
  if (await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null)) return gpu;
  throw new DeviceError("webgpu: this browser offers no adapter", {
    hint: 'use the device "wasm"; or see if the browser\'s settings have turned off hardware acceleration',
  });
}

export const BROWSER: Platform = {
  media: BROWSER_MEDIA,
  source,
  requestDevice,
  sharedDevice: /* @__PURE__ */ sharing(requestDevice, () => "auto", chooseDevice),
  chooseDevice,
};
