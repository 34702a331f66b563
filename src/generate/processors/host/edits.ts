// Changes to the scores of single tokens, as processors of a text ask for them one after the other: the host applies them, or the device.

const NEVER = Number.NEGATIVE_INFINITY;

/** What happens to a token's score, in this order. */
export interface Edit {
  /** Added first. */
  readonly add: number;
  /** The score is then divided by it, or multiplied if negative; 1 for none. */
  readonly penalty: number;
  /** Its magnitude times this is added last; 0 for none. */
  readonly growth: number;
}

const NONE: Edit = { add: 0, penalty: 1, growth: 0 };

/** Scores of a step, of which some tokens' change. */
export class Edits {
  readonly vocab: number;
  readonly #edits = new Map<number, Edit>();
  /** The only tokens that may come, with their scores: all others change no more. */
  #only: Map<number, number> | undefined;

  constructor(vocab: number) {
    this.vocab = vocab;
  }

  /** The tokens whose scores change; with `only` those that may come alone, whose scores are what is added. */
  get changes(): ReadonlyMap<number, Edit> {
    if (!this.#only) return this.#edits;
    return new Map([...this.#only].map(([id, add]) => [id, { ...NONE, add }]));
  }

  get only(): boolean {
    return this.#only !== undefined;
  }

  /** True for a token that must not come. */
  bans(id: number): boolean {
    return this.#only ? !this.#only.has(id) : this.#edits.get(id)?.add === NEVER;
  }

  /** Ids outside the vocabulary change nothing. */
  add(id: number, bias: number): void {
    this.#change(id, (before) => ({ ...before, add: before.add + bias }));
  }

  /** Tokens that must not come. */
  ban(ids: Iterable<number>): void {
    for (const id of ids) this.add(id, NEVER);
  }

  penalize(id: number, penalty: number): void {
    this.#change(id, (before) => ({ ...before, penalty }));
  }

  grow(id: number, growth: number): void {
    this.#change(id, (before) => ({ ...before, growth }));
  }

  /** Nothing but these may come, all with one score, whatever was forbidden before. */
  force(ids: readonly number[], score: number): void {
    this.#only = new Map(ids.filter((id) => id < this.vocab).map((id) => [id, score]));
  }

  #change(id: number, by: (before: Edit) => Edit): void {
    if (id < this.vocab && !this.#only) this.#edits.set(id, by(this.#edits.get(id) ?? NONE));
  }

  /** Changes scores f32[vocab] in place. */
  apply(scores: Float32Array): void {
    if (this.#only) scores.fill(NEVER);
    for (const [id, { add, penalty, growth }] of this.changes) {
      if (this.#only) {
        scores[id] = add;
        continue;
      }
      scores[id] = scores[id]! + add;
      if (penalty !== 1) scores[id] = scores[id]! < 0 ? scores[id]! * penalty : scores[id]! / penalty;
      // What is forbidden stays so: minus infinity and its magnitude would give NaN.
      if (growth !== 0 && scores[id] !== NEVER) scores[id] = scores[id]! + Math.abs(scores[id]!) * growth;
    }
  }
}
