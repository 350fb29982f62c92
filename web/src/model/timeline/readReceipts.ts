// Tells the server what this user has read, and what others have.

import { computed, type ReadonlySignal } from "@preact/signals";
import type { Room } from "../rooms/room.ts";
import { type Api, path } from "../server/api.ts";

/** Receipts wait so long, so that a burst of messages is one receipt. */
const RECEIPT_DELAY_MS = 300;

export interface Reader {
  userId: string;
  /** The order of the last event that they have read, as far as it is loaded. */
  upTo: number;
}

export class ReadReceipts {
  private lastSent: string | null = null;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private readonly api: Api,
    private readonly room: Room,
    /** Whether others may see it. */
    private readonly isPublic: () => boolean,
  ) {}

  /** The newest events are before the user's eyes. */
  markSeen(): void {
    if (this.timer !== null || this.newestEventId() === this.lastSent) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      void this.sendReceipt();
    }, RECEIPT_DELAY_MS);
  }

  /** Who has read up to where, those who are furthest first; this user apart. */
  readonly readers: ReadonlySignal<Reader[]> = computed(() => {
    this.room.receiptsChanged.value;
    this.room.timeline.changed.value;
    const { timeline, receipts, me } = this.room;
    const upTo = new Map<string, number>();
    for (const [userId, { eventId }] of receipts) upTo.set(userId, timeline.get(eventId)?.order ?? -Infinity);
    // Whoever answers has read what is above.
    for (const [userId, order] of timeline.lastOrderBySender) upTo.set(userId, Math.max(order, upTo.get(userId) ?? -Infinity));
    upTo.delete(me);
    return [...upTo].map(([userId, order]) => ({ userId, upTo: order })).sort((a, b) => b.upTo - a.upTo);
  });

  /** Who has read this event. */
  readersOf(eventId: string): string[] {
    // What is not loaded is older than everything that is.
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
      // Nobody asked for it, so nobody is told; the next look tries again.
      this.lastSent = null;
    }
  }
}
