// What `import ... from "octavo"` gives in a browser (and "octavo/browser" anywhere): the same names, without what needs
// a disk or an add-on. It also stands on nothing but `navigator.gpu` and `fetch`, which Deno and Bun have.

import { BROWSER } from "./browser/platform.js";
import { type AutoModel, type AutoTokenizers, autoModel, autoTokenizer } from "./generate/pretrained.js";

export { WorkerHost, type WorkerLike } from "./browser/client.js";
export { chooseDevice, requestDevice } from "./browser/platform.js";
export type {
  WorkerAdapter,
  WorkerGenerateOptions,
  WorkerLoadOptions,
  WorkerMemory,
  WorkerModel,
  WorkerResult,
  WorkerStep,
  WorkerSurvey,
} from "./browser/protocol.js";
export { cacheSize, clearCache } from "./browser/storage.js";
export type { MemoryReport } from "./core/arena.js";
export { captureAll, Device, Recording } from "./core/device.js";
export type { DType } from "./core/dtype.js";
export {
  AbortError,
  CheckpointError,
  ConfigError,
  DeviceError,
  DTypeError,
  FormatError,
  KernelError,
  NetworkError,
  NotFoundError,
  OctavoError,
  OptionError,
  OutOfMemoryError,
  ShapeError,
  UnsupportedModelError,
} from "./core/errors.js";
export { scope, Tensor } from "./core/tensor.js";
export type { GenerationOptions } from "./generate/config.js";
export type { Step } from "./generate/loop.js";
export { type ForwardOptions, type GenerateOptions, type ModelInputs, PreTrainedModel } from "./generate/model.js";
export type { FromPretrainedOptions, TokenizerOptions } from "./generate/pretrained.js";
export { type Streamer, TextStreamer, type TextStreamerOptions } from "./generate/streamers.js";
export type { ProgressEvent } from "./load/fill.js";
export type { DeviceOptions } from "./load/platform.js";
export { transfer } from "./ops/transfer.js";
export { BitsAndBytesConfig, type BitsAndBytesOptions } from "./quant/config.js";
export type { BatchEncoding, Encoding, IntTensor, PreTrainedTokenizer } from "./tokenizer/api.js";
export { StreamDecoder } from "./tokenizer/stream.js";

export const AutoModelForCausalLM: AutoModel = /* @__PURE__ */ autoModel(BROWSER);
export const AutoTokenizer: AutoTokenizers = /* @__PURE__ */ autoTokenizer(BROWSER);
