// An open room: the part of its history that is shown, its receipts, and the actions on messages.

import { type Signal, signal } from "@preact/signals";
import type { Client } from "../client.ts";
import type { Attachment } from "../composing/attachment.ts";
import { TypingNotifier } from "../composing/typingNotifier.ts";
import type { Room } from "../rooms/room.ts";
import { path } from "../server/api.ts";
import type { RawEvent } from "../server/events.ts";
import { ReadReceipts } from "./readReceipts.ts";
import { Thread } from "./thread.ts";
import { Timeline, TimelineEvent } from "./timeline.ts";

export interface JumpTarget {
  eventId: string;
  /** Distinguishes two jumps to the same event. */
  jump: number;
}

/** The number of events that are kept after they were fetched for quotations. */
const MAX_FETCHED_EVENTS = 200;

export class Conversation {
  /** The part of the history that is shown: the newest, or the surroundings of an old event. */
  readonly timeline: Signal<Timeline>;
  /** The event to scroll to. */
  readonly target = signal<JumpTarget | null>(null);
  readonly readReceipts: ReadReceipts;
  readonly typingNotifier: TypingNotifier;
  /** Files in the composer, by thread; the key of the room itself is "". */
  readonly attachments = new Map<string, Signal<Attachment[]>>();
  private readonly fetchedEvents = new Map<string, Signal<TimelineEvent | null | undefined>>();
  private jumps = 0;
  private stopFollowing = () => {};

  constructor(
    private readonly client: Client,
    readonly room: Room,
  ) {
    this.timeline = signal(room.timeline);
    this.readReceipts = new ReadReceipts(client.api, room, () => client.accountData.settings.peek().sendReceipts);
    this.typingNotifier = new TypingNotifier(client.api, client.connection, room.id, client.me);
  }

  get isLive(): boolean {
    return this.timeline.value === this.room.timeline;
  }

  /**
   * Shows an event. If it is in a thread, returns the root of the thread: then the thread panel shows the event, not the
   * conversation.
   */
  async goTo(eventId: string): Promise<string | null> {
    let event = this.room.timeline.get(eventId);
    if (event !== undefined) this.show(this.room.timeline);
    else event = this.timeline.value.get(eventId);
    if (event === undefined) {
      const around = await Timeline.loadAround(this.client.api, this.room.id, eventId, this.room.timeline.onHistoricState);
      event = around.get(eventId);
      this.show(this.room.timeline.mergeOlder(around) ? this.room.timeline : around);
    }
    const { type, target } = event?.relation ?? {};
    if (type === "m.thread" && target !== undefined) return target;
    const shown = (type === "m.replace" || type === "m.annotation") && target !== undefined ? target : eventId;
    this.target.value = { eventId: shown, jump: ++this.jumps };
    return null;
  }

  goToNewest(): void {
    this.target.value = null;
    this.show(this.room.timeline);
  }

  /** Loads newer messages after an old part of the history, until it reaches the newest. */
  async loadForward(): Promise<void> {
    const timeline = this.timeline.value;
    await timeline.loadForward();
    if (timeline === this.timeline.value && this.room.timeline.mergeOlder(timeline)) this.show(this.room.timeline);
  }

  /** Returns an event for a quotation: undefined while it is loading, null if it cannot be loaded. */
  quotedEvent(eventId: string): Signal<TimelineEvent | null | undefined> {
    const loaded = this.room.timeline.get(eventId) ?? this.timeline.value.get(eventId);
    const known = this.fetchedEvents.get(eventId);
    if (known !== undefined) return known;
    const found = signal<TimelineEvent | null | undefined>(loaded);
    this.fetchedEvents.set(eventId, found);
    for (const key of this.fetchedEvents.keys()) {
      if (this.fetchedEvents.size <= MAX_FETCHED_EVENTS) break;
      this.fetchedEvents.delete(key);
    }
    if (loaded === undefined) void this.fetch(eventId, found);
    return found;
  }

  openThread(root: string): Thread {
    return new Thread(this.client.api, this.room.timeline, root);
  }

  attachmentsIn(thread: string | undefined): Signal<Attachment[]> {
    const place = thread ?? "";
    const files = this.attachments.get(place) ?? signal<Attachment[]>([]);
    this.attachments.set(place, files);
    return files;
  }

  /** Adds or removes a reaction. The change is shown immediately. */
  async react(event: TimelineEvent, key: string): Promise<void> {
    const { me } = this.client;
    const own = event.reactions.get(key)?.get(me);
    if (own === PENDING_REACTION_ID) return;
    if (own !== undefined) {
      event.removeReaction(key, me);
      try {
        await this.client.sendQueue.redact(this.room.id, own);
      } catch (error) {
        event.addReaction(key, me, own);
        throw error;
      }
      return;
    }
    event.addReaction(key, me, PENDING_REACTION_ID);
    try {
      const relation = { rel_type: "m.annotation", event_id: event.id, key };
      const id = await this.client.sendQueue.sendWithoutEcho(this.room, "m.reaction", { "m.relates_to": relation });
      if (event.reactions.get(key)?.get(me) === PENDING_REACTION_ID) event.addReaction(key, me, id);
    } catch (error) {
      event.removeReaction(key, me);
      throw error;
    }
  }

  async deleteMessage(event: TimelineEvent): Promise<void> {
    await this.client.sendQueue.redact(this.room.id, event.id);
  }

  retry(event: TimelineEvent): void {
    this.client.sendQueue.retry(this.room, event);
  }

  discard(event: TimelineEvent): void {
    this.room.timeline.removeEcho(event);
  }

  /** Joins the room that replaced this one. */
  async joinSuccessor(successor: string): Promise<void> {
    if (this.client.rooms.get(successor)?.membership.value === "join") return;
    const server = this.room.creator.value?.replace(/^[^:]*:/, "") ?? "";
    await this.client.api.post(path`/_matrix/client/v3/join/${successor}`, {}, { query: { server_name: server, via: server } });
  }

  async rejoin(): Promise<void> {
    await this.client.api.post(path`/_matrix/client/v3/join/${this.room.id}`);
  }

  private show(timeline: Timeline): void {
    if (timeline === this.timeline.value) return;
    this.stopFollowing();
    this.stopFollowing = () => {};
    if (timeline !== this.room.timeline) {
      const listener = (raw: RawEvent) => timeline.applyRelatedEvent(raw);
      this.room.timeline.newEventListeners.add(listener);
      this.stopFollowing = () => this.room.timeline.newEventListeners.delete(listener);
    }
    this.timeline.value = timeline;
  }

  private async fetch(eventId: string, into: Signal<TimelineEvent | null | undefined>): Promise<void> {
    try {
      const raw = await this.client.api.get<RawEvent>(path`/_matrix/client/v3/rooms/${this.room.id}/event/${eventId}`);
      const loaded = this.room.timeline.get(eventId);
      into.value = loaded ?? eventWithBundledEdit(raw);
    } catch {
      into.value = null;
    }
  }
}

const PENDING_REACTION_ID = "~";

/** Returns an event with the edit that the server bundled. */
function eventWithBundledEdit(raw: RawEvent): TimelineEvent {
  const event = new TimelineEvent(raw);
  event.applyBundledRelations();
  return event;
}
