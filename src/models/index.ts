// The list of architectures by `config.model_type`, imported on demand.

import { ConfigError, suggestion, UnsupportedModelError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { Architecture, ConfigJson, Task, TaskModels } from "../nn/architecture.js";
import { decoderTasks } from "../nn/decoder-tasks.js";
import { labelCount } from "./_config.js";

const ARCHITECTURES: ReadonlyMap<string, () => Promise<Architecture>> = new Map([
  ["albert", async () => (await import("./albert.js")).albert],
  ["bart", async () => (await import("./bart.js")).bart],
  ["bert", async () => (await import("./bert.js")).bert],
  ["blenderbot", async () => (await import("./blenderbot.js")).blenderbot],
  ["bloom", async () => (await import("./bloom.js")).bloom],
  ["camembert", async () => (await import("./roberta.js")).camembert],
  ["clip", async () => (await import("./clip.js")).clip],
  ["codegen", async () => (await import("./codegen.js")).codegen],
  ["cohere", async () => (await import("./cohere.js")).cohere],
  ["deberta-v2", async () => (await import("./deberta-v2.js")).debertaV2],
  ["dinov2", async () => (await import("./dinov2.js")).dinov2],
  ["distilbert", async () => (await import("./distilbert.js")).distilbert],
  ["electra", async () => (await import("./electra.js")).electra],
  ["ernie4_5", async () => (await import("./ernie4_5.js")).ernie4_5],
  ["falcon", async () => (await import("./falcon.js")).falcon],
  ["gemma", async () => (await import("./gemma.js")).gemma],
  ["gemma2", async () => (await import("./gemma2.js")).gemma2],
  ["gemma3_text", async () => (await import("./gemma3_text.js")).gemma3_text],
  ["glm4", async () => (await import("./glm4.js")).glm4],
  ["gpt2", async () => (await import("./gpt2.js")).gpt2],
  ["gpt_neo", async () => (await import("./gpt_neo.js")).gptNeo],
  ["gpt_neox", async () => (await import("./gpt_neox.js")).gptNeox],
  ["gpt_oss", async () => (await import("./gpt_oss.js")).gpt_oss],
  ["gptj", async () => (await import("./gptj.js")).gptj],
  ["granite", async () => (await import("./granite.js")).granite],
  ["hubert", async () => (await import("./wav2vec2.js")).hubert],
  ["llama", async () => (await import("./llama.js")).llama],
  ["m2m_100", async () => (await import("./m2m_100.js")).m2m_100],
  ["marian", async () => (await import("./marian.js")).marian],
  ["mbart", async () => (await import("./bart.js")).mbart],
  ["mistral", async () => (await import("./mistral.js")).mistral],
  ["mixtral", async () => (await import("./mixtral.js")).mixtral],
  ["modernbert", async () => (await import("./modernbert.js")).modernbert],
  ["mpnet", async () => (await import("./mpnet.js")).mpnet],
  ["mpt", async () => (await import("./mpt.js")).mpt],
  ["mt5", async () => (await import("./t5.js")).mt5],
  ["nomic_bert", async () => (await import("./nomic_bert.js")).nomicBert],
  ["olmo", async () => (await import("./olmo.js")).olmo],
  ["olmo2", async () => (await import("./olmo2.js")).olmo2],
  ["olmo3", async () => (await import("./olmo3.js")).olmo3],
  ["opt", async () => (await import("./opt.js")).opt],
  ["pegasus", async () => (await import("./pegasus.js")).pegasus],
  ["phi", async () => (await import("./phi.js")).phi],
  ["phi3", async () => (await import("./phi3.js")).phi3],
  ["qwen2", async () => (await import("./qwen2.js")).qwen2],
  ["qwen3", async () => (await import("./qwen3.js")).qwen3],
  ["qwen3_moe", async () => (await import("./qwen3_moe.js")).qwen3_moe],
  ["roberta", async () => (await import("./roberta.js")).roberta],
  ["siglip", async () => (await import("./siglip.js")).siglip],
  ["smollm3", async () => (await import("./smollm3.js")).smollm3],
  ["stablelm", async () => (await import("./stablelm.js")).stablelm],
  ["starcoder2", async () => (await import("./starcoder2.js")).starcoder2],
  ["t5", async () => (await import("./t5.js")).t5],
  ["umt5", async () => (await import("./t5.js")).umt5],
  ["vit", async () => (await import("./vit.js")).vit],
  ["wav2vec2", async () => (await import("./wav2vec2.js")).wav2vec2],
  ["whisper", async () => (await import("./whisper.js")).whisper],
  ["xlm-roberta", async () => (await import("./roberta.js")).xlmRoberta],
]);

/** What old files call an architecture; the model file may look at the name. */
const OLD_NAMES: ReadonlyMap<string, string> = new Map([
  ["RefinedWeb", "falcon"],
  ["RefinedWebModel", "falcon"],
]);
/** Types of which only a part is supported, which has a type of its own. */
const WITH_IMAGES: ReadonlyMap<string, string> = new Map([["gemma3", "gemma3_text"]]);

/** The supported `model_type`s. */
export const MODEL_TYPES: readonly string[] = [...ARCHITECTURES.keys()];

/**
 * The architecture of a config.json.
 * @throws ConfigError without `model_type`, UnsupportedModelError for an unknown one
 */
export async function architectureOf(config: ConfigJson): Promise<Architecture> {
  const type = config.model_type;
  if (typeof type !== "string") {
    throw new ConfigError(`config.json has no "model_type" (got ${type === undefined ? "nothing" : show(type)})`, {
      hint: "is this the folder of a transformers model?",
    });
  }
  const load = ARCHITECTURES.get(OLD_NAMES.get(type) ?? type);
  if (!load) {
    const text = WITH_IMAGES.get(type);
    if (text) {
      throw new UnsupportedModelError(`architecture ${show(type)} takes images and text, which is not supported`, {
        hint: `models of text alone have model_type "${text}"`,
        details: { model_type: type },
      });
    }
    const near = suggestion(type, MODEL_TYPES);
    throw new UnsupportedModelError(
      `architecture ${show(type)} is not supported${near ? `; did you mean "${near}"?` : ""}`,
      {
        hint:
          `${MODEL_TYPES.length} kinds are supported, such as bert, gemma3_text, gpt2, llama, mistral, modernbert, qwen3, t5 and ` +
          "whisper; the README and details.supported of this error name all",
        details: { model_type: type, supported: MODEL_TYPES },
      },
    );
  }
  const architecture = await load();
  const { "causal-lm": causal, base } = architecture.tasks;
  if (!causal || base) return architecture;
  return {
    ...architecture,
    tasks: { ...architecture.tasks, ...decoderTasks(architecture.model_type, causal, labelCount) },
  };
}

/**
 * Builds the tree of a config.json for a task; allocates nothing.
 * @throws ConfigError, UnsupportedModelError for an architecture that is unknown or does not offer the task
 */
export async function buildModel<T extends Task>(config: ConfigJson, task: T): Promise<TaskModels[T]> {
  return taskOf(await architectureOf(config), task)(config);
}

/** The function that builds models of an architecture for a task. @throws UnsupportedModelError naming the tasks on offer */
export function taskOf<T extends Task>(
  { tasks, model_type }: Architecture,
  task: T,
): (config: ConfigJson) => TaskModels[T] {
  const build = tasks[task];
  if (build) return build;
  throw new UnsupportedModelError(`architecture "${model_type}" has no ${task} model`, {
    hint: `it offers: ${Object.keys(tasks).join(", ")}`,
    details: { model_type, task },
  });
}

/** Endings of class names in `architectures`, and what such a model is for. */
const CLASSES: readonly (readonly [ending: RegExp, ...tasks: Task[]])[] = [
  [/ForCausalLM$|LMHeadModel$/, "causal-lm"],
  [/ForConditionalGeneration$/, "seq2seq-lm", "speech-seq2seq", "causal-lm"],
  [/ForMaskedLM$/, "masked-lm"],
  [/ForSequenceClassification$/, "sequence-classification", "audio-classification"],
  [/ForTokenClassification$/, "token-classification"],
  [/ForQuestionAnswering$/, "question-answering"],
  [/ForImageClassification$/, "image-classification"],
  [/ForCTC$/, "ctc"],
  [/EncoderModel$/, "base"],
  // Of an encoder-decoder both stacks, which its language model has.
  [/Model$/, "seq2seq-lm", "base"],
];

/** The task that a config.json names by its class, or the first one that its architecture offers. */
export function taskFor({ architectures }: ConfigJson, { tasks }: Architecture): Task {
  const offered = Object.keys(tasks) as Task[];
  const [name] = Array.isArray(architectures) ? (architectures as readonly unknown[]) : [];
  if (typeof name === "string") {
    for (const [ending, ...meant] of CLASSES) {
      const task = ending.test(name) ? meant.find((one) => offered.includes(one)) : undefined;
      if (task) return task;
    }
  }
  return offered[0]!;
}
