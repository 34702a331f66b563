// The commands of the command line: what each is called and for, in the groups that `octavo --help` shows. Each loads its own
// file: a command starts without the others, and help without any.

import { Command } from "commander";
import type { CommandEntry } from "./command-entry.js";
import { version } from "./version.js";

const RUN = "Run a model:";
const BEFORE = "Look before you load:";
const CHANGE = "Change a model:";
const MEASURE = "Measure:";
const KEEP = "Download and share:";
const HERE = "This machine:";

/** In the order of `octavo --help`. */
export const COMMANDS: Readonly<Record<string, CommandEntry>> = {
  generate: {
    group: RUN,
    description: "continue a prompt",
    load: async () => (await import("./generate.js")).generateCommand(),
  },
  chat: {
    group: RUN,
    description: "talk with a model that has a chat template",
    load: async () => (await import("./chat.js")).chatCommand(),
  },
  run: {
    group: RUN,
    description: "run a task, such as text-classification, on texts, images or sound",
    load: async () => (await import("./run-task.js")).runCommand(),
  },
  inspect: {
    group: BEFORE,
    description: "show a model's architecture and size, without loading it",
    load: async () => (await import("./inspect.js")).inspectCommand(),
  },
  plan: {
    group: BEFORE,
    description: "show where a model would go on several devices, without loading it",
    load: async () => (await import("./plan.js")).planCommand(),
  },
  "estimate-memory": {
    group: BEFORE,
    description: "show how much memory a model takes in each precision, and to train it with Adam",
    load: async () => (await import("./plan.js")).estimateCommand(),
  },
  quantize: {
    group: CHANGE,
    description:
      "write a model in 8 or 4 bits, as transformers and bitsandbytes store it, or with a scheme for each linear",
    load: async () => (await import("./quantize.js")).quantizeCommand(),
  },
  train: {
    group: CHANGE,
    description: "fine-tune a language model on files of examples",
    load: async () => (await import("./train.js")).trainCommand(),
  },
  merge: {
    group: CHANGE,
    description: "put an adapter into a language model's weights, and write the model whole",
    load: async () => (await import("./merge.js")).mergeCommand(),
  },
  eval: {
    group: MEASURE,
    description: "measure perplexity, divergence from f32, or accuracy on tasks, in several storages",
    load: async () => (await import("./eval.js")).evalCommand(),
  },
  explain: {
    group: MEASURE,
    description: "show what quantization does to a model: outliers, errors of its layers and logits, memory",
    load: async () => (await import("./explain.js")).explainCommand(),
  },
  bench: {
    group: MEASURE,
    description: "measure speed and memory beside what this machine can do",
    load: async () => (await import("./bench.js")).benchCommand(),
  },
  pull: {
    group: KEEP,
    description: "download a model into the Hugging Face cache",
    load: async () => (await import("./pull.js")).pullCommand(),
  },
  list: {
    group: KEEP,
    description: "list the models in the Hugging Face cache",
    load: async () => (await import("./list.js")).listCommand(),
  },
  remove: {
    group: KEEP,
    description: "delete a model from the Hugging Face cache",
    load: async () => (await import("./remove.js")).removeCommand(),
  },
  push: {
    group: KEEP,
    description: "upload the folder of a model to the hub",
    load: async () => (await import("./push.js")).pushCommand(),
  },
  doctor: {
    group: HERE,
    description: "show what this machine offers and test the kernels against the reference",
    load: async () => (await import("./doctor.js")).doctorCommand(),
  },
  completion: {
    group: HERE,
    description: "print a script by which bash, zsh or fish completes commands and flags",
    load: async () => (await import("./completion.js")).completionCommand(COMMANDS),
  },
  version: {
    group: HERE,
    description: "print the version",
    load: async () =>
      new Command("version").action(() => {
        process.stdout.write(`${version()}\n`);
      }),
  },
};

/** One of `COMMANDS`, whole; or, if it is only listed, its name and description alone. */
export async function commandOf(name: string, whole: boolean): Promise<Command> {
  const { group, description, load } = COMMANDS[name]!;
  const command = whole ? await load() : new Command(name);
  return command.description(description).helpGroup(group);
}
