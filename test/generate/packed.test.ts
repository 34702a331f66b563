// Several texts in one row: the logits of each are those it has alone, whatever stands before it. Where positions are
// learned, rotary or distances (ALiBi), in f32 and in 8 bits.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError, ShapeError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { DataCollatorWithFlattening } from "../../src/generate/flattening.js";
import type { ForwardOptions, PreTrainedModel } from "../../src/generate/model.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference, FIXTURES } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";

const LENGTHS = [5, 1, 23, 9];
const TOTAL = LENGTHS.reduce((sum, n) => sum + n, 0);
const TEXTS = LENGTHS.map((n, text) => Array.from({ length: n }, (_, t) => (text * 37 + t * 11) % 150));
const ENDS = [0, ...LENGTHS.map((_, n) => LENGTHS.slice(0, n + 1).reduce((sum, length) => sum + length, 0))];
const POSITIONS = LENGTHS.flatMap((n) => Array.from({ length: n }, (_, t) => t));
const ROW = [TEXTS.flat()];

/** Blocks of keys begin elsewhere in a packed row, so sums differ in their last digits; in 8 bits such a digit can move a
 * code of an activation by one step, which is 1/127 of its row's largest number. */
const TOLERANCE = { f32: 2e-5, int8: 2e-2 };

describe.each(ALL_DEVICES)("packed rows on %s", (deviceName) => {
  let device: Device;
  onDevice(deviceName, (opened) => (device = opened));

  const logitsOf = async (model: PreTrainedModel, inputs: ForwardOptions): Promise<Float32Array> => {
    const { logits } = model.forward(inputs);
    try {
      return await logits.readFloats();
    } finally {
      logits.dispose();
    }
  };

  describe.each(["llama", "bloom", "gpt2", "opt"])("%s", (name) => {
    test.each(["f32", "int8"] as const)("each text is as alone, in %s", async (storage) => {
      const folder = join(FIXTURES, "models", name);
      const model = await AutoModelForCausalLM.from_pretrained(folder, { device, load_in_8bit: storage === "int8" });
      try {
        const alone: number[] = [];
        for (const text of TEXTS) alone.push(...(await logitsOf(model, { input_ids: [text] })));
        const ends = { cu_seq_lens_q: Int32Array.from(ENDS), cu_seq_lens_k: ENDS };
        const ways: Record<string, ForwardOptions> = {
          position_ids: { input_ids: ROW, position_ids: [POSITIONS] },
          cu_seq_lens_q: { input_ids: ROW, ...ends, max_length_q: 23, max_length_k: 23 },
          both: { input_ids: ROW, position_ids: [POSITIONS], ...ends },
          "two rows": { input_ids: [...ROW, ...ROW], position_ids: [POSITIONS, POSITIONS] },
        };
        for (const [way, inputs] of Object.entries(ways)) {
          const packed = await logitsOf(model, inputs);
          const want = way === "two rows" ? [...alone, ...alone] : alone;
          expect(difference(packed, want).max, way).toBeLessThan(TOLERANCE[storage]);
        }
        // Without cuts the later texts see the first.
        const whole = await logitsOf(model, { input_ids: ROW });
        expect(difference(whole, alone).max).toBeGreaterThan(0.05);
      } finally {
        model.dispose();
      }
    });
  });

  test("texts longer than the pieces that a forward pass is run in", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
    try {
      const texts = [300, 280, 40].map((n, text) => Array.from({ length: n }, (_, t) => (text * 37 + t * 11) % 150));
      const alone: Float32Array[] = [];
      for (const text of texts) alone.push(await logitsOf(model, { input_ids: [text] }));
      const packed = await logitsOf(model, { input_ids: [texts.flat()], cu_seq_lens_q: [0, 300, 580, 620] });
      let at = 0;
      for (const want of alone) {
        expect(difference(packed.subarray(at, at + want.length), want).max).toBeLessThan(TOLERANCE.f32);
        at += want.length;
      }
      expect(at).toBe(packed.length);
    } finally {
      model.dispose();
    }
  });

  test("learned positions limit each text, not the row", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "gpt2"), { device });
    try {
      const { max_positions, vocab } = model.module.geometry;
      const half = Math.ceil(max_positions * 0.75);
      const input_ids = [Array.from({ length: 2 * half }, (_, t) => (t * 7) % vocab)];
      expect(() => model.forward({ input_ids })).toThrow(OptionError);
      const { logits } = model.forward({ input_ids, cu_seq_lens_q: [0, half, 2 * half] });
      expect(logits.shape).toEqual([1, 2 * half, vocab]);
      await logits.readFloats();
      logits.dispose();
    } finally {
      model.dispose();
    }
  });

  test("what does not fit is refused", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "gpt2"), { device });
    const refuse = (
      inputs: Partial<ForwardOptions>,
      kind: typeof ShapeError | typeof OptionError,
      says: RegExp,
    ): void => {
      const run = (): unknown => model.forward({ input_ids: ROW, ...inputs });
      expect(run).toThrow(kind);
      expect(run).toThrow(says);
    };
    try {
      refuse({ cu_seq_lens_q: [0, 5, TOTAL - 1] }, ShapeError, /ends at 37, but input_ids hold 38/);
      refuse({ cu_seq_lens_q: [0, 5, TOTAL + 1] }, ShapeError, /ends at 39/);
      refuse({ cu_seq_lens_q: [0, 9, 5, TOTAL] }, ShapeError, /must increase/);
      refuse({ cu_seq_lens_q: [0, 9, 9, TOTAL] }, ShapeError, /must increase/);
      refuse({ cu_seq_lens_q: [0, 4.5, TOTAL] }, ShapeError, /must increase/);
      refuse({ cu_seq_lens_q: [5, TOTAL] }, ShapeError, /must begin with 0/);
      refuse({ cu_seq_lens_q: [0] }, ShapeError, /must begin with 0 and hold an end/);
      refuse({ cu_seq_lens_q: [] }, ShapeError, /must begin with 0/);
      refuse({ cu_seq_lens_q: null as never }, ShapeError, /must be whole numbers/);
      refuse({ cu_seq_lens_q: 38 as never }, ShapeError, /must be whole numbers/);
      refuse({ cu_seq_lens_q: ENDS, cu_seq_lens_k: [0, TOTAL] }, OptionError, /cu_seq_lens_k must equal/);
      refuse({ cu_seq_lens_k: ENDS }, OptionError, /without cu_seq_lens_q/);
      refuse({ max_length_q: 23 }, OptionError, /without cu_seq_lens_q/);
      refuse({ cu_seq_lens_q: ENDS, max_length_q: 22 }, OptionError, /at least 23/);
      refuse(
        { cu_seq_lens_q: ENDS, attention_mask: [[0, ...Array(TOTAL - 1).fill(1)]] },
        ShapeError,
        /without padding/,
      );
      refuse({ input_ids: [...ROW, ...ROW], cu_seq_lens_q: ENDS }, ShapeError, /one row without padding, got 2 rows/);
      refuse({ position_ids: [POSITIONS.slice(1)] }, ShapeError, /shape of input_ids, \[1, 38\]/);
      refuse({ position_ids: [POSITIONS.map((p) => p - 1)] }, OptionError, /position_ids\[0\]\[0\] is -1/);
      refuse({ position_ids: [POSITIONS.map((p) => p + 1e6)] }, OptionError, /this model has positions 0 to/);
    } finally {
      model.dispose();
    }
  });
});

describe("DataCollatorWithFlattening", () => {
  const texts = TEXTS.map((input_ids) => ({ input_ids }));

  test("gives what forward takes", async () => {
    const collate = new DataCollatorWithFlattening({ return_flash_attn_kwargs: true, return_seq_idx: true });
    const { labels, seq_idx, ...inputs } = collate(texts);
    expect(inputs).toEqual({
      input_ids: ROW,
      position_ids: [POSITIONS],
      cu_seq_lens_q: ENDS,
      cu_seq_lens_k: ENDS,
      max_length_q: 23,
      max_length_k: 23,
    });
    expect(seq_idx).toEqual([LENGTHS.flatMap((n, text) => new Array<number>(n).fill(text))]);
    expect(labels).toEqual([TEXTS.flatMap(([, ...rest]) => [-100, ...rest])]);
    await using model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "gpt2"), {
      device: "reference",
    });
    for (const batch of [inputs, { input_ids: ROW, position_ids: inputs.position_ids }]) {
      const whole = model.forward(batch);
      const alone = model.forward({ input_ids: [TEXTS[3]!] });
      const want = await alone.logits.readFloats();
      const got = (await whole.logits.readFloats()).slice(-want.length);
      expect(difference(got, want).max).toBeLessThan(TOLERANCE.f32);
      for (const { logits } of [whole, alone]) logits.dispose();
    }
  });

  test("takes labels, typed arrays and another separator", () => {
    const collate = new DataCollatorWithFlattening({ separator_id: -1, return_position_ids: false });
    const features = [
      { input_ids: Int32Array.of(1, 2, 3), labels: [7, -100, 9] },
      { input_ids: [4], labels: [8] },
    ];
    expect(collate(features)).toEqual({ input_ids: [[1, 2, 3, 4]], labels: [[-1, -100, 9, -1]] });
    const later = new DataCollatorWithFlattening({ position_ids_start: 2 });
    expect(later([{ input_ids: [5, 6] }, { input_ids: [7] }]).position_ids).toEqual([[2, 3, 2]]);
  });

  test.each<[string, unknown, RegExp]>([
    ["nothing", [], /takes a list of texts/],
    ["a text", "abc", /takes a list of texts/],
    ["ids alone", [[1, 2]], /text 0: options must be an object/],
    ["no ids", [{ labels: [1] }], /input_ids of text 0 are undefined/],
    ["half a token", [{ input_ids: [1.5] }], /input_ids of text 0 are/],
    ["other labels", [{ input_ids: [1, 2], labels: [1] }], /has 2 input_ids, and labels/],
    ["labels of some", [{ input_ids: [1], labels: [1] }, { input_ids: [1] }], /1 of 2 texts have labels/],
  ])("refuses %s", (_, features, words) => {
    const collate = new DataCollatorWithFlattening();
    expect(() => collate(features as never)).toThrow(OptionError);
    expect(() => collate(features as never)).toThrow(words);
  });
});
