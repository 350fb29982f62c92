// Sends this user's read receipts, and knows those of others.

import { computed, type ReadonlySignal } from "@preact/signals";
import type { Room } from "../rooms/room.ts";
import { type Api, path } from "../server/api.ts";

/** The delay that combines a burst of messages into one receipt. */
const RECEIPT_DELAY_MS = 300;

export interface RoomReader {
  userId: string;
  /** The order of the last event that the user has read, as far as it is loaded. */
  upTo: number;
}

export class ReadReceipts {
  private lastSent: string | null = null;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private readonly api: Api,
    private readonly room: Room,
    /** Whether others may see the receipts. */
    private readonly isPublic: () => boolean,
  ) {}

  /** Notes that the newest events are in view. */
  markSeen(): void {
    if (this.timer !== null || this.newestEventId() === this.lastSent) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      void this.sendReceipt();
    }, RECEIPT_DELAY_MS);
  }

  /** The other readers, and how far each has read; the furthest first. */
  readonly readers: ReadonlySignal<RoomReader[]> = computed(() => {
    this.room.receiptsChanged.value;
    this.room.timeline.changed.value;
    const { timeline, receipts, me } = this.room;
    const upTo = new Map<string, number>();
    for (const [userId, { eventId }] of receipts) upTo.set(userId, timeline.get(eventId)?.order ?? -Infinity);
    // A user who sent an event has read everything above it.
    for (const [userId, order] of timeline.lastOrderBySender) upTo.set(userId, Math.max(order, upTo.get(userId) ?? -Infinity));
    upTo.delete(me);
    return [...upTo].map(([userId, order]) => ({ userId, upTo: order })).sort((a, b) => b.upTo - a.upTo);
  });

  /** Returns the users who have read an event. */
  readersOf(eventId: string): string[] {
    // An event that is not loaded is older than all that are.
    const order = this.room.timeline.get(eventId)?.order ?? -Infinity;
    const readers = this.readers.value;
    const end = readers.findIndex(({ upTo }) => upTo < order);
    return (end === -1 ? readers : readers.slice(0, end)).map(({ userId }) => userId);
  }

  private newestEventId(): string | null {
    return this.room.timeline.events.findLast(({ sender }) => sender !== this.room.me)?.id ?? null;
  }

  private async sendReceipt(): Promise<void> {
    const newest = this.newestEventId();
    if (newest === null || newest === this.lastSent) return;
    this.lastSent = newest;
    const body = { "m.fully_read": newest, [this.isPublic() ? "m.read" : "m.read.private"]: newest };
    try {
      this.room.markRead();
      await this.api.post(path`/_matrix/client/v3/rooms/${this.room.id}/read_markers`, body);
    } catch {
      // The user did not ask for this, so no error is shown; the next call tries again.
      this.lastSent = null;
    }
  }
}
