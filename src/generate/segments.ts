// The segments of a window of sound, by the times that Whisper wrote, and where the next window begins (Radford et al. 2022,
// section 3.8).

/** A part of a transcript between two times. */
export interface Segment {
  /** Seconds from the sound's beginning. */
  readonly start: number;
  readonly end: number;
  /** Its tokens, times included. */
  readonly tokens: readonly number[];
  /** The second at which each token ends, if asked for. */
  readonly token_timestamps?: readonly number[];
}

export interface WindowTimes {
  /** The token of time 0; Infinity if none of the tokens are times. */
  readonly begin: number;
  /** Seconds at which the window begins. */
  readonly offset: number;
  /** Frames of sound in it. */
  readonly frames: number;
  /** Frames of a step of the times. */
  readonly stride: number;
  /** Seconds of a step of the times, and of a frame. */
  readonly time_precision: number;
  readonly time_precision_features: number;
}

/**
 * Cuts a window's tokens where two times meet. What follows the last such place is dropped, because the sound was cut there; the next
 * window begins at its time. A single time at the end says that nothing was said after it, and the whole window is done.
 * @param times of each token, in seconds of the window
 * @returns `advance`: frames that are done
 */
export function segmentsOf(
  tokens: readonly number[],
  { begin, offset, frames, stride, time_precision, time_precision_features }: WindowTimes,
  times?: readonly number[],
): { readonly segments: Segment[]; readonly advance: number } {
  const isTime = tokens.map((id) => id >= begin);
  const part = (from: number, to: number, start: number, end: number): Segment => ({
    start: offset + start * time_precision,
    end: offset + end * time_precision,
    tokens: tokens.slice(from, to),
    ...(times && { token_timestamps: times.slice(from, to).map((time) => time + offset) }),
  });
  const cuts = [...tokens.keys()].filter((at) => isTime[at] && isTime[at - 1]);
  if (cuts.length === 0) {
    const last = tokens.findLast((_, at) => isTime[at]);
    const whole = Math.trunc((frames * time_precision_features) / time_precision);
    const end = last === undefined || last === begin ? whole : last - begin;
    return { segments: [part(0, tokens.length, 0, end)], advance: frames };
  }
  const single = isTime.length >= 2 && isTime.at(-1) === true && isTime.at(-2) === false;
  // Without a single time at the end, the last segment keeps the second of the two times that end it.
  if (single) cuts.push(tokens.length);
  else cuts[cuts.length - 1]!++;
  let from = 0;
  const segments = cuts.map((to, n) => {
    const last = n === cuts.length - 1 && !single ? to - 2 : to - 1;
    const made = part(from, to, tokens[from]! - begin, tokens[last]! - begin);
    from = to;
    return made;
  });
  return { segments, advance: single ? frames : (tokens[from - 2]! - begin) * stride };
}
