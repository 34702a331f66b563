// The browser interfaces that Octavo uses. TypeScript's DOM library would declare a window in every file of the library.

export interface SyncAccessHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  getSize(): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}

export interface FileHandle {
  readonly kind: "file";
  getFile(): Promise<{ readonly size: number }>;
  /** Workers only. */
  createSyncAccessHandle?(): Promise<SyncAccessHandle>;
}

export interface FolderHandle {
  readonly kind: "directory";
  getFileHandle(name: string, options?: { create?: boolean }): Promise<FileHandle>;
  getDirectoryHandle(name: string, options?: { create?: boolean }): Promise<FolderHandle>;
  removeEntry(name: string): Promise<void>;
  entries(): AsyncIterable<[string, FileHandle | FolderHandle]>;
}

export interface CacheStore {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<void>;
  delete(url: string): Promise<boolean>;
  keys(): Promise<readonly { readonly url: string }[]>;
}

export interface CacheStorage {
  open(name: string): Promise<CacheStore>;
  delete(name: string): Promise<boolean>;
}

interface Web {
  readonly navigator?: {
    readonly gpu?: GPU;
    readonly hardwareConcurrency?: number;
    readonly storage?: { getDirectory?(): Promise<FolderHandle> };
  };
  readonly caches?: CacheStorage;
  readonly location?: { readonly href: string };
  readonly FileSystemSyncAccessHandle?: unknown;
  /** Absent where there is no canvas (Deno, Bun). */
  readonly createImageBitmap?: (blob: Blob, options: object) => Promise<Bitmap>;
  readonly OffscreenCanvas?: new (width: number, height: number) => Canvas;
}

interface Bitmap {
  readonly width: number;
  readonly height: number;
  close(): void;
}

interface Canvas {
  getContext(kind: "2d", options: object): CanvasContext | null;
}

interface CanvasContext {
  drawImage(bitmap: Bitmap, x: number, y: number): void;
  getImageData(x: number, y: number, width: number, height: number): { readonly data: Uint8ClampedArray };
}

/** The globals of a page or a Worker, any of which may be missing. */
export const WEB: Web = globalThis as unknown as Web;

/** True for "./x", "../x" and "/x"; "org/x" is the id of a model. */
export function isRelative(address: string): boolean {
  return /^\.{0,2}\//.test(address);
}
