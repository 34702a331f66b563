// How long a regular expression of a file may take: JavaScript's engine tries one way of matching after the other, and an
// expression of ten characters can have more of them than there is time for. This counts them without running it.

/** Ways to match a text of n characters from one place: at most `ways` times n to the power of `degree`. */
interface Cost {
  readonly ways: number;
  readonly degree: number;
  /** The character that comes first, as written, if there is always one and it is the same. */
  readonly first: string | undefined;
  /** For a choice that begins differently each time: the costs of what can be chosen. */
  readonly choices?: readonly Cost[];
}

/** More ways than these count as endless; published tokenizers have some 20, of degree 2. */
const MOST_WAYS = 10_000;
const MOST_DEGREE = 3;
const MOST_GROUPS = 128; // in each other
/** Repetitions up to a larger number count as unbounded. */
const BOUNDED = 1000;

/** Tells whether no character matches both of two atoms. */
export type Disjoint = (a: string, b: string) => boolean;

/** Why an expression is refused, or undefined. `disjoint` is asked only about expressions that seem to be slow. */
export function tooCostly(source: string, disjoint: Disjoint): string | undefined {
  const fast = new Reader(source, () => false).read();
  if (fast === undefined) return `nests more than ${MOST_GROUPS} groups`;
  if (fits(fast) || fits(new Reader(source, disjoint).read()!)) return undefined;
  return "nests unbounded repetitions or repeats too many choices: it may take for ever";
}

function fits({ ways, degree }: Cost): boolean {
  return ways <= MOST_WAYS && degree <= MOST_DEGREE;
}

interface Repetition {
  readonly least: number;
  readonly most: number;
}

class Reader {
  readonly #source: string;
  readonly #disjoint: Disjoint;
  #at = 0;
  #depth = 0;
  #tooDeep = false;
  #folded = 0; // groups that ignore case: their atoms match more than is written

  constructor(source: string, disjoint: Disjoint) {
    this.#source = source;
    this.#disjoint = disjoint;
  }

  read(): Cost | undefined {
    let cost = this.#choice();
    while (this.#at < this.#source.length && !this.#tooDeep) {
      this.#at++; // a ")" too many, which the translation refuses
      cost = join(cost, this.#choice());
    }
    return this.#tooDeep ? undefined : cost;
  }

  #choice(): Cost {
    const choices = [this.#sequence()];
    while (this.#source[this.#at] === "|") {
      this.#at++;
      choices.push(this.#sequence());
    }
    if (choices.length === 1) return choices[0]!;
    const ways = choices.reduce((sum, choice) => sum + choice.ways, 0);
    const degree = choices.reduce((most, choice) => Math.max(most, choice.degree), 0);
    return { ways, degree, first: undefined, choices };
  }

  #sequence(): Cost {
    const items: { cost: Cost; again: Repetition }[] = [];
    while (this.#at < this.#source.length && !this.#tooDeep) {
      const next = this.#source[this.#at]!;
      if (next === "|" || next === ")") break;
      const cost = next === "(" ? this.#group() : this.#atom();
      items.push({ cost, again: this.#repetition() });
    }
    let all: Cost = { ways: 1, degree: 0, first: undefined };
    for (const [i, { cost, again }] of items.entries()) {
      const follower = items[i + 1];
      const next = follower !== undefined && follower.again.least > 0 ? follower.cost.first : undefined;
      const repeated = this.#repeat(cost, again, next);
      all = { ...join(all, repeated), first: i === 0 && again.least > 0 ? cost.first : all.first };
    }
    return all;
  }

  /** An atom or group, repeated; `next` is the character that must follow. */
  #repeat(cost: Cost, { least, most }: Repetition, next: string | undefined): Cost {
    if (most <= 1 && least === most) return cost;
    const { ways, degree } = most > 1 ? this.#chosen(cost) : cost;
    const certain = ways === 1 && degree === 0;
    // What comes after tells how often: there is one way.
    if (certain && cost.first !== undefined && next !== undefined && this.#disjoint(cost.first, next)) {
      return { ways: 1, degree: 0, first: undefined };
    }
    if (most > BOUNDED) return { ways: certain ? 1 : Number.POSITIVE_INFINITY, degree: 1, first: undefined };
    return { ways: ways ** most * (most - least + 1), degree: degree * most, first: undefined };
  }

  /** The cost of a choice whose alternatives begin with different characters: only one of them can match. */
  #chosen(cost: Cost): Cost {
    const { choices } = cost;
    const firsts = choices?.map((choice) => choice.first);
    const apart = firsts?.every((a, i) =>
      firsts.every((b, j) => i >= j || (a !== undefined && b !== undefined && this.#disjoint(a, b))),
    );
    if (!choices || !apart) return cost;
    return {
      ways: Math.max(...choices.map((choice) => choice.ways)),
      degree: Math.max(...choices.map((choice) => choice.degree)),
      first: undefined,
    };
  }

  #group(): Cost {
    if (++this.#depth > MOST_GROUPS) this.#tooDeep = true;
    const prefix = /^\((?:\?(?:<[=!]|<\w*>|P<\w*>|[:=!>]|[a-z-]*:?)?)?/.exec(
      this.#source.slice(this.#at, this.#at + 64),
    )![0];
    const folds = /^\(\?[a-z]*i/.test(prefix);
    this.#at += prefix.length;
    if (folds) this.#folded++;
    const cost = this.#tooDeep ? { ways: 1, degree: 0, first: undefined } : this.#choice();
    if (folds) this.#folded--;
    if (this.#source[this.#at] === ")") this.#at++;
    this.#depth--;
    return cost;
  }

  /** One character, class or escape. */
  #atom(): Cost {
    const start = this.#at;
    const char = this.#source[start]!;
    if (char === "\\") {
      const whole = /^\\(?:[pPxu]\{[^}]*\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|k<\w*>|[\s\S])/u.exec(
        this.#source.slice(start, start + 80),
      );
      this.#at += whole?.[0].length ?? 2;
    } else if (char === "[") this.#skipClass();
    else this.#at += this.#source.codePointAt(start)! > 0xffff ? 2 : 1;
    const text = this.#source.slice(start, this.#at);
    const empty = char === "^" || char === "$" || /^\\[bBAzZGKk\d]/.test(text);
    return { ways: 1, degree: 0, first: empty || this.#folded > 0 ? undefined : text };
  }

  #skipClass(): void {
    let depth = 0;
    for (; this.#at < this.#source.length; this.#at++) {
      const char = this.#source[this.#at];
      if (char === "\\") this.#at++;
      else if (char === "[") depth++;
      else if (char === "]" && --depth === 0) break;
    }
    this.#at++;
  }

  #repetition(): Repetition {
    let result: Repetition | undefined;
    for (;;) {
      const found = /^(?:[*+?]|\{(\d*)(,?)(\d*)\})/.exec(this.#source.slice(this.#at, this.#at + 24));
      if (found === null || found[0] === "{}" || found[0] === "{,}") break;
      this.#at += found[0].length;
      const one = repetition(found);
      // A second sign makes it lazy or possessive, or repeats it once more.
      const again = result !== undefined && (found[0] === "?" || found[0] === "+");
      if (!again) {
        const { least, most } = result ?? { least: 1, most: 1 };
        result = { least: least * one.least, most: most === 0 ? 0 : most * one.most };
      }
    }
    return result ?? { least: 1, most: 1 };
  }
}

function repetition([sign, low, comma, high]: RegExpExecArray): Repetition {
  if (sign === "*") return { least: 0, most: Number.POSITIVE_INFINITY };
  if (sign === "+") return { least: 1, most: Number.POSITIVE_INFINITY };
  if (sign === "?") return { least: 0, most: 1 };
  const least = Number(low || 0);
  return { least, most: comma === "" ? least : high === "" ? Number.POSITIVE_INFINITY : Math.max(least, Number(high)) };
}

function join(a: Cost, b: Cost): Cost {
  return { ways: a.ways * b.ways, degree: a.degree + b.degree, first: a.first };
}
