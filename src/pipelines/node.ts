// pipeline() in Node.

import { NODE } from "../load/node.js";
import { type MakePipeline, pipelineOf } from "./pipeline.js";

export const pipeline: MakePipeline = pipelineOf(NODE);
