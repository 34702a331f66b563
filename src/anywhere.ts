// What every entry of octavo exports: all that needs neither a disk, nor an add-on, nor a page.

export { type Decomposing, LoraConfig, type LoraOptions, type TaskType } from "./adapters/config.js";
export { LoftQConfig } from "./adapters/first-values.js";
export type { MergeError } from "./adapters/merge.js";
export type { MemoryReport } from "./core/arena.js";
export { captureAll, Device, Recording } from "./core/device.js";
export type { DType } from "./core/dtype.js";
export * from "./core/error-classes.js";
export type {} from "./core/globals.js";
export { scope, Tensor } from "./core/tensor.js";
export type { LoadAdapterOptions, MergeOptions } from "./generate/adapter-options.js";
export { BetterTransformer } from "./generate/better-transformer.js";
export { type ClipOutput, PreTrainedClipModel } from "./generate/clip-model.js";
export type { GenerationOptions } from "./generate/config.js";
export { type BeamConstraint, DisjunctiveConstraint, PhrasalConstraint } from "./generate/constraints.js";
export { type DispatchOptions, dispatch_model, type OffloadOptions } from "./generate/dispatch.js";
export { DynamicCache } from "./generate/dynamic-cache.js";
export { type EncoderResults, type EncoderTask, PreTrainedEncoder } from "./generate/encoder-model.js";
export { PreTrainedFeatureModel } from "./generate/feature-model.js";
export type { FeatureValues, FloatTensorLike } from "./generate/features.js";
export {
  DataCollatorWithFlattening,
  type FlattenedBatch,
  type FlatteningFeature,
  type FlatteningOptions,
} from "./generate/flattening.js";
export type { JsonSchema } from "./generate/grammar/json-schema.js";
export {
  parseOutput,
  type SchemaInput,
  type SchemaValue,
  type StandardSchema,
} from "./generate/grammar/standard-schema.js";
export * from "./generate/later.js";
export type { Step } from "./generate/loop.js";
export type { DeviceMemory, ModelMemory } from "./generate/memory.js";
export { type ForwardOptions, type GenerateOptions, type ModelInputs, PreTrainedModel } from "./generate/model.js";
export type {
  ClipForwardOptions,
  ClipImageOptions,
  ClipTextOptions,
  EncoderForwardOptions,
  FeatureForwardOptions,
  Seq2SeqForwardOptions,
  Seq2SeqGenerateOptions,
  Seq2SeqStreamOptions,
  SpeechForwardOptions,
  SpeechGenerateOptions,
  SpeechStreamOptions,
  StreamOptions,
} from "./generate/options.js";
export { get_peft_model, PeftModel, prepare_model_for_kbit_training } from "./generate/peft.js";
export type { PromptProgress } from "./generate/prefill.js";
export * from "./generate/processors/host/index.js";
export type { HostProcessor, HostState } from "./generate/processors/host-processor.js";
export type { AutoProcessors, Processor, ProcessorInputs, ProcessorOutputs } from "./generate/processors-auto.js";
export type { Segment } from "./generate/segments.js";
export { PreTrainedSeq2SeqLM, type Seq2SeqOutput } from "./generate/seq2seq-model.js";
export type { FinishReason } from "./generate/sequence.js";
export type { PreTrainedSpeechSeq2Seq } from "./generate/speech-model.js";
export {
  EosTokenCriteria,
  MaxLengthCriteria,
  MaxTimeCriteria,
  StoppingCriteria,
  StopStringCriteria,
  type StopStringTokenizer,
} from "./generate/stopping.js";
export { type Streamer, TextStreamer, type TextStreamerOptions } from "./generate/streamers.js";
export type { TextStep } from "./generate/texts.js";
export { torch } from "./generate/torch.js";
export type { SpeechOutput } from "./generate/transcribe.js";
export {
  WatermarkDetector,
  type WatermarkDetectorOptions,
  type WatermarkDetectorOutput,
} from "./generate/watermark-detector.js";
export { check_device_map, compute_module_sizes, type DeviceMap } from "./load/device-map/index.js";
export type { MaxMemory } from "./load/device-map/memory.js";
export type { ProgressEvent } from "./load/fill.js";
export { init_empty_weights, type MetaModel, type MetaParameter } from "./load/meta.js";
export type { DeviceChoice, DeviceName, DeviceOptions } from "./load/platform.js";
export { set_module_tensor_to_device } from "./load/set-tensor.js";
export { convert_file_size_to_int } from "./load/sizes.js";
export type {
  FeatureExtractor,
  FeatureExtractorOptions,
  SoundFeatures,
  SoundInput,
} from "./media/feature-extractor.js";
export type { RawImage } from "./media/image.js";
export type { FloatTensor, ImageInput, ImageProcessor, ImageProcessorOptions } from "./media/image-processor.js";
export type { MediaFile } from "./media/reader.js";
export type { NonFinite } from "./nn/finite.js";
export { type Kernels, SDPBackend, sdp_kernel, sdpa_kernel } from "./nn/sdpa-kernel.js";
export { transfer } from "./ops/transfer.js";
export type * from "./pipelines/index.js";
export { BitsAndBytesConfig, type BitsAndBytesOptions } from "./quant/config.js";
export { type SchemeName, SelectiveConfig, type SelectiveOptions } from "./quant/selective.js";
export type { BatchEncoding, Encoding, IntTensor, OffsetTensor, PreTrainedTokenizer } from "./tokenizer/api.js";
export { StreamDecoder } from "./tokenizer/stream.js";
export type {
  CharOffset,
  TextOffset,
  TextWithFrames,
  TextWithOffsets,
  WordOffset,
} from "./tokenizer/timed.js";
export { TrainingArguments } from "./train/arguments.js";
export type { TrainerCallback, TrainerControl, TrainerState } from "./train/callbacks.js";
export { EarlyStoppingCallback } from "./train/early-stopping.js";
export type { TrainingOptions } from "./train/options.js";
export { get_scheduler } from "./train/schedules.js";
export type { TrainerOptions, TrainOptions, TrainOutput } from "./train/types.js";
