// Files of all kinds as PIL decodes them, and processors under random configs, by every decoder of Node (test/fixtures/make_images.py).

import { describe, expect, test } from "vitest";
import { toRGB } from "../../src/media/image.js";
import { ImageProcessor } from "../../src/media/image-processor.js";
import { nodeMedia } from "../../src/media/node.js";
import { difference, readArrays, readJson } from "../support/fixtures.js";

const { files, cases } = readJson<{
  files: string[];
  cases: { config: Record<string, unknown>; file: number }[];
}>("processors", "images.json");
const arrays = readArrays("processors", "images.safetensors");
const bytes = (i: number): Uint8Array => arrays.get(`${i}.file`)!.values as Uint8Array;

/** Whether sharp is there is asked once; its name is not a literal, since types need it nowhere. */
const sharp = await import(String("sharp")).then(
  () => true,
  () => false,
);
if (!sharp) console.warn("\n*** sharp as a decoder of images is SKIPPED: it is not installed (npm install) ***\n");
const decoders = [
  { name: "pngjs and jpeg-js", reader: nodeMedia(true), exact: false },
  { name: "sharp", reader: nodeMedia(false), exact: true },
];

for (const { name, reader, exact } of decoders) {
  describe.skipIf(exact && !sharp)(name, () => {
    /**
     * How many levels of a byte a file may be away from libjpeg's: jpeg-js rounds the cosine transform to 0.5 of a level in luma and in
     * each colour, and colours count up to 1.772 times.
     */
    const levels = (i: number): number => (exact || files[i]!.startsWith("png") ? 0 : 4);

    test.each(files.map((kind, i) => [kind, i] as const))("%s (file %i) has PIL's pixels", async (_, i) => {
      const { values, shape } = arrays.get(`${i}.rgb`)!;
      const image = toRGB(await reader.image(bytes(i)));
      expect([image.height, image.width, 3]).toEqual(shape);
      const { max, mean } = difference(image.data, values);
      expect(max).toBeLessThanOrEqual(levels(i));
      // What four inks have lost before they are seen is half a level.
      expect(mean).toBeLessThanOrEqual(levels(i) === 0 ? 0 : 0.6);
    });

    test.each(cases.map(({ config, file }, n) => ({ config, file, n })))(
      "random config $n",
      async ({ config, file, n }) => {
        const { values, shape } = arrays.get(`case.${n}`)!;
        const { pixel_values } = await new ImageProcessor(config, undefined, reader).run(bytes(file));
        expect(pixel_values.shape).toEqual(shape);
        const {
          rescale_factor = 1 / 255,
          do_rescale,
          do_normalize,
          image_std = 0.26,
        } = config as Record<string, number>;
        const scale = do_rescale === undefined || do_rescale ? rescale_factor! : 1;
        const level = scale / (do_normalize === undefined || do_normalize ? Math.min(...[image_std].flat()) : 1);
        // The last bits of a division in f32 beside what the file's own pixels differ by.
        const rounding = 1e-6 * Math.max(1, ...values.map(Math.abs));
        expect(difference(pixel_values.data, values).max).toBeLessThanOrEqual(levels(file) * level + rounding);
      },
    );
  });
}

test("a file that breaks off, and one whose palette does not fit its sum, are refused", async () => {
  const palette = files.findIndex((kind) => kind.startsWith("png 3"));
  const broken = new Uint8Array(bytes(palette));
  const at = Buffer.from(broken).indexOf("PLTE") + 4;
  broken[at] = broken[at]! ^ 255;
  for (const file of [broken, bytes(palette).subarray(0, 60)]) {
    await expect(nodeMedia(true).image(file)).rejects.toThrow(/PNG file cannot be decoded/);
  }
});
