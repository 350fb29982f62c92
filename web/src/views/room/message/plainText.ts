// The text of a message in one line, for quotations, previews and announcements.

import { bodyText } from "../../../model/composing/messageContent.ts";
import { asArray, asRecord, asString, type Content } from "../../../model/server/events.ts";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";

export function plainText(event: TimelineEvent): string {
  if (event.isRedacted) return "Message deleted";
  if (event.isEncrypted) return "Encrypted message";
  const { content } = event;
  if (event.raw.type === "m.sticker") return `Sticker: ${asString(content["body"]) ?? ""}`;
  if (event.raw.type.endsWith("poll.start")) return `Poll: ${pollOf(content).question}`;
  switch (content["msgtype"]) {
    case "m.image":
      return `Picture: ${fileName(content)}`;
    case "m.video":
      return `Video: ${fileName(content)}`;
    case "m.audio":
      return `Audio: ${fileName(content)}`;
    case "m.file":
      return `File: ${fileName(content)}`;
    default:
      return bodyText(content);
  }
}

export function fileName(content: Content): string {
  return asString(content["filename"]) || asString(content["body"]) || "file";
}

/** Returns the caption of a file, if it is not just the file name. */
export function captionOf(content: Content): string | undefined {
  const name = asString(content["filename"]);
  const body = bodyText(content);
  return name !== undefined && body !== "" && body !== name ? body : undefined;
}

export function pollOf(content: Content): { question: string; answers: string[] } {
  const poll = asRecord(content["m.poll"]) ?? asRecord(content["org.matrix.msc3381.poll.start"]) ?? {};
  const said = (value: unknown): string => {
    const part = asRecord(value) ?? {};
    const modern = asRecord(asArray(part["m.text"])[0]);
    return asString(part["body"]) ?? asString(modern?.["body"]) ?? asString(part["org.matrix.msc1767.text"]) ?? asString(part["m.text"]) ?? "";
  };
  return { question: said(poll["question"]), answers: asArray(poll["answers"]).slice(0, 20).map(said) };
}
