// Processors of images and sound against PIL and transformers (test/fixtures/make_processors.py).

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FormatError, NotFoundError, OctavoError, OptionError, ShapeError } from "../../src/core/errors.js";
import { AutoFeatureExtractor, AutoImageProcessor, AutoProcessor } from "../../src/generate/auto.js";
import { FeatureExtractor } from "../../src/media/feature-extractor.js";
import { toRGB } from "../../src/media/image.js";
import { ImageProcessor } from "../../src/media/image-processor.js";
import { NODE_MEDIA } from "../../src/media/node.js";
import { FILTERS, type Filter, resize } from "../../src/media/resize.js";
import { melFilters } from "../../src/media/spectrogram.js";
import { readWav } from "../../src/media/wav.js";
import { difference, FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";

const folder = (name = ""): string => join(FIXTURES, "processors", name);
const arrays = readArrays("processors", "expected.safetensors");
const golden = (key: string): Golden => arrays.get(key)!;
const file = (name: string): Uint8Array => new Uint8Array(readFileSync(folder(name)));
const decoded = async (name: string) => toRGB(await NODE_MEDIA.image(file(name)));

describe("images", () => {
  const sizes = [...arrays.keys()].flatMap((key) => {
    const match = /^resize\.(\w+)\.(\d+)x(\d+)$/.exec(key);
    return match ? [[match[1] as Filter, Number(match[2]), Number(match[3])] as const] : [];
  });

  test.each(sizes)("%s to %i x %i is PIL's, byte for byte", async (filter, height, width) => {
    const { data } = resize(await decoded("rgb.png"), height, width, filter);
    expect(difference(data, golden(`resize.${filter}.${height}x${width}`).values).max).toBe(0);
  });

  test("a tie of two pixels is the one that PIL takes", () => {
    const two = { width: 2, height: 1, data: Uint8Array.of(0, 0, 0, 1, 1, 1) };
    // Image.resize((7, 1), Image.NEAREST) of Pillow 12.3: the middle one comes from the first.
    const { data } = resize(two, 1, 7, "nearest");
    expect([...data].filter((_, i) => i % 3 === 0)).toEqual([0, 0, 0, 0, 1, 1, 1]);
  });

  test("every filter is looked at", () => {
    expect(new Set(sizes.map(([filter]) => filter))).toEqual(new Set(Object.keys(FILTERS)));
  });

  test.each(readJson<{ processor: string; file: string }[]>("processors", "cases.json"))(
    "$processor of $file",
    async ({ processor: name, file: image }) => {
      const processor = await AutoImageProcessor.from_pretrained(folder(name));
      const { pixel_values } = await processor(folder(image));
      const { values, shape } = golden(`${name}.${image}`);
      expect(pixel_values.shape).toEqual(shape);
      // The bytes are the same, so what is left is the last bit of a division in f32.
      expect(difference(pixel_values.data, values).max).toBeLessThan(1e-6);
    },
  );

  test("a batch, bytes, an address and pixels are the same image", async () => {
    const processor = await AutoImageProcessor.from_pretrained(folder("clip"));
    const one = await processor(folder("rgb.png"));
    const image = await NODE_MEDIA.image(file("rgb.png"));
    const address = new URL(`file://${folder("rgb.png")}`);
    const blob = new Blob([file("rgb.png") as Uint8Array<ArrayBuffer>]);
    const all = await processor([folder("rgb.png"), file("rgb.png"), image, address, blob]);
    expect(all.pixel_values.shape).toEqual([5, 3, 24, 24]);
    for (let b = 0; b < 5; b++) {
      expect(all.pixel_values.data.subarray(b * 1728, (b + 1) * 1728)).toEqual(one.pixel_values.data);
    }
  });

  test("JPEG", async () => {
    const { data } = await decoded("smooth.jpg");
    // Decoders round the cosine transform and the colours in their own ways, which the standard allows.
    expect(difference(data, golden("jpeg.smooth").values).max).toBeLessThanOrEqual(3);
  });

  test("what is refused", async () => {
    const processor = await AutoImageProcessor.from_pretrained(folder("vit"));
    await expect(processor(folder("none.png"))).rejects.toThrow(NotFoundError);
    await expect(processor(new Uint8Array(9))).rejects.toThrow(/must be a file of one of these kinds: PNG, JPEG, WebP/);
    await expect(processor(file("rgb.png").subarray(0, 500))).rejects.toThrow(FormatError);
    await expect(processor(file("smooth.jpg").subarray(0, 300))).rejects.toThrow(FormatError);
    await expect(processor([])).rejects.toThrow(ShapeError);
    await expect(processor({ width: 2, height: 2, data: new Uint8Array(5) })).rejects.toThrow(/has 5 bytes/);
    for (const odd of [null, 3, {}, [undefined], new Proxy({}, { get: () => ({}) })]) {
      await expect(processor(odd as never)).rejects.toThrow(OctavoError);
    }
    await expect(processor(folder("rgb.png"), { do_resiz: true } as never)).rejects.toThrow(OptionError);
    const { config } = processor;
    const make = (fields: object): ImageProcessor => new ImageProcessor({ ...config, ...fields }, "vit", NODE_MEDIA);
    expect(() => make({ image_processor_type: "SamImageProcessor" })).toThrow(/"SamImageProcessor" is not supported/);
    expect(() => make({ do_pad: true })).toThrow(/do_pad/);
    expect(() => make({ do_thumbnail: true })).toThrow(/"ViTImageProcessor" cannot do what do_thumbnail asks for/);
    expect(make({ do_pad: false, do_thumbnail: null })).toBeDefined();
    for (const size of [{ longest_edge: 30 }, { min_pixels: 4, max_pixels: 9 }, { height: 4 }, [4, 4, 4], 0]) {
      expect(() => make({ size })).toThrow(/preprocessor_config.json: size: .*\(got /);
    }
    expect(make({ image_processor_type: undefined, feature_extractor_type: "ViTFeatureExtractor" })).toBeDefined();
    const plain = await AutoImageProcessor.from_pretrained(folder("plain"));
    await expect(plain([folder("rgb.png"), folder("rgba.png")])).rejects.toThrow(/different sizes/);
  });
});

describe("sound", () => {
  const other = golden("sound.other").values as Float32Array;

  test("Whisper's spectrograms", async () => {
    const extractor = await AutoFeatureExtractor.from_pretrained(folder("whisper"));
    const { input_features } = await extractor([folder("tone.wav"), other], { sampling_rate: 16000 });
    const { values, shape } = golden("whisper.input_features");
    expect(input_features!.shape).toEqual(shape);
    // transformers computes in f32 what is in f64 here; 1e-4 is asked for.
    expect(difference(input_features!.data, values).max).toBeLessThan(1e-4);
    const masked = await extractor(other, { return_attention_mask: true });
    expect(masked.attention_mask![0]!.reduce((sum, one) => sum + one, 0)).toBe(30);
  });

  test("the mel filters of the published models", () => {
    const filters = melFilters(80, 400, 16000, 8000).filter((_, m) => m % 4 === 0);
    const { values } = golden("whisper80.mel_filters");
    expect(difference(Float32Array.from(filters.flatMap((row) => [...row])), values).max).toBeLessThan(1e-8);
  });

  test("wav2vec 2.0's waveforms", async () => {
    const extractor = await AutoFeatureExtractor.from_pretrained(folder("wav2vec2"));
    const { input_values, attention_mask } = await extractor([file("tone.wav"), [...other]]);
    expect(input_values!.shape).toEqual(golden("wav2vec2.input_values").shape);
    // Sums in f64 here, in f32 there.
    expect(difference(input_values!.data, golden("wav2vec2.input_values").values).max).toBeLessThan(1e-5);
    expect(attention_mask!.flat()).toEqual([...golden("wav2vec2.attention_mask").values]);
  });

  test("WAV files in all formats", () => {
    const want = [0.5, -0.25, 0, -1];
    const make = (
      kind: number,
      bits: number,
      write: (view: DataView, at: number, value: number) => void,
    ): Uint8Array => {
      const width = bits / 8;
      const bytes = new Uint8Array(46 + 2 * want.length * width);
      const view = new DataView(bytes.buffer);
      bytes.set(Buffer.from("RIFF    WAVEfmt "));
      view.setUint32(16, 18, true);
      view.setUint16(20, kind, true);
      view.setUint16(22, 2, true); // two channels, whose mean is wanted
      view.setUint32(24, 8000, true);
      view.setUint16(34, bits, true);
      bytes.set(Buffer.from("data"), 38);
      view.setUint32(42, 2 ** 32 - 1, true); // as a stream leaves it
      want.forEach((value, t) => {
        const channels = value === -1 ? [-1, -1] : [value + 0.25, value - 0.25];
        channels.forEach((one, c) => {
          write(view, 46 + (2 * t + c) * width, one);
        });
      });
      return bytes;
    };
    const forms: Record<string, Uint8Array> = {
      u8: make(1, 8, (view, at, value) => view.setUint8(at, Math.min(255, value * 128 + 128))),
      i16: make(1, 16, (view, at, value) => view.setInt16(at, value * 32768, true)),
      i24: make(1, 24, (view, at, value) => {
        view.setInt8(at + 2, (value * 8388608) >> 16);
      }),
      i32: make(1, 32, (view, at, value) => view.setInt32(at, value * 2 ** 31, true)),
      f32: make(3, 32, (view, at, value) => view.setFloat32(at, value, true)),
      f64: make(3, 64, (view, at, value) => view.setFloat64(at, value, true)),
    };
    for (const [name, bytes] of Object.entries(forms)) {
      const { samples, sampling_rate } = readWav(bytes);
      expect([...samples], name).toEqual(want);
      expect(sampling_rate).toBe(8000);
    }
    expect(() => readWav(make(1, 4, () => {}))).toThrow(/format 1 with 4 bits/);
    expect(() => readWav(make(85, 16, () => {}))).toThrow(FormatError);
    for (const cut of [0, 11, 12, 20, 40])
      expect(() => readWav(forms.i16!.subarray(0, cut)), String(cut)).toThrow(FormatError);
  });

  test("what is refused", async () => {
    const extractor = await AutoFeatureExtractor.from_pretrained(folder("wav2vec2"));
    await expect(extractor({ samples: other, sampling_rate: 0 })).rejects.toThrow(
      /sampling_rate must be a whole number/,
    );
    await expect(extractor({ samples: [other, other, other] as never, sampling_rate: 16000 })).rejects.toThrow(
      /two channels/,
    );
    await expect(extractor({ samples: [other, [1]], sampling_rate: 16000 })).rejects.toThrow(/the same length/);
    await expect(extractor(other, { sampling_rate: 8000 })).rejects.toThrow(OptionError);
    await expect(extractor(file("rgb.png"))).rejects.toThrow(/must be a WAV file/);
    await expect(extractor([])).rejects.toThrow(ShapeError);
    for (const odd of [null, 3, {}, [undefined], [["a"]], new Float32Array(0)]) {
      await expect(extractor(odd as never)).rejects.toThrow(OctavoError);
    }
    const { config } = extractor;
    expect(() => new FeatureExtractor({ ...config, padding_side: "left" }, "wav2vec2", NODE_MEDIA)).toThrow(
      /padding_side/,
    );
    expect(() => new FeatureExtractor({ feature_extractor_type: "ClapFeatureExtractor" }, "", NODE_MEDIA)).toThrow(
      /"ClapFeatureExtractor" is not supported/,
    );
  });

  test("AutoProcessor chooses by the files", async () => {
    const hears = await AutoProcessor.from_pretrained(folder("whisper"));
    expect((await hears.process({ audio: other })).input_features!.shape).toEqual([1, 20, 100]);
    await expect(hears.process({ images: folder("rgb.png") })).rejects.toThrow(/no processor for images/);
    expect(() => hears.decode([1])).toThrow(/no processor for text/);
    const sees = await AutoProcessor.from_pretrained(folder("clip"));
    expect((await sees.process({ images: folder("rgb.png") })).pixel_values!.shape).toEqual([1, 3, 24, 24]);
  });
});

describe("waveforms of several lengths, as in transformers", () => {
  const extractor = (more: object) =>
    new FeatureExtractor({ feature_extractor_type: "Wav2Vec2FeatureExtractor", ...more }, undefined, NODE_MEDIA);
  const rows = [Float32Array.of(1, 2, 3, 4, 5), Float32Array.of(2, 4)];

  // Wav2Vec2FeatureExtractor(...)(rows, sampling_rate=16000, **options) of transformers 5.18.
  test.each([
    [
      "without a mask the padding is sound",
      { return_attention_mask: false },
      {},
      [-Math.SQRT2, -Math.SQRT1_2, 0, Math.SQRT1_2, Math.SQRT2, 0.5, 1.75, -0.75, -0.75, -0.75],
    ],
    [
      "with one it is not",
      { return_attention_mask: true, padding_value: 9 },
      { pad_to_multiple_of: 3 },
      [-Math.SQRT2, -Math.SQRT1_2, 0, Math.SQRT1_2, Math.SQRT2, 9, -1, 1, 9, 9, 9, 9],
    ],
    ["what is cut off counts for nothing", {}, { truncation: true, max_length: 2 }, [-1, 1, -1, 1]],
    [
      "a length that is too short cuts nothing by itself",
      { do_normalize: false },
      { padding: "max_length", max_length: 3 },
      [1, 2, 3, 4, 5, 2, 4, 0, 0, 0],
    ],
  ] as const)("%s", async (_, config, options, want) => {
    const { input_values } = await extractor(config)(rows, options);
    expect(input_values!.shape).toEqual([2, want.length / 2]);
    expect(difference(input_values!.data, want).max).toBeLessThan(1e-4);
  });

  test("unpadded, if they have one length", async () => {
    const { input_values } = await extractor({ do_normalize: false })([rows[1]!, rows[1]!], { padding: false });
    expect([...input_values!.data]).toEqual([2, 4, 2, 4]);
    await expect(extractor({})(rows, { padding: false })).rejects.toThrow(ShapeError);
    await expect(extractor({})(rows, { truncation: true })).rejects.toThrow(/needs max_length/);
  });
});
