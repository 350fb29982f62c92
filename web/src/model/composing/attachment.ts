// Files to send: chosen by the user, then uploaded, then sent to the room.

import { signal } from "@preact/signals";
import { messageOf, NetworkError } from "../server/api.ts";
import type { Content } from "../server/events.ts";
import type { Media } from "../server/media.ts";
import { randomId } from "../server/randomId.ts";

/** Properties of a file that the page finds out before sending it. */
export interface FileMetadata {
  width?: number;
  height?: number;
  duration?: number;
  /** A smaller picture, for large images and for videos. */
  thumbnail?: { blob: Blob; width: number; height: number };
}

export type MeasureFile = (file: File) => Promise<FileMetadata>;

export class Attachment {
  readonly state = signal<"ready" | "uploading" | "failed">("ready");
  /** The uploaded part, from 0 to 1. */
  readonly progress = signal(0);
  readonly problem = signal<string | null>(null);
  readonly key = randomId();
  private abort = new AbortController();

  constructor(
    readonly file: File,
    private readonly media: Media,
    private readonly measure: MeasureFile,
  ) {}

  get isImage(): boolean {
    return /^image\/(png|jpe?g|gif|webp|avif)$/.test(this.file.type);
  }

  /**
   * Uploads the file. Returns the content of the message, or null if the upload failed or was cancelled. `caption` is
   * the text of the message, in addition to the file name.
   */
  async upload(caption: Content | null): Promise<Content | null> {
    this.abort = new AbortController();
    this.problem.value = null;
    this.progress.value = 0;
    this.state.value = "uploading";
    try {
      await this.checkSize();
      const measured = await this.measure(this.file);
      const info = await this.buildInfo(measured);
      const url = await this.media.upload(this.file, this.file.name, (part) => (this.progress.value = part), this.abort.signal);
      return { body: this.file.name, "m.mentions": {}, ...caption, msgtype: this.messageType(measured), filename: this.file.name, url, info };
    } catch (error) {
      this.state.value = "failed";
      this.problem.value = this.abort.signal.aborted ? null : messageOf(error);
      return null;
    }
  }

  cancel(): void {
    this.abort.abort();
  }

  private async checkSize(): Promise<void> {
    const limit = await this.media.uploadLimit();
    if (limit !== undefined && this.file.size > limit) {
      throw new NetworkError(`This file is ${sizeText(this.file.size)}. The server accepts files of up to ${sizeText(limit)}.`);
    }
  }

  private async buildInfo({ width, height, duration, thumbnail }: FileMetadata): Promise<Content> {
    const info: Content = { mimetype: this.file.type || "application/octet-stream", size: this.file.size };
    if (width !== undefined) Object.assign(info, { w: width, h: height });
    if (duration !== undefined) info["duration"] = duration;
    if (thumbnail !== undefined) {
      info["thumbnail_url"] = await this.media.upload(thumbnail.blob, "thumbnail", undefined, this.abort.signal);
      info["thumbnail_info"] = { w: thumbnail.width, h: thumbnail.height, mimetype: thumbnail.blob.type, size: thumbnail.blob.size };
    }
    return info;
  }

  private messageType({ width }: FileMetadata): string {
    if (this.isImage && width !== undefined) return "m.image";
    if (this.file.type.startsWith("video/")) return "m.video";
    return this.file.type.startsWith("audio/") ? "m.audio" : "m.file";
  }
}

/** Formats a number of bytes for people. */
export function sizeText(bytes: number): string {
  if (bytes === 1) return "1 byte";
  const units = ["bytes", "kB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toLocaleString(undefined, { maximumFractionDigits: digits })} ${units[unit]!}`;
}
