// Finds the rooms with new notifications: those whose notification count went up. The server counts by the push rules,
// so muted rooms do not appear.

import type { TimelineEvent } from "../timeline/timeline.ts";
import type { Room } from "./room.ts";

export interface RoomNotification {
  room: Room;
  event: TimelineEvent;
}

export class NotificationTracker {
  private counts: Map<string, number> | null = null;

  constructor(private readonly me: string) {}

  /** Compares the rooms with those of the previous call. The first call returns nothing. */
  takeNewNotifications(rooms: Room[]): RoomNotification[] {
    const before = this.counts;
    this.counts = new Map(rooms.map((room) => [room.id, room.unread.value.count]));
    if (before === null) return [];
    return rooms.flatMap((room) => {
      const event = room.preview.value;
      const more = room.unread.value.count > (before.get(room.id) ?? 0);
      return more && event !== undefined && event.sender !== this.me ? [{ room, event }] : [];
    });
  }
}
