// What `import ... from "octavo"` gives.

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
export {
  AutoModelForCausalLM,
  AutoTokenizer,
  type FromPretrainedOptions,
  type TokenizerOptions,
} from "./generate/auto.js";
export type { GenerationOptions } from "./generate/config.js";
export type { Step } from "./generate/loop.js";
export { type ForwardOptions, type GenerateOptions, type ModelInputs, PreTrainedModel } from "./generate/model.js";
export { type Streamer, TextStreamer, type TextStreamerOptions } from "./generate/streamers.js";
export { chooseDevice, openDevice, requestDevice } from "./load/device.js";
export type { ProgressEvent } from "./load/fill.js";
export type { DeviceChoice, DeviceName, DeviceOptions } from "./load/platform.js";
export { transfer } from "./ops/transfer.js";
export { BitsAndBytesConfig, type BitsAndBytesOptions } from "./quant/config.js";
export type { BatchEncoding, Encoding, IntTensor, PreTrainedTokenizer } from "./tokenizer/api.js";
export { StreamDecoder } from "./tokenizer/stream.js";
