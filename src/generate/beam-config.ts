// What the options of generate() say about beams, and about the texts that are returned for each prompt.

import type { Options } from "../core/options.js";
import { type BeamConstraint, forcedWords, idsIn } from "./constraints.js";
import type { BEAMS } from "./host-options.js";

/** How many texts are searched, and which is the best. */
export interface BeamConfig {
  /** 1: no beam search. */
  readonly num_beams: number;
  readonly length_penalty: number;
  readonly early_stopping: boolean | "never";
  /** 1: no groups. */
  readonly num_beam_groups: number;
  readonly diversity_penalty: number;
  /** Texts that are returned for each prompt. */
  readonly num_return_sequences: number;
  /** What each text must hold; empty for nothing. */
  readonly constraints: readonly BeamConstraint[];
}

/**
 * More rows for each prompt are believed of a caller, not of a file: every row costs memory and time before the first token, and whoever
 * downloads a model has not asked for it.
 */
const MOST_OF_A_FILE = 256;

/** Texts of a batch for each prompt. */
export function rowsPerPrompt({ num_beams, num_return_sequences }: BeamConfig): number {
  return num_beams > 1 ? num_beams : num_return_sequences;
}

/**
 * The beams that the options ask for.
 * @param given the caller's option, or the file's
 * @param vocab token ids are below this
 * @param refuse throws for settings that contradict each other
 */
export function beamsOf(
  options: Options<typeof BEAMS>,
  given: <Key extends keyof typeof BEAMS>(key: Key) => Options<typeof BEAMS>[Key],
  do_sample: boolean,
  vocab: number,
  refuse: (key: keyof typeof BEAMS, message: string) => never,
): BeamConfig {
  const num_beams = given("num_beams") ?? 1;
  const num_return_sequences = given("num_return_sequences") ?? 1;
  for (const key of ["num_beams", "num_return_sequences"] as const) {
    const rows = given(key) ?? 1;
    if (options[key] === undefined && rows > MOST_OF_A_FILE) {
      refuse(key, `${key} is at most ${MOST_OF_A_FILE} in a file, not ${rows}`);
    }
  }
  if (num_return_sequences > num_beams && (num_beams > 1 || !do_sample)) {
    refuse(
      "num_return_sequences",
      num_beams > 1
        ? `num_return_sequences ${num_return_sequences} needs as many beams, but num_beams is ${num_beams}`
        : `num_return_sequences ${num_return_sequences} needs do_sample, or as many beams: all texts would be the same`,
    );
  }
  // Groups of a file are of no account where the caller searches otherwise.
  const fromFile = num_beams > 1 && !do_sample;
  const ofGroups = (key: "num_beam_groups" | "diversity_penalty"): number | null | undefined =>
    fromFile || options[key] !== undefined ? given(key) : undefined;
  const num_beam_groups = ofGroups("num_beam_groups") ?? 1;
  const diversity_penalty = ofGroups("diversity_penalty") ?? 0;
  if (num_beams % num_beam_groups !== 0) {
    refuse("num_beam_groups", `num_beam_groups ${num_beam_groups} must divide num_beams, which is ${num_beams}`);
  }
  if (num_beam_groups > 1 && do_sample) refuse("num_beam_groups", "num_beam_groups cannot be combined with do_sample");
  if (num_beam_groups > 1 !== diversity_penalty > 0) {
    const why = num_beam_groups > 1 ? "groups would be the same without diversity_penalty" : "there are no groups";
    refuse(
      "diversity_penalty",
      `diversity_penalty is ${diversity_penalty}, num_beam_groups ${num_beam_groups}: ${why}`,
    );
  }
  return {
    num_beam_groups,
    diversity_penalty,
    num_beams,
    num_return_sequences,
    length_penalty: given("length_penalty") ?? 1,
    early_stopping: given("early_stopping") ?? false,
    constraints: constraintsOf({ num_beams, num_beam_groups, do_sample, vocab }, given, refuse),
  };
}

/** The words of `constraints` and `force_words_ids`. */
function constraintsOf(
  {
    num_beams,
    num_beam_groups,
    do_sample,
    vocab,
  }: Pick<BeamConfig, "num_beams" | "num_beam_groups"> & {
    readonly do_sample: boolean;
    readonly vocab: number;
  },
  given: <Key extends "constraints" | "force_words_ids">(key: Key) => Options<typeof BEAMS>[Key],
  refuse: (key: keyof typeof BEAMS, message: string) => never,
): readonly BeamConstraint[] {
  const all: BeamConstraint[] = [];
  for (const key of ["constraints", "force_words_ids"] as const) {
    const own = key === "constraints" ? given(key) : forcedWords(given("force_words_ids") ?? []);
    if (!own?.length) continue;
    if (num_beams === 1) refuse(key, `${key} needs num_beams above 1`);
    if (do_sample) refuse(key, `${key} cannot be combined with do_sample`);
    if (num_beam_groups > 1) refuse(key, `${key} cannot be combined with num_beam_groups`);
    const outside = own.flatMap(idsIn).find((id) => id >= vocab);
    if (outside !== undefined) refuse(key, `${key}: token id ${outside} is not below ${vocab}`);
    for (const one of own) all.push(one);
  }
  return all;
}
