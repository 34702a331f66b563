// Logits processors on the host.

export { RowProcessor } from "./base.js";
export { getLogitsProcessor, type LogitsInputs, LogitsProcessorList, type ProcessorConfig } from "./list.js";
export {
  SynthIDTextWatermarkingConfig,
  type SynthIDTextWatermarkingOptions,
  SynthIDTextWatermarkLogitsProcessor,
} from "./synthid.js";
export * from "./text.js";
export { type TimestampConfig, WhisperTimeStampLogitsProcessor } from "./timestamps.js";
export * from "./warpers.js";
export { WatermarkingConfig, type WatermarkingOptions, WatermarkLogitsProcessor } from "./watermark.js";
