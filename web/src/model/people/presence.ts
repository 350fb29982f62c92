// The presence of users.

import { signal } from "@preact/signals";
import { type Api, path } from "../server/api.ts";
import { asNumber, asString, type SyncUpdate } from "../server/events.ts";
import type { LiveConnection } from "../server/liveConnection.ts";

export interface Presence {
  presence: "online" | "unavailable" | "offline";
  /** The time of the user's last activity, in milliseconds; undefined if it is not known. */
  lastActive: number | undefined;
  status: string | undefined;
}

export class PresenceStore {
  readonly changed = signal(0);
  private readonly known = new Map<string, Presence>();

  get(userId: string): Presence | undefined {
    this.changed.value;
    return this.known.get(userId);
  }

  set(userId: string, presence: Presence): void {
    this.known.set(userId, presence);
    this.changed.value += 1;
  }

  /** Adds the presence from the server's list of users. */
  setAll(all: Iterable<[string, Presence]>): void {
    for (const [userId, presence] of all) this.known.set(userId, presence);
    this.changed.value += 1;
  }

  update(update: SyncUpdate): void {
    const events = update.presence?.events ?? [];
    for (const { sender, content } of events) {
      const ago = asNumber(content["last_active_ago"]);
      this.known.set(sender, {
        presence: parsePresence(content["presence"]),
        lastActive: ago === undefined ? this.known.get(sender)?.lastActive : Date.now() - ago,
        status: asString(content["status_msg"]),
      });
    }
    if (events.length > 0) this.changed.value += 1;
  }
}

export function parsePresence(value: unknown): Presence["presence"] {
  return value === "online" || value === "unavailable" ? value : "offline";
}

/** Sets this user's presence immediately. */
export async function announcePresence(api: Api, connection: LiveConnection, me: string, shown: boolean): Promise<void> {
  const presence = shown ? "online" : "offline";
  if (connection.canRequest) await connection.request("presence", { presence });
  else await api.put(path`/_matrix/client/v3/presence/${me}/status`, { presence });
}
