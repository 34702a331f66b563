// torch.randperm and torch.randint as a CPU generator of torch gives them, so that what a seed chooses here is what it chooses in Python.

/** The 32 bits of a seed that torch's generator takes. */
const seedOf = (seed: bigint): number => Number(BigInt.asIntN(32, seed));

/** Words of the generator's state, and the distance of the word that a new one is mixed with. */
const WORDS = 624;
const APART = 397;

/** MT19937 (Matsumoto and Nishimura 1998, "Mersenne Twister"), seeded by 32 bits. */
class MersenneTwister {
  readonly #state = new Int32Array(WORDS);
  #at = WORDS;

  constructor(seed: number) {
    const state = this.#state;
    state[0] = seed;
    for (let i = 1; i < WORDS; i++) {
      const before = state[i - 1]!;
      state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
  }

  /** The next 32 bits, as a number of at least 0. */
  next(): number {
    if (this.#at === WORDS) this.#twist();
    let word = this.#state[this.#at++]!;
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  /** A number from `first` to `end` - 1. The remainder of words above 2^31 is faster so than by `%`. */
  from(first: number, end: number): number {
    const [word, count] = [this.next(), end - first];
    return first + word - Math.floor(word / count) * count;
  }

  #twist(): void {
    const state = this.#state;
    for (let i = 0; i < WORDS; i++) {
      const after = i + 1 < WORDS ? i + 1 : 0;
      const apart = i < WORDS - APART ? i + APART : i + APART - WORDS;
      const mixed = (state[i]! & 0x80000000) | (state[after]! & 0x7fffffff);
      state[i] = state[apart]! ^ (mixed >>> 1) ^ (-(mixed & 1) & 0x9908b0df);
    }
    this.#at = 0;
  }
}

/**
 * The first `count` numbers of torch.randperm(size) after manual_seed(seed) on a CPU, of which torch's generator takes the low 32
 * bits: Fisher and Yates' shuffle from the front, so that later numbers need not be drawn.
 * @param size below 2^32 / 20, up to where torch draws 32 bits for each number
 */
export function randperm(size: number, seed: bigint, count: number = size): Int32Array {
  const random = new MersenneTwister(seedOf(seed));
  const numbers = new Int32Array(size);
  for (let i = 0; i < size; i++) numbers[i] = i;
  for (let i = 0; i < Math.min(count, size - 1); i++) {
    const other = random.from(i, size);
    const own = numbers[i]!;
    numbers[i] = numbers[other]!;
    numbers[other] = own;
  }
  return numbers.subarray(0, count);
}

/** True if the first `count` numbers of a permutation have one, which alone is followed through the shuffle. */
export function isAmong(size: number, seed: bigint, count: number, number: number): boolean {
  const random = new MersenneTwister(seedOf(seed));
  let at = number;
  for (let i = 0; i < Math.min(count, size - 1); i++) {
    const other = random.from(i, size);
    if (other === at) return true; // it moves to place i, which no later step changes
    if (i === at) at = other;
  }
  return at < count;
}

/** torch.randint(0, 2, (size,)) after manual_seed(seed) on a CPU. */
export function randomBits(size: number, seed: bigint): Uint8Array {
  const random = new MersenneTwister(seedOf(seed));
  return Uint8Array.from({ length: size }, () => random.next() % 2);
}
