// Persistent ids: how tensors in a pickle name their storages, in either container.

import { quote } from "../sources/files.js";
import { kindOfValue, type PickleValue, type Refuse, Storage, StorageRef, Tuple } from "./pickle-values.js";
import { count, storageType, widthOf } from "./torch-globals.js";
import type { ZipRecord } from "./torch-zip.js";

/** The storages that a pickle has named so far. */
abstract class Storages {
  /** By their keys. */
  readonly all = new Map<string, Storage>();

  /** The storage of `("storage", class, key, device, elements)`; the device is of no meaning here. */
  protected named({ items }: Tuple, length: number, refuse: Refuse): Storage {
    const [kind, type, key, , elements] = items;
    if (kind !== "storage")
      return refuse(
        `a persistent id of ${typeof kind === "string" ? quote(kind) : kindOfValue(kind ?? null)} instead of a storage`,
      );
    if (items.length !== length) return refuse(`a persistent id of ${items.length} parts instead of ${length}`);
    const known = storageType(type!, refuse);
    if (typeof key !== "string" || !/^\d{1,32}$/.test(key)) {
      return refuse(`a storage's key must be digits, got ${typeof key === "string" ? quote(key) : kindOfValue(key!)}`);
    }
    const numel = count(elements, "a storage's number of elements", refuse);
    const before = this.all.get(key);
    if (before) {
      if (before.type.dtype === known.dtype && before.numel === numel) return before;
      return refuse(
        `storage ${quote(key)} was of ${before.numel} elements of ${before.type.name}, and is now of ${numel} of ${known.name}`,
      );
    }
    const storage = new Storage(key, known, numel);
    this.check(storage, refuse);
    this.all.set(key, storage);
    return storage;
  }

  protected abstract check(storage: Storage, refuse: Refuse): void;
}

const whole = (storage: Storage): StorageRef => new StorageRef(storage, 0, storage.numel * widthOf(storage.type.dtype));

/** Each storage is a record of the archive. */
export class ZipStorages extends Storages {
  private readonly records: ReadonlyMap<string, ZipRecord>;

  constructor(records: ReadonlyMap<string, ZipRecord>) {
    super();
    this.records = records;
  }

  readonly find = (id: Tuple, refuse: Refuse): StorageRef => whole(this.named(id, 5, refuse));

  protected check(storage: Storage, refuse: Refuse): void {
    const { key, numel, type } = storage;
    const record = this.records.get(`data/${key}`);
    if (!record) refuse(`the archive has no record ${quote(`data/${key}`)}`);
    const bytes = numel * widthOf(type.dtype);
    if (record.size !== bytes) refuse(`record ${quote(`data/${key}`)} has ${record.size} bytes instead of ${bytes}`);
    storage.begin = record.begin;
  }
}

/** Storages follow one another behind the pickles; an id may mean a part of one. */
export class LegacyStorages extends Storages {
  readonly find = (id: Tuple, refuse: Refuse): StorageRef => {
    const storage = this.named(id, 6, refuse);
    const view = id.items[5]!;
    return view === null ? whole(storage) : partOf(storage, view, refuse);
  };

  /** Sizes are checked against the file when all are known. */
  protected check(): void {}
}

/** The part of a storage that `(key, offset, elements)` describes. */
function partOf(storage: Storage, view: PickleValue, refuse: Refuse): StorageRef {
  const items = view instanceof Tuple ? view.items : [];
  if (items.length !== 3) return refuse(`the view of a storage must be a tuple of 3, got ${kindOfValue(view)}`);
  const offset = count(items[1], "the offset of a view", refuse);
  const numel = count(items[2], "a view's number of elements", refuse);
  if (offset + numel > storage.numel)
    return refuse(`a view ends at element ${offset + numel} of a storage of ${storage.numel}`);
  const width = widthOf(storage.type.dtype);
  return new StorageRef(storage, offset * width, numel * width);
}
