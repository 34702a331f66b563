// The sound of test/fixtures/make_speech.py and make_pipelines.py.

/** Two tones, of which one rises and one beats: samples at a rate. */
export function sound(samples: number, rate: number, pitch = 220): Float32Array {
  return Float32Array.from({ length: samples }, (_, n) => {
    const t = n / rate;
    const low = 0.4 * Math.sin(2 * Math.PI * pitch * t * (1 + 0.3 * t));
    return low + 0.2 * Math.sin(2 * Math.PI * 523 * t) * Math.cos(9 * t);
  });
}
