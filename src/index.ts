// The exports of `import ... from "octavo"`.

export * from "./anywhere.js";
export {
  AutoConfig,
  AutoFeatureExtractor,
  AutoImageProcessor,
  AutoModel,
  AutoModelForAudioClassification,
  AutoModelForCausalLM,
  AutoModelForCTC,
  AutoModelForImageClassification,
  AutoModelForMaskedLM,
  AutoModelForQuestionAnswering,
  AutoModelForSeq2SeqLM,
  AutoModelForSequenceClassification,
  AutoModelForSpeechSeq2Seq,
  AutoModelForTokenClassification,
  AutoProcessor,
  AutoTokenizer,
  CLIPModel,
  cpu_offload,
  disk_offload,
  type FromConfigOptions,
  type FromPretrainedOptions,
  load_checkpoint_and_dispatch,
  type TokenizerOptions,
} from "./generate/auto.js";
export { type Pulled, type PullOptions, pull } from "./hub/pull.js";
export { type Pushed, type PushedFile, type PushOptions, pushFolder } from "./hub/push.js";
export { chooseDevice, openDevice, requestDevice } from "./load/device.js";
export { get_balanced_memory, get_max_memory, infer_auto_device_map } from "./load/device-map/node.js";
export { pipeline } from "./pipelines/node.js";
export type { DownloadEvent } from "./sources/source.js";
export { Trainer } from "./train.js";
