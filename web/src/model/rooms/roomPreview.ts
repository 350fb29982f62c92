// One-line summaries of messages.

import { asString } from "../server/events.ts";
import type { TimelineEvent } from "../timeline/timeline.ts";
import type { Room } from "./room.ts";

const MAX_PREVIEW_LENGTH = 160;

/** Returns "Photo" and the like, or the beginning of the text. */
export function messageSummary(event: TimelineEvent): string {
  if (event.raw.type === "m.room.encrypted") return "Encrypted message";
  if (event.raw.type === "m.sticker") return "Sticker";
  if (event.raw.type.endsWith("poll.start")) return "Poll";
  const { content } = event;
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

/** Returns the line under a room's name: the sender and a summary of the last message. */
export function roomPreview(room: Room, me: string): string {
  const event = room.preview.value;
  if (event === undefined) return room.topic.value ?? "";
  const summary = messageSummary(event);
  if (event.content["msgtype"] === "m.emote") return `${nameOf(room, event.sender)} ${summary}`;
  if (event.sender === me) return `You: ${summary}`;
  return room.directWith.value === null ? `${nameOf(room, event.sender)}: ${summary}` : summary;
}

/** Returns who is typing, in a few words. */
export function typingText(room: Room): string | null {
  const typing = room.typing.value;
  if (typing.length === 0) return null;
  if (room.directWith.value !== null) return "typing…";
  return typing.length === 1 ? `${nameOf(room, typing[0]!)} is typing…` : `${typing.length} people are typing…`;
}

function nameOf(room: Room, userId: string): string {
  room.membersChanged.value;
  return room.memberName(userId);
}

/** Removes the quotation at the start of replies of old clients, in which each line starts with `> `. */
function withoutFallback(body: string): string {
  return body.startsWith("> <@") ? body.replace(/^(?:> .*\n)+\n?/, "") : body;
}

function shortened(body: string): string {
  const line = body.replace(/\s+/g, " ").trim();
  return line.length > MAX_PREVIEW_LENGTH ? `${line.slice(0, MAX_PREVIEW_LENGTH)}…` : line;
}
