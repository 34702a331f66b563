// Conformance of WebGPU (suite.ts): apart from the others, because a software adapter compiles shaders for minutes.

import { GPU_TARGETS } from "../support/targets.js";
import { conformance } from "./suite.js";

conformance(GPU_TARGETS);
