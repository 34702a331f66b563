// Files and decoders in a browser: its own.

import { FormatError, OptionError } from "../core/errors.js";
import { fetched } from "../media/fetched.js";
import type { MediaReader } from "../media/reader.js";
import { WEB } from "./web.js";

export const BROWSER_MEDIA: MediaReader = {
  bytes: (where) => fetched(where, { page: true }),
  async image(bytes) {
    const { createImageBitmap, OffscreenCanvas } = WEB;
    if (!createImageBitmap || !OffscreenCanvas) {
      throw new OptionError("there is no decoder of images here", { hint: "pass { width, height, data }" });
    }
    try {
      // Turned by the camera's note (Chromium does so with "none", too), neither multiplied by alpha nor moved to another colour space.
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]), {
        imageOrientation: "from-image",
        premultiplyAlpha: "none",
        colorSpaceConversion: "none",
      });
      const { width, height } = bitmap;
      const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
      context.drawImage(bitmap, 0, 0);
      bitmap.close();
      return { width, height, data: context.getImageData(0, 0, width, height).data, channels: 4 };
    } catch (cause) {
      throw new FormatError("an image cannot be decoded", { cause });
    }
  },
};
