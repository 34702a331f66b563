// Node as a platform: folders, the local Hugging Face cache, addresses, and the model that comes with the package.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { threadsToShare } from "../backends/native/index.js";
import { FOLDERS } from "../checkpoints/folder-write.js";
import { OptionError } from "../core/errors.js";
import { openModel } from "../hub/open.js";
import { pushWritten } from "../hub/push.js";
import { NODE_MEDIA } from "../media/node.js";
import { modelAddress, quoteAddress, tokenForServer } from "../sources/address.js";
import { Disk } from "../sources/disk.js";
import { quote } from "../sources/files.js";
import { HttpSource } from "../sources/http.js";
import { localModel } from "../sources/hub.js";
import { STORYTELLER, subfolderParts } from "../sources/model-id.js";
import type { Source } from "../sources/source.js";
import { chooseDevice, requestDevice, sharedDevice } from "./device.js";
import { offloadFolder } from "./offload.js";
import type { Platform, SourceOptions } from "./platform.js";
import { storytellerFile } from "./storyteller.js";
import { Parallel } from "./tensor-parallel.js";

/**
 * "octavo/storyteller", a folder that exists, an http address, or an id. Of an address, and of an id on the hub at `options.hub`, nothing
 * is kept; other ids come through the Hugging Face cache.
 */
async function source(model: string, options: SourceOptions): Promise<Source> {
  const { hub, revision, token, timeout, signal, warn, subfolder, force_download } = options;
  if (typeof model === "string" && (hub !== undefined || /^https?:\/\//i.test(model))) {
    if (options.local_files_only) {
      throw new OptionError(`${quoteAddress(model)} is on a server, but local_files_only is set`);
    }
    const address = modelAddress(model, hub, revision, subfolder);
    return new HttpSource(address, { token: tokenForServer(token), timeout, signal, warn });
  }
  if (model === STORYTELLER && !existsSync(STORYTELLER))
    return new Disk(join(storytellerFile("storyteller"), ...subfolderParts(subfolder ?? "")));
  const { folder, id } = await localModel(model);
  if (id !== undefined) return openModel(id, options);
  if (force_download)
    throw new OptionError(`force_download is for models of the hub, and ${quote(folder)} is a folder`);
  return new Disk(join(folder, ...subfolderParts(subfolder ?? "")));
}

export const NODE: Platform = {
  source,
  folders: FOLDERS,
  push: pushWritten,
  offload: offloadFolder,
  media: NODE_MEDIA,
  requestDevice,
  sharedDevice,
  chooseDevice,
  parallel: (...given) => Parallel.open({ requestDevice, chooseDevice, cores: threadsToShare }, ...given),
};
