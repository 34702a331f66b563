// The exports of `import ... from "octavo/eval"`: evaluations as lm-evaluation-harness has them, the perplexity of a
// text, and how far a model's predictions are from another one's.

export type { Divergence, DivergenceOptions, LayerError } from "./divergence.js";
export { divergence } from "./divergence.js";
export type { Comparison, PairedTest } from "./harness/compare.js";
export { compare_results, mcnemar, paired_test } from "./harness/compare.js";
export type { EvalResults, EvaluateOptions, Sample, TaskResult } from "./harness/evaluate.js";
export { simple_evaluate } from "./harness/evaluate.js";
export type { GenerationKwargs } from "./harness/generation-kwargs.js";
export type {
  ChoiceRequest,
  GenerateRequest,
  LMOptions,
  Loglikelihood,
  LoglikelihoodRequest,
  Progress,
} from "./harness/lm.js";
export { LM } from "./harness/lm.js";
export type { RequestCache } from "./harness/request-cache.js";
export { openRequestCache } from "./harness/request-cache.js";
export type { TaskManagerOptions } from "./harness/task-manager.js";
export { TaskManager } from "./harness/task-manager.js";
export type { Doc, MetricValue } from "./harness/types.js";
export type { Perplexity, PerplexityOptions } from "./perplexity.js";
export { perplexity } from "./perplexity.js";
