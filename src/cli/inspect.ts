// octavo inspect: facts about a model and its size in memory, from its config and headers alone.

import { basename } from "node:path";
import { Command } from "commander";
import { torchName } from "../core/dtype.js";
import { NODE } from "../load/node.js";
import { type ModelSurvey, surveyModel } from "../load/survey.js";
import { dtypeOption, jsonOption, sourceOptions } from "./arguments.js";
import { bytes, countOf, note, print, printJson, table } from "./output.js";

interface InspectFlags {
  dtype: string;
  revision?: string;
  cacheDir?: string;
  json?: boolean;
}

/** The commit of a model in the Hugging Face cache. */
const SNAPSHOT = /[\\/]snapshots[\\/]([0-9a-f]{40})$/;
/** Number of tokens for the reported cache size. */
const CACHE_TOKENS = 1000;

export function inspectCommand(): Command {
  const command = new Command("inspect")
    .description("show a model's architecture and size, without loading it")
    .argument("<model>", "folder, id of a model in the Hugging Face cache, or address")
    .addOption(dtypeOption());
  return sourceOptions(command)
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Examples:
  octavo inspect octavo/storyteller
  octavo inspect bigscience/bloom-560m --json`,
    )
    .action(inspect);
}

async function inspect(model: string, flags: InspectFlags): Promise<void> {
  const source = await NODE.source(model, { cache_dir: flags.cacheDir, revision: flags.revision });
  const folder = source.location;
  const revision = SNAPSHOT.exec(folder)?.[1];
  let survey: ModelSurvey;
  try {
    survey = await surveyModel(source, flags.dtype);
  } finally {
    await source.close();
  }
  if (flags.json) printJson(toJson(model, folder, revision, survey));
  else print(toText(model, folder, survey));
  for (const warning of survey.warnings) note(`warning: ${warning}`);
}

function toJson(model: string, folder: string, revision: string | undefined, survey: ModelSurvey): unknown {
  const { layers, heads, groups, head_dim, hidden, vocab } = survey.geometry;
  return {
    model,
    folder,
    revision: revision ?? null,
    model_type: survey.model_type,
    architectures: survey.config.architectures ?? null,
    parameters: survey.parameters,
    dtype: torchName(survey.dtype),
    layers,
    hidden_size: hidden,
    heads,
    key_value_heads: groups,
    head_dim,
    vocab_size: vocab,
    context: survey.context ?? null,
    files: survey.files.map(({ file, bytes }) => ({ file: basename(file), bytes })),
    checkpoint_bytes: survey.checkpoint_bytes,
    weights: survey.sizes.map(({ name, options, bytes }) => ({ scheme: name, bytes, options })),
    kv_cache: { dtype: torchName(survey.cache_dtype), bytes_per_token: survey.cache_bytes_per_token },
    warnings: survey.warnings,
  };
}

function toText(model: string, folder: string, survey: ModelSurvey): string {
  const { layers, heads, groups, head_dim, hidden, vocab } = survey.geometry;
  const dtype = torchName(survey.dtype);
  const sharing = groups === heads ? "" : ` sharing ${groups} key-value heads`;
  const context = survey.context === undefined ? "not stated" : `${survey.context} tokens`;
  const facts = [
    ["model", model === folder ? model : `${model} (${folder})`],
    [
      "architecture",
      `${survey.model_type}, ${layers} layers, hidden size ${hidden}, ${heads} heads of ${head_dim}${sharing}`,
    ],
    ["parameters", `${survey.parameters.toLocaleString("en-US")} (${countOf(survey.parameters)})`],
    ["vocabulary", `${vocab} tokens`],
    ["context", context],
    ["dtype", dtype],
  ];
  const files = survey.files.map(({ file, bytes: size }) => [basename(file), bytes(size)]);
  const sizes = survey.sizes.map(({ name, bytes: size }) => [
    name,
    bytes(size),
    `${(size / survey.checkpoint_bytes).toFixed(2)} x`,
    size.toLocaleString("en-US"),
  ]);
  return (
    `${table(facts)}\nfiles\n${table(files, [1], "  ")}\n` +
    `weights in memory (unquantized parameters stay in ${dtype})\n` +
    table([["scheme", "size", "of the file", "bytes"], ...sizes], [1, 2, 3], "  ") +
    `\nkey-value cache: ${bytes(survey.cache_bytes_per_token * CACHE_TOKENS)} per ${CACHE_TOKENS} tokens in ` +
    `${torchName(survey.cache_dtype)}\n`
  );
}
