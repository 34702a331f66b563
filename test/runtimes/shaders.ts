// Has the WGSL compiler of the runtime that this runs in look at every shader variant, as openWebGPU chooses them and as on
// an adapter without any feature. Nothing of Node's is in here: it runs in Deno and in pages.

import { openWebGPU, type WebGPUOptions } from "../../src/backends/webgpu/index.js";
import { WEB } from "../../src/browser/web.js";

export interface Looked {
  readonly description: string;
  readonly shaders: number;
  readonly complaints: readonly string[];
}

const TARGETS: readonly WebGPUOptions[] = [{}, { limits: "default", dot4: false, subgroups: false, f16: false }];

/** How many shaders there are, and the first complaints. */
export async function lookAtShaders(): Promise<Looked[]> {
  const found: Looked[] = [];
  /** Texts that both targets have; limits do not matter before there are pipelines. */
  const seen = new Set<string>();
  for (const options of TARGETS) {
    const backend = await openWebGPU(WEB.navigator!.gpu!, options);
    const complaints: string[] = [];
    const shaders = backend.shaders();
    for (const shader of shaders) {
      if (seen.has(shader.code)) continue;
      seen.add(shader.code);
      await backend
        .compile(shader, "check")
        .catch((error: Error) => complaints.push(`${shader.key}: ${error.message}`));
    }
    await backend.close();
    found.push({ description: backend.description, shaders: shaders.length, complaints: complaints.slice(0, 5) });
  }
  return found;
}
