// octavo inspect: facts about a model and its size in memory, from its config and headers alone.

import { basename } from "node:path";
import { Command } from "commander";
import { torchName } from "../core/dtype.js";
import { NODE } from "../load/node.js";
import { SOURCE, WEIGHTS } from "../load/options.js";
import { type ModelSurvey, surveyModel } from "../load/survey.js";
import type { Task } from "../nn/architecture.js";
import { commitIn } from "../sources/cache-paths.js";
import { A_MODEL, addFlags, dtypeOption, jsonOption, optionsOf, schemePlanOption, sourceOptions } from "./arguments.js";
import { readPlan } from "./load-flags.js";
import { bytes, countOf, print, printJson, sharesText, table, warner } from "./output.js";

interface InspectFlags {
  dtype: string;
  task?: Task;
  plan?: string;
  json?: boolean;
}

/** Number of tokens for the reported cache size. */
const CACHE_TOKENS = 1000;

export function inspectCommand(): Command {
  const command = new Command("inspect")
    .argument("<model>", A_MODEL)
    .addOption(dtypeOption())
    .option("--task <name>", "what the model is for, such as causal-lm (default: what config.json says)")
    .addOption(schemePlanOption());
  addFlags(command, WEIGHTS);
  return sourceOptions(command)
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Examples:
  octavo inspect octavo/storyteller
  octavo inspect bigscience/bloom-560m --json
  octavo inspect ./llama --plan plan.json`,
    )
    .action(inspect);
}

async function inspect(model: string, flags: InspectFlags): Promise<void> {
  const files = optionsOf("inspect", WEIGHTS, flags);
  const plan = flags.plan === undefined ? undefined : await readPlan(flags.plan);
  // Headers are read where they lie: to be looked at, a model need not be downloaded.
  const warn = warner();
  const source = await NODE.source(model, { ...optionsOf("inspect", SOURCE, flags), warn, peek: true });
  const folder = source.location;
  const revision = commitIn(folder);
  let survey: ModelSurvey;
  try {
    survey = await surveyModel(source, { dtype: flags.dtype, task: flags.task, files, plan });
  } finally {
    await source.close();
  }
  if (flags.json) printJson(toJson(model, folder, revision, survey));
  else print(toText(model, folder, survey));
  survey.warnings.forEach(warn);
}

function toJson(model: string, folder: string, revision: string | undefined, survey: ModelSurvey): unknown {
  const { geometry } = survey;
  return {
    model,
    folder,
    revision: revision ?? null,
    model_type: survey.model_type,
    task: survey.task,
    architectures: survey.config.architectures ?? null,
    parameters: survey.parameters,
    dtype: torchName(survey.dtype),
    blocks: survey.stacks,
    layers: geometry?.layers ?? survey.stacks[0],
    hidden_size: geometry?.hidden ?? null,
    heads: geometry?.heads ?? null,
    key_value_heads: geometry?.groups ?? null,
    head_dim: geometry?.head_dim ?? null,
    vocab_size: geometry?.vocab ?? null,
    context: survey.context ?? null,
    files: survey.files.map(({ file, bytes }) => ({ file: basename(file), bytes })),
    checkpoint_bytes: survey.checkpoint_bytes,
    weights: survey.sizes.map(({ name, options, bytes }) => ({ scheme: name, bytes, options })),
    schemes: survey.shares,
    kv_cache: geometry && { dtype: torchName(survey.cache_dtype), bytes_per_token: survey.cache_bytes_per_token },
    warnings: survey.warnings,
  };
}

/** Layers and heads in words. */
function shapeOf({ geometry, stacks }: ModelSurvey): string {
  const layers = stacks.length > 1 ? `${stacks.join(" + ")} layers` : `${stacks[0]} layers`;
  if (!geometry) return layers;
  const { heads, groups, head_dim, hidden } = geometry;
  const sharing = groups === heads ? "" : ` sharing ${groups} key-value heads`;
  return `${layers}, hidden size ${hidden}, ${heads} heads of ${head_dim}${sharing}`;
}

function toText(model: string, folder: string, survey: ModelSurvey): string {
  const { geometry } = survey;
  const dtype = torchName(survey.dtype);
  const context = survey.context === undefined ? "not stated" : `${survey.context} tokens`;
  const facts = [
    ["model", model === folder ? model : `${model} (${folder})`],
    ["architecture", `${survey.model_type}, ${shapeOf(survey)}`],
    ["task", survey.task],
    ["parameters", `${survey.parameters.toLocaleString("en-US")} (${countOf(survey.parameters)})`],
    ...(geometry ? [["vocabulary", `${geometry.vocab} tokens`]] : []),
    ["context", context],
    ["dtype", dtype],
  ];
  const files = survey.files.map(({ file, bytes: size }) => [basename(file), bytes(size)]);
  const there = files.length > 0;
  const sizes = survey.sizes.map(({ name, bytes: size }) => [
    name,
    bytes(size),
    `${(size / survey.checkpoint_bytes).toFixed(2)} x`,
    size.toLocaleString("en-US"),
  ]);
  const cache = geometry
    ? `\nkey-value cache: ${bytes(survey.cache_bytes_per_token * CACHE_TOKENS)} per ${CACHE_TOKENS} tokens in ` +
      `${torchName(survey.cache_dtype)}\n`
    : "";
  return (
    `${table(facts)}\nfiles${there ? `\n${table(files, [1], "  ")}` : ": no weights are there; sizes follow from config.json\n"}\n` +
    `weights in memory (unquantized parameters stay in ${dtype})\n` +
    table([["scheme", "size", there ? "of the file" : `of ${dtype}`, "bytes"], ...sizes], [1, 2, 3], "  ") +
    sharesText(survey.shares) +
    cache
  );
}
