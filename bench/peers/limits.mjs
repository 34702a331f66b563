// What the machine can do at all. Measured by the roofline bench of this repository; without it, nothing is said.

/** @param {number} threads @param {(text: string) => void} say */
export async function machineLimits(threads, say) {
  void threads;
  say("machine limits are not measured yet");
  return undefined;
}
