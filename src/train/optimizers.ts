// Optimizers by transformers' names, over the parameters of a model in groups as transformers makes them.

import { Adagrad, AdamW, AdEMAMix, Lion, RMSprop, SGD } from "../bnb/optim/index.js";
import { type GroupOptions, type Kind, Optimizer, type ParamGroup } from "../bnb/optim/optimizer.js";
import { MOMENTUM } from "../bnb/optim/options.js";
import { OptionError } from "../core/errors.js";
import { cut } from "../core/show.js";
import { LayerNorm as TorchLayerNorm } from "../nn/layers.js";
import { Embedding, type Matrix, type Module, type Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { Adafactor } from "./adafactor.js";
import type { TrainingArguments } from "./arguments.js";
import type { OptimName } from "./options.js";

type Trained = Parameter | Matrix;

/** A parameter that is trained, by its name. */
export type Named = readonly [name: string, parameter: Trained];

/** The parameters of a model that ask for gradients, each once. */
export function trainedOf(named: Iterable<Named>): Named[] {
  const found = new Map<Trained, Named>();
  for (const one of named) if (one[1].requires_grad && !found.has(one[1])) found.set(one[1], one);
  return [...found.values()];
}

/** Names whose parameters do not decay, as transformers has them. */
const NO_DECAY = /bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)/i;

/** Gradient descent without momentum: torch's SGD, as bitsandbytes' has momentum. */
class PlainSGD extends Optimizer {
  constructor(params: Iterable<ParamGroup<object>>, options: object) {
    const defaults: GroupOptions = { ...{ lr: 1e-3, weight_decay: 0, optim_bits: 32 }, ...REST };
    const kind: Kind<GroupOptions> = {
      ...{ name: "SGD", rule: "momentum", table: MOMENTUM, defaults },
      numbers: ({ lr, weight_decay }) => ({ lr, decay: weight_decay, beta1: 0, first: true }),
    };
    super(kind, params as never, options);
  }
}
const REST = { min_8bit_size: 4096, max_unorm: 0, skip_zeros: false };

type Make = (groups: never, args: TrainingArguments, extra: object) => Optimizer;

const adam = ({ learning_rate: lr, adam_beta1, adam_beta2, adam_epsilon: eps }: TrainingArguments) => ({
  lr,
  betas: [adam_beta1, adam_beta2] as const,
  eps,
});
const adamw =
  (optim_bits: 8 | 32): Make =>
  (groups, args, extra) =>
    new AdamW(groups, { ...adam(args), optim_bits, ...extra });
const lion =
  (optim_bits: 8 | 32): Make =>
  (groups, { learning_rate: lr, adam_beta1, adam_beta2 }, extra) =>
    new Lion(groups, { lr, betas: [adam_beta1, adam_beta2], optim_bits, ...extra });
const ademamix =
  (optim_bits: 8 | 32): Make =>
  (groups, args, { beta3 = 0.9999, ...extra }: { beta3?: number }) => {
    const { lr, betas, eps } = adam(args);
    return new AdEMAMix(groups, { lr, betas: [...betas, beta3], eps, alpha: 5, optim_bits, ...extra });
  };
const rmsprop =
  (optim_bits: 8 | 32): Make =>
  (groups, { learning_rate: lr }, extra) =>
    new RMSprop(groups, { lr, optim_bits, ...extra });

/** With states in the host's memory. */
const paged =
  (make: Make): Make =>
  (groups, args, extra) =>
    make(groups, args, { ...extra, is_paged: true });

const MAKERS: Readonly<Record<OptimName, Make>> = {
  adamw_torch: adamw(32),
  adamw_torch_fused: adamw(32),
  adamw_bnb_8bit: adamw(8),
  adamw_8bit: adamw(8),
  adafactor: (groups, { learning_rate: lr }, extra) =>
    new Adafactor(groups, { lr, scale_parameter: false, relative_step: false, ...extra }) as never,
  sgd: (groups, { learning_rate: lr }, { momentum, ...extra }: { momentum?: number }) =>
    momentum ? new SGD(groups, { lr, momentum, ...extra }) : new PlainSGD(groups, { lr, ...extra }),
  adagrad: (groups, { learning_rate: lr }, extra) => new Adagrad(groups, { lr, ...extra }),
  rmsprop: rmsprop(32),
  rmsprop_bnb: rmsprop(32),
  rmsprop_bnb_32bit: rmsprop(32),
  rmsprop_bnb_8bit: rmsprop(8),
  lion_32bit: lion(32),
  lion_8bit: lion(8),
  ademamix: ademamix(32),
  ademamix_8bit: ademamix(8),
  paged_adamw: paged(adamw(32)),
  paged_adamw_32bit: paged(adamw(32)),
  paged_adamw_8bit: paged(adamw(8)),
  paged_lion_32bit: paged(lion(32)),
  paged_lion_8bit: paged(lion(8)),
  paged_ademamix_32bit: paged(ademamix(32)),
  paged_ademamix_8bit: paged(ademamix(8)),
};

/** "momentum=0.9,amsgrad=false" as options. @throws OptionError */
function extraOf(text: string | null): object {
  if (text === null || text.trim() === "") return {};
  return Object.fromEntries(
    text.split(",").map((pair) => {
      const [name = "", value = ""] = pair.split("=").map((part) => part.trim());
      const word = value.toLowerCase();
      const number = Number(value);
      if (name !== "" && value !== "" && !Number.isNaN(number)) return [name, number];
      if (name !== "" && (word === "true" || word === "false")) return [name, word === "true"];
      throw new OptionError(`optim_args: expected "name=number", got ${JSON.stringify(cut(pair, 100))}`, {
        details: { option: "optim_args" },
      });
    }),
  );
}

/** The module that a parameter of this name is in; of an adapter's copy that of the model. */
function ownerOf(modules: ReadonlyMap<string, Module>, name: string): Module | undefined {
  const path = name.replace(/\.modules_to_save\.[^.]+(?=\.[^.]+$)/, "");
  return modules.get(path.slice(0, Math.max(0, path.lastIndexOf("."))));
}

/**
 * The parameters as transformers groups them: biases and norms do not decay. Embeddings have states in 32 bits, as bitsandbytes
 * advises.
 * @param root the tree that the names are from
 */
export function groupsOf(trained: readonly Named[], root: Module, args: TrainingArguments): object[] {
  const modules = new Map(root.named_modules());
  const groups = [true, false].flatMap((decays) =>
    [false, true].map((wide) => ({ decays, wide, params: [] as Trained[] })),
  );
  const narrow = args.optim.endsWith("8bit");
  for (const [name, parameter] of trained) {
    const owner = ownerOf(modules, name);
    const decays = !NO_DECAY.test(name) && !(owner instanceof LayerNorm || owner instanceof TorchLayerNorm);
    const wide = narrow && owner instanceof Embedding;
    groups.find((one) => one.decays === decays && one.wide === wide)!.params.push(parameter);
  }
  return groups
    .filter(({ params }) => params.length > 0)
    .map(({ decays, wide, params }) => ({
      params,
      weight_decay: decays ? args.weight_decay : 0,
      ...(wide ? { optim_bits: 32 } : {}),
    }));
}

/** The optimizer that the arguments name. @throws OptionError */
export function optimizerOf(trained: readonly Named[], root: Module, args: TrainingArguments): Optimizer {
  return MAKERS[args.optim](groupsOf(trained, root, args) as never, args, extraOf(args.optim_args));
}
