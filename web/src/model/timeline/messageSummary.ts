// One-line summaries of messages.

import { asString, type Content } from "../server/events.ts";

const MAX_SUMMARY_LENGTH = 160;

/** Returns "Photo" and the like, or the beginning of the text. */
export function messageSummary(type: string, content: Content): string {
  if (type === "m.room.encrypted") return "Encrypted message";
  if (type === "m.sticker") return "Sticker";
  if (type === "m.call.invite") return "Call";
  if (type.endsWith("poll.start")) return "Poll";
  const body = withoutFallback(asString(content["body"]) ?? "");
  switch (content["msgtype"]) {
    case "m.image":
      return "Photo";
    case "m.video":
      return "Video";
    case "m.audio":
      return "Audio";
    case "m.file":
      return `File: ${shortened(asString(content["filename"]) ?? body)}`;
    case "m.location":
      return "Location";
    default:
      return shortened(body);
  }
}

/** Removes the quotation at the start of replies of old clients, in which each line starts with `> `. */
function withoutFallback(body: string): string {
  return body.startsWith("> <@") ? body.replace(/^(?:> .*\n)+\n?/, "") : body;
}

function shortened(body: string): string {
  const line = body.replace(/\s+/g, " ").trim();
  return line.length > MAX_SUMMARY_LENGTH ? `${line.slice(0, MAX_SUMMARY_LENGTH)}…` : line;
}
