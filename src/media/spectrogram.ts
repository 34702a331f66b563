// Log-mel spectrograms as Whisper reads them: windows of the waveform, the power of their Fourier transform, in bands of mels.

/** The smallest prime factor of a number above 1. */
function factorOf(n: number): number {
  for (let p = 2; p * p <= n; p++) if (n % p === 0) return p;
  return n;
}

/** Fourier transforms of one size, by its prime factors (Cooley and Tukey 1965). */
class Fourier {
  readonly #size: number;
  readonly #cos: Float64Array;
  readonly #sin: Float64Array;

  constructor(size: number) {
    this.#size = size;
    this.#cos = Float64Array.from({ length: size }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.#sin = Float64Array.from({ length: size }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
  }

  /** Real and imaginary part of the transform of real numbers. */
  of(x: Float64Array): readonly [re: Float64Array, im: Float64Array] {
    const [re, im] = [new Float64Array(this.#size), new Float64Array(this.#size)];
    this.#run(x, 0, 1, this.#size, re, im, 0);
    return [re, im];
  }

  /** The transform of the `n` numbers from `at` on, `step` apart, into `re` and `im` from `to` on. */
  #run(x: Float64Array, at: number, step: number, n: number, re: Float64Array, im: Float64Array, to: number): void {
    if (n === 1) {
      re[to] = x[at]!;
      im[to] = 0;
      return;
    }
    const radix = factorOf(n);
    const part = n / radix;
    for (let r = 0; r < radix; r++) this.#run(x, at + r * step, step * radix, part, re, im, to + r * part);
    const turn = this.#size / n;
    const [real, imaginary] = [new Float64Array(n), new Float64Array(n)];
    for (let k = 0; k < n; k++) {
      for (let r = 0; r < radix; r++) {
        const angle = ((r * k) % n) * turn;
        const [c, s] = [this.#cos[angle]!, this.#sin[angle]!];
        const from = to + r * part + (k % part);
        real[k]! += re[from]! * c - im[from]! * s;
        imaginary[k]! += re[from]! * s + im[from]! * c;
      }
    }
    re.set(real, to);
    im.set(imaginary, to);
  }
}

/** Mels of a frequency, as Slaney's toolbox has them: linear up to 1000 Hz, logarithmic above. */
const STEP = Math.log(6.4) / 27;
const toMel = (hz: number): number => (hz < 1000 ? (3 * hz) / 200 : 15 + Math.log(hz / 1000) / STEP);
const toHz = (mel: number): number => (mel < 15 ? (200 * mel) / 3 : 1000 * Math.exp(STEP * (mel - 15)));

/** Triangles of equal area over the bins of a transform of `size` samples, [mels][bins]. */
export function melFilters(mels: number, size: number, rate: number, highest: number): Float32Array[] {
  const bins = 1 + size / 2;
  const top = toMel(highest);
  const corners = Array.from({ length: mels + 2 }, (_, i) => toHz((i * top) / (mels + 1)));
  return Array.from({ length: mels }, (_, m) => {
    const [low, middle, high] = corners.slice(m, m + 3) as [number, number, number];
    return Float32Array.from({ length: bins }, (_, b) => {
      const hz = (b * rate) / 2 / (bins - 1);
      const height = Math.min((hz - low) / (middle - low), (high - hz) / (high - middle));
      return Math.max(0, height) * (2 / (high - low));
    });
  });
}

export interface MelOptions {
  readonly mels: number;
  readonly n_fft: number;
  readonly hop_length: number;
  readonly sampling_rate: number;
}

/** Whisper's filters end there, whatever the rate. */
const HIGHEST_HZ = 8000;

/**
 * The spectrogram of samples, [mels, floor(samples / hop)] row by row: log10 of the power, no less than 8 below its maximum, from
 * there shifted and divided by 4. The waveform is mirrored at both ends.
 */
export class LogMel {
  readonly #options: MelOptions;
  readonly #filters: readonly Float32Array[];
  readonly #fourier: Fourier;
  readonly #window: Float64Array;

  constructor(options: MelOptions) {
    const { mels, n_fft, sampling_rate } = options;
    this.#options = options;
    this.#filters = melFilters(mels, n_fft, sampling_rate, HIGHEST_HZ);
    this.#fourier = new Fourier(n_fft);
    this.#window = Float64Array.from({ length: n_fft }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n_fft));
  }

  of(samples: Float32Array): Float32Array {
    const { n_fft, hop_length, mels } = this.#options;
    const frames = Math.floor(samples.length / hop_length);
    const bins = 1 + n_fft / 2;
    const out = new Float64Array(mels * frames);
    const window = new Float64Array(n_fft);
    const last = samples.length - 1;
    let most = Number.NEGATIVE_INFINITY;
    for (let f = 0; f < frames; f++) {
      for (let i = 0; i < n_fft; i++) {
        const at = Math.abs(f * hop_length + i - n_fft / 2);
        window[i] = samples[at > last ? 2 * last - at : at]! * this.#window[i]!;
      }
      const [re, im] = this.#fourier.of(window);
      for (const [m, filter] of this.#filters.entries()) {
        let power = 0;
        for (let b = 0; b < bins; b++) if (filter[b] !== 0) power += filter[b]! * (re[b]! ** 2 + im[b]! ** 2);
        const value = Math.log10(Math.max(power, 1e-10));
        out[m * frames + f] = value;
        if (value > most) most = value;
      }
    }
    return Float32Array.from(out, (value) => (Math.max(value, most - 8) + 4) / 4);
  }
}
