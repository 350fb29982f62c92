// Finds out the metadata of a file: the size and thumbnail of a picture or video, and its duration.

import type { FileMetadata } from "../../../model/composing/attachment.ts";

const MAX_THUMBNAIL_PX = { width: 800, height: 600 };
/** Smaller pictures need no thumbnail. */
const MIN_BYTES_FOR_THUMBNAIL = 300_000;
const VIDEO_LOAD_TIMEOUT_MS = 8_000;

export async function measureFile(file: File): Promise<FileMetadata> {
  try {
    if (file.type.startsWith("image/")) return await measureImage(file);
    if (file.type.startsWith("video/")) return await measureVideo(file);
  } catch {
    // A file that the browser cannot show is sent as a plain file.
  }
  return {};
}

async function measureImage(file: File): Promise<FileMetadata> {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const isBig = file.size > MIN_BYTES_FOR_THUMBNAIL && (width > MAX_THUMBNAIL_PX.width || height > MAX_THUMBNAIL_PX.height) && file.type !== "image/gif";
  const thumbnail = isBig ? await makeThumbnail(bitmap, width, height) : undefined;
  bitmap.close();
  return { width, height, ...(thumbnail === undefined ? {} : { thumbnail }) };
}

async function measureVideo(file: File): Promise<FileMetadata> {
  const video = document.createElement("video");
  const url = URL.createObjectURL(file);
  try {
    video.muted = true;
    video.preload = "auto";
    video.src = url;
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = reject;
      setTimeout(reject, VIDEO_LOAD_TIMEOUT_MS);
    });
    const { videoWidth: width, videoHeight: height, duration } = video;
    const thumbnail = await makeThumbnail(video, width, height);
    return {
      width,
      height,
      ...(Number.isFinite(duration) ? { duration: Math.round(duration * 1000) } : {}),
      ...(thumbnail === undefined ? {} : { thumbnail }),
    };
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function makeThumbnail(picture: CanvasImageSource, width: number, height: number): Promise<FileMetadata["thumbnail"]> {
  const scale = Math.min(MAX_THUMBNAIL_PX.width / width, MAX_THUMBNAIL_PX.height / height, 1);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.round(width * scale), 1);
  canvas.height = Math.max(Math.round(height * scale), 1);
  canvas.getContext("2d")?.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
  return blob === null ? undefined : { blob, width: canvas.width, height: canvas.height };
}
