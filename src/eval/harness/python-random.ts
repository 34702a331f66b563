// Python's `random.Random`, seeded with a whole number, so that few-shot examples and resamples are those of lm-evaluation-harness:
// the Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), and sample() and choices() of CPython 3.

const N = 624;
const M = 397;
const MATRIX = 0x9908b0df;

export class PythonRandom {
  readonly #state = new Uint32Array(N);
  #next = N;

  /** @param seed a whole number of at least 0, below 2^32 */
  constructor(seed: number) {
    // init_by_array([seed]) of the reference implementation.
    const state = this.#state;
    state[0] = 19650218;
    for (let i = 1; i < N; i++) {
      const before = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = Math.imul(1812433253, before) + i;
    }
    let i = 1;
    for (let k = N; k > 0; k--) {
      const before = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = (state[i]! ^ Math.imul(before, 1664525)) + seed;
      if (++i === N) {
        state[0] = state[N - 1]!;
        i = 1;
      }
    }
    for (let k = N - 1; k > 0; k--) {
      const before = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = (state[i]! ^ Math.imul(before, 1566083941)) - i;
      if (++i === N) {
        state[0] = state[N - 1]!;
        i = 1;
      }
    }
    state[0] = 0x80000000;
  }

  /** 32 random bits. */
  bits(): number {
    const state = this.#state;
    if (this.#next === N) {
      for (let i = 0; i < N; i++) {
        const y = (state[i]! & 0x80000000) | (state[(i + 1) % N]! & 0x7fffffff);
        state[i] = state[(i + M) % N]! ^ (y >>> 1) ^ (y & 1 ? MATRIX : 0);
      }
      this.#next = 0;
    }
    let y = state[this.#next++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  }

  /** A number from 0 to below 1, of 53 bits. */
  random(): number {
    const high = this.bits() >>> 5;
    return (high * 67108864 + (this.bits() >>> 6)) / 9007199254740992;
  }

  /** A whole number from 0 to below n, for n up to 2^32. */
  below(n: number): number {
    const bits = 32 - Math.clz32(n);
    for (;;) {
      const value = this.bits() >>> (32 - bits);
      if (value < n) return value;
    }
  }

  /** k different entries, in random order. */
  sample<T>(list: readonly T[], k: number): T[] {
    const n = list.length;
    const set = 21 + (k > 5 ? 4 ** Math.ceil(Math.log(k * 3) / Math.log(4)) : 0);
    if (n <= set) {
      const pool = [...list];
      return Array.from({ length: k }, (_, i) => {
        const at = this.below(n - i);
        const chosen = pool[at]!;
        pool[at] = pool[n - i - 1]!;
        return chosen;
      });
    }
    const taken = new Set<number>();
    return Array.from({ length: k }, () => {
      let at = this.below(n);
      while (taken.has(at)) at = this.below(n);
      taken.add(at);
      return list[at]!;
    });
  }

  /** As many entries as the list has, each any of them. */
  resample<T>(list: readonly T[]): T[] {
    return list.map(() => list[Math.floor(this.random() * list.length)]!);
  }
}
