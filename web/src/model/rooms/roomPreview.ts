// The line of a room in the list: its last message, or who is typing.

import { messageSummary } from "../timeline/messageSummary.ts";
import type { Room } from "./room.ts";

/** Returns the line under a room's name: the sender and a summary of the last message. */
export function roomPreview(room: Room, me: string): string {
  const event = room.preview.value;
  if (event === undefined) return room.topic.value ?? "";
  const summary = messageSummary(event.raw.type, event.content);
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
