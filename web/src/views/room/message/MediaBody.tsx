import "./MediaBody.css";
import { useState } from "preact/hooks";
import { sizeText } from "../../../model/composing/attachment.ts";
import { asNumber, asRecord, asString, type Content } from "../../../model/server/events.ts";
import { useClient, useFile, useThumbnail } from "../../clientContext.ts";
import { Icon } from "../../components/Icon.tsx";
import { attempt } from "../../components/Toasts.tsx";
import { Lightbox } from "./Lightbox.tsx";
import { fileName } from "./plainText.ts";

/** Limits of the box of a picture, in pixels. */
const MAX_WIDTH_PX = 352;
const MAX_HEIGHT_PX = 320;
const MIN_SIDE_PX = 56;

/** Returns the size of a picture's box from the event, so that nothing moves when the picture has loaded. */
export function mediaBox(content: Content): { width: number; height: number } {
  const info = asRecord(content["info"]);
  const width = asNumber(info?.["w"]) ?? 0;
  const height = asNumber(info?.["h"]) ?? 0;
  if (width < 1 || height < 1) return { width: 320, height: 240 };
  const scale = Math.min(MAX_WIDTH_PX / width, MAX_HEIGHT_PX / height, 1);
  return { width: Math.max(Math.round(width * scale), MIN_SIDE_PX), height: Math.max(Math.round(height * scale), MIN_SIDE_PX) };
}

function boxStyle(content: Content): Record<string, string> {
  const { width, height } = mediaBox(content);
  return { width: `${width}px`, aspectRatio: `${width} / ${height}` };
}

export function ImageBody({ content }: { content: Content }) {
  const [open, setOpen] = useState(false);
  const url = asString(content["url"]);
  const thumbnail = useThumbnail(url, 800, 600, "scale");
  const name = fileName(content);
  return (
    <>
      <button type="button" class="media image" style={boxStyle(content)} aria-label={`Open picture ${name}`} onClick={() => setOpen(true)}>
        {thumbnail !== undefined && <img src={thumbnail} alt={name} />}
      </button>
      {open && url !== undefined && <Lightbox mxc={url} name={name} onClose={() => setOpen(false)} />}
    </>
  );
}

export function VideoBody({ content }: { content: Content }) {
  const [isRequested, setRequested] = useState(false);
  const file = useFile(isRequested ? asString(content["url"]) : undefined);
  const poster = useThumbnail(asString(asRecord(content["info"])?.["thumbnail_url"]), 800, 600, "scale");
  const name = fileName(content);
  if (file !== undefined) {
    return <video class="media" style={boxStyle(content)} src={file} poster={poster} controls autoplay aria-label={name} />;
  }
  return (
    <button type="button" class="media video" style={boxStyle(content)} aria-busy={isRequested} onClick={() => setRequested(true)}>
      <span class="visually-hidden">Play video {name}</span>
      {poster !== undefined && <img src={poster} alt="" />}
      <span class="play">{isRequested ? <span class="spinner" /> : <Icon name="play" />}</span>
      <span class="media-size">{sizeOf(content)}</span>
    </button>
  );
}

export function AudioBody({ content }: { content: Content }) {
  const [isRequested, setRequested] = useState(false);
  const file = useFile(isRequested ? asString(content["url"]) : undefined);
  if (file !== undefined) return <audio class="sound" src={file} controls autoplay aria-label={fileName(content)} />;
  return <FileCard content={content} icon="play" label="Play" busy={isRequested} onClick={() => setRequested(true)} />;
}

export function FileBody({ content }: { content: Content }) {
  const { media } = useClient();
  const [busy, setBusy] = useState(false);
  const url = asString(content["url"]);
  const save = async () => {
    setBusy(true);
    await attempt(async () => download(await media.file(url ?? ""), fileName(content)));
    setBusy(false);
  };
  return <FileCard content={content} icon="file" label="Download" busy={busy} onClick={() => void save()} />;
}

interface CardProps {
  content: Content;
  icon: "file" | "play";
  label: string;
  busy: boolean;
  onClick: () => void;
}

function FileCard({ content, icon, label, busy, onClick }: CardProps) {
  const name = fileName(content);
  return (
    <button type="button" class="file-card" aria-busy={busy} onClick={onClick}>
      <span class="file-icon">{busy ? <span class="spinner" /> : <Icon name={icon} />}</span>
      <span class="file-words">
        <span class="ellipsis">
          <span class="visually-hidden">{label} </span>
          <bdi>{name}</bdi>
        </span>
        <span class="file-size">{sizeOf(content)}</span>
      </span>
    </button>
  );
}

function sizeOf(content: Content): string {
  const size = asNumber(asRecord(content["info"])?.["size"]);
  return size === undefined ? "" : sizeText(size);
}

/** Saves a file from memory. */
export function download(url: string, name: string): void {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}
