// Describes a user's presence in words.

import type { Presence } from "../../model/people/presence.ts";
import { relativeTime } from "../components/formatTime.ts";

export function presenceText(presence: Presence | undefined, now = Date.now()): string {
  if (presence?.presence === "online") return "Online";
  if (presence?.presence === "unavailable") return presence.lastActive === undefined ? "Away" : `Away, last seen ${relativeTime(presence.lastActive, now)}`;
  return presence?.lastActive === undefined ? "Offline" : `Last seen ${relativeTime(presence.lastActive, now)}`;
}
