// What texts of a constrained beam search must hold: words that occur in them (Hokamp and Liu 2017, grid beam search; Post and Vilar 2018,
// banks). The rules are those of transformers 4 (beam_constraints.py): one constraint is worked on at a time, its tokens follow each
// other, and the prompt counts. Which beams run on is decided in constrained-beams.ts.

import { isWhole, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";

type Ids = readonly number[];

const idsOf = (value: unknown): number[] | undefined => {
  const ids = listOf(value, isWhole);
  return ids && ids.length > 0 ? ids : undefined;
};

/** These tokens occur in the text, one after the other. */
export class PhrasalConstraint {
  readonly token_ids: Ids;

  /** @throws OptionError for anything but a list of ids */
  constructor(token_ids: Ids) {
    const ids = idsOf(token_ids);
    if (!ids) throw new OptionError(`PhrasalConstraint: token_ids must be a list of token ids, got ${show(token_ids)}`);
    this.token_ids = ids;
  }
}

/** One of these sequences of tokens occurs in the text. */
export class DisjunctiveConstraint {
  readonly token_ids: readonly Ids[];

  /** @throws OptionError for anything but lists of ids, and if one of them is the beginning of another */
  constructor(nested_token_ids: readonly Ids[]) {
    const words = listOf(nested_token_ids, (one): one is Ids => idsOf(one) !== undefined);
    if (!words || words.length === 0) {
      throw new OptionError(
        `DisjunctiveConstraint: nested_token_ids must be lists of token ids, got ${show(nested_token_ids)}`,
      );
    }
    this.token_ids = words.map((one) => idsOf(one)!);
    trieOf(this.token_ids);
  }
}

export type BeamConstraint = PhrasalConstraint | DisjunctiveConstraint;

/** The ids of a constraint's words. */
export function idsIn({ token_ids }: BeamConstraint): readonly number[] {
  return (token_ids as readonly (number | Ids)[]).flat();
}

/** What is wrong with a constraint of a call, or what is left of one that was sent to a Worker. */
export function problemWithConstraint(value: unknown): string | undefined {
  try {
    const { token_ids } = (typeof value === "object" && value !== null ? value : {}) as { token_ids?: unknown };
    if (idsOf(token_ids)) return undefined;
    new DisjunctiveConstraint(token_ids as readonly Ids[]);
    return undefined;
  } catch (error) {
    return error instanceof OptionError ? error.message : "cannot be read";
  }
}

/** What `force_words_ids` means: a word, or words of which one occurs. @throws OptionError */
export function forcedWords(value: readonly (Ids | readonly Ids[])[]): BeamConstraint[] {
  return value.map((one) =>
    idsOf(one) ? new PhrasalConstraint(one as Ids) : new DisjunctiveConstraint(one as readonly Ids[]),
  );
}

/** A place in the words of a constraint. */
interface Node {
  readonly next: Map<number, Node>;
  readonly depth: number;
}

/** @throws OptionError if a word is the beginning of another */
function trieOf(words: readonly Ids[]): Node {
  const root: Node = { next: new Map(), depth: 0 };
  const ends = new Set<Node>();
  for (const word of words) {
    let node = root;
    for (const id of word) {
      let next = node.next.get(id);
      if (!next) node.next.set(id, (next = { next: new Map(), depth: node.depth + 1 }));
      node = next;
    }
    ends.add(node);
  }
  if (ends.size === words.length && [...ends].every(({ next }) => next.size === 0)) return root;
  throw new OptionError(`no word of a DisjunctiveConstraint may be the beginning of another: ${show(words)}`);
}

/** A constraint with the tree of its words. */
interface Rule {
  readonly root: Node;
  /** Tokens of its longest word. */
  readonly height: number;
}

/** How far a text is with its constraints. */
export interface Progress {
  readonly complete: number;
  readonly pending: readonly Rule[];
  readonly current: { readonly rule: Rule; readonly at: Node } | undefined;
}

/** Spread out into arguments, a long list would be too much for a call. */
const longest = (lengths: readonly number[]): number => lengths.reduce((most, length) => Math.max(most, length), 0);

/** The constraints of a search. */
export class Constraints {
  readonly #rules: readonly Rule[];
  /** Tokens of the longest word of all. */
  readonly #height: number;

  constructor(constraints: readonly BeamConstraint[]) {
    this.#rules = constraints.map(({ token_ids }) => {
      const words = (typeof token_ids[0] === "number" ? [token_ids] : token_ids) as readonly Ids[];
      return { root: trieOf(words), height: longest(words.map(({ length }) => length)) };
    });
    this.#height = longest(this.#rules.map(({ height }) => height));
  }

  /** After a prompt, whose words count. */
  begin(prompt: Ids): Progress {
    const none: Progress = { complete: 0, pending: this.#rules, current: undefined };
    return prompt.reduce((progress, id) => this.add(progress, id), none);
  }

  isComplete({ complete }: Progress): boolean {
    return complete === this.#rules.length;
  }

  /** After another token. */
  add(progress: Progress, id: number): Progress {
    const { complete, pending, current } = progress;
    if (this.isComplete(progress)) return progress;
    if (current) {
      const at = current.at.next.get(id);
      if (!at) return this.#dropped(progress);
      if (at.next.size === 0) return { complete: complete + 1, pending, current: undefined };
      return { complete, pending, current: { rule: current.rule, at } };
    }
    for (const [n, rule] of pending.entries()) {
      const at = rule.root.next.get(id);
      if (!at) continue;
      const rest = pending.filter((_, other) => other !== n);
      if (at.next.size === 0) return { complete: complete + 1, pending: rest, current: undefined };
      return { complete, pending: rest, current: { rule, at } };
    }
    return progress;
  }

  /** The current constraint begins anew, behind the others. */
  #dropped({ complete, pending, current }: Progress): Progress {
    return { complete, pending: current ? [...pending, current.rule] : pending, current: undefined };
  }

  /** Tokens that lead on, with what follows from each. */
  *advances(progress: Progress): Iterable<readonly [id: number, after: Progress]> {
    if (this.isComplete(progress)) return;
    const { current, pending } = progress;
    if (!current) {
      for (const { root } of pending) for (const id of root.next.keys()) yield [id, this.add(progress, id)];
      return;
    }
    let first = true;
    for (const id of current.at.next.keys()) {
      // Where several words of one constraint go on from here, transformers credits the first of them alone.
      yield [id, first ? this.add(progress, id) : this.#dropped(progress)];
      first = false;
    }
  }

  /** How far it is, in tokens. */
  bank({ complete, current }: Progress): number {
    const left = current ? current.rule.height - current.at.depth : this.#height;
    return complete * this.#height + this.#height - left;
  }
}
