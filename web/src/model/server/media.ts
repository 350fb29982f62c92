// Pictures and files from the server. They need the access token, so they are downloaded and shown from memory.

import { type Api, MatrixError, NetworkError, path } from "./api.ts";
import { asNumber } from "./events.ts";

export interface ThumbnailSize {
  width: number;
  height: number;
  method: "crop" | "scale";
}

/**
 * The file types that a browser only shows or plays. A document of any other type, such as an SVG picture, could run
 * scripts in the page's origin when it is opened by itself, since its address in memory has that origin.
 */
const SAFE_MEDIA_TYPES: ReadonlySet<string> = new Set([
  ...["png", "jpeg", "gif", "webp", "avif", "apng", "bmp"].map((type) => `image/${type}`),
  ...["mp4", "webm", "ogg", "quicktime"].map((type) => `video/${type}`),
  ...["mp4", "webm", "aac", "mpeg", "ogg", "wave", "wav", "x-wav", "x-pn-wav", "flac", "x-flac"].map((type) => `audio/${type}`),
]);

/** Returns a file with a type that no browser runs: its own type if that is safe, else that of plain bytes. */
export function withSafeType(file: Blob): Blob {
  const [type = ""] = file.type.split(";");
  const known = type.trim().toLowerCase();
  return file.slice(0, file.size, SAFE_MEDIA_TYPES.has(known) ? known : "application/octet-stream");
}

const MAX_CACHED_FILES = 300;

export class Media {
  private readonly cachedUrls = new Map<string, Promise<string>>();

  private cachedUploadLimit: Promise<number | undefined> | null = null;

  constructor(private readonly api: Api) {}

  /** Returns the address of a thumbnail in memory. */
  async thumbnail(mxc: string, size: ThumbnailSize): Promise<string> {
    return this.load(mxc, "thumbnail", { ...size, animated: "true" }, `${mxc} ${size.width} ${size.height} ${size.method}`);
  }

  /** Returns the address of a whole file in memory. */
  async file(mxc: string): Promise<string> {
    return this.load(mxc, "download", {}, mxc);
  }

  /** Returns the size limit of uploads in bytes; undefined if the server does not say. */
  async uploadLimit(): Promise<number | undefined> {
    this.cachedUploadLimit ??= this.api.get<Record<string, unknown>>("/_matrix/client/v1/media/config").then((config) => asNumber(config["m.upload.size"]));
    this.cachedUploadLimit.catch(() => (this.cachedUploadLimit = null));
    return this.cachedUploadLimit;
  }

  /** Uploads a file. `onProgress` gets the uploaded part, from 0 to 1. Returns the `mxc:` address. */
  async upload(file: Blob, name: string, onProgress?: (part: number) => void, signal?: AbortSignal): Promise<string> {
    return new Promise((resolve, reject) => {
      // fetch does not report the progress of an upload.
      const request = new XMLHttpRequest();
      request.open("POST", this.api.url("/_matrix/media/v3/upload", { filename: name }));
      for (const [key, value] of Object.entries(this.api.authorization())) request.setRequestHeader(key, value);
      request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
      request.responseType = "json";
      request.upload.onprogress = ({ loaded, total }) => onProgress?.(total === 0 ? 1 : loaded / total);
      request.onerror = () => reject(new NetworkError("The upload was interrupted."));
      request.onabort = () => reject(new NetworkError("The upload was cancelled."));
      request.onload = () => {
        const body = (request.response ?? {}) as Record<string, unknown>;
        if (request.status === 200 && typeof body["content_uri"] === "string") resolve(body["content_uri"]);
        else reject(new MatrixError(request.status, String(body["errcode"] ?? "M_UNKNOWN"), String(body["error"] ?? "The server refused the file.")));
      };
      signal?.addEventListener("abort", () => request.abort(), { once: true });
      request.send(file);
    });
  }

  private async load(mxc: string, kind: "thumbnail" | "download", query: Record<string, string | number>, key: string): Promise<string> {
    const known = this.cachedUrls.get(key);
    if (known !== undefined) {
      this.cachedUrls.delete(key);
      this.cachedUrls.set(key, known);
      return known;
    }
    const [, server, id] = /^mxc:\/\/([^/]+)\/([^/?#]+)$/.exec(mxc) ?? [];
    if (server === undefined || id === undefined) throw new NetworkError("This is not the address of a file.");
    const loading = this.api.blob(path`/_matrix/client/v1/media/${kind}/${server}/${id}`, query).then((blob) => URL.createObjectURL(withSafeType(blob)));
    this.cachedUrls.set(key, loading);
    loading.catch(() => this.cachedUrls.delete(key));
    this.dropOldest();
    return loading;
  }

  private dropOldest(): void {
    for (const [key, url] of this.cachedUrls) {
      if (this.cachedUrls.size <= MAX_CACHED_FILES) return;
      this.cachedUrls.delete(key);
      void url.then(
        (address) => URL.revokeObjectURL(address),
        () => {},
      );
    }
  }
}
