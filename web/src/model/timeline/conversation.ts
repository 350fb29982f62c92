// A room as it is looked at: which part of its history is shown, what is read, what one does with messages.

import { type Signal, signal } from "@preact/signals";
import type { Chat } from "../client.ts";
import type { Attachment } from "../composing/attachment.ts";
import { Typist } from "../composing/typingNotifier.ts";
import type { Room } from "../rooms/room.ts";
import { path } from "../server/api.ts";
import type { RawEvent } from "../server/events.ts";
import { Reading } from "./readReceipts.ts";
import { Thread } from "./thread.ts";
import { Timeline, TimelineEvent } from "./timeline.ts";

export interface Target {
  eventId: string;
  /** Tells one jump to an event from the next. */
  jump: number;
}

/** So many events are kept that were fetched for quotations. */
const FETCHED_KEPT = 200;

export class Conversation {
  /** The part of the history that is shown: the room's newest, or what surrounds an old event. */
  readonly timeline: Signal<Timeline>;
  /** The event to show. */
  readonly target = signal<Target | null>(null);
  readonly reading: Reading;
  readonly typist: Typist;
  /** Files that wait in the composer: by the thread, or "" for the room itself. */
  readonly attachments = new Map<string, Signal<Attachment[]>>();
  private readonly fetched = new Map<string, Signal<TimelineEvent | null | undefined>>();
  private jumps = 0;
  private stopFollowing = () => {};

  constructor(
    private readonly chat: Chat,
    readonly room: Room,
  ) {
    this.timeline = signal(room.timeline);
    this.reading = new Reading(chat.api, room, () => chat.account.settings.peek().sendReceipts);
    this.typist = new Typist(chat.api, chat.live, room.id, chat.me);
  }

  get isLive(): boolean {
    return this.timeline.value === this.room.timeline;
  }

  /** Shows an event. Returns the root of its thread, if it is in one: the conversation leaves it out. */
  async goTo(eventId: string): Promise<string | null> {
    let event = this.room.timeline.get(eventId);
    if (event !== undefined) this.show(this.room.timeline);
    else event = this.timeline.value.get(eventId);
    if (event === undefined) {
      const around = await Timeline.around(this.chat.api, this.room.id, eventId, this.room.timeline.onState);
      event = around.get(eventId);
      this.show(this.room.timeline.adopt(around) ? this.room.timeline : around);
    }
    const { type, target } = event?.relation ?? {};
    if (type === "m.thread" && target !== undefined) return target;
    const shown = (type === "m.replace" || type === "m.annotation") && target !== undefined ? target : eventId;
    this.target.value = { eventId: shown, jump: ++this.jumps };
    return null;
  }

  /** Shows the newest messages. */
  goToNewest(): void {
    this.target.value = null;
    this.show(this.room.timeline);
  }

  /** Loads newer messages below an old part of the history, until it meets the newest. */
  async loadForward(): Promise<void> {
    const timeline = this.timeline.value;
    await timeline.loadForward();
    if (timeline === this.timeline.value && this.room.timeline.adopt(timeline)) this.show(this.room.timeline);
  }

  /** An event for a quotation: undefined while it is fetched, null where it cannot be. */
  event(eventId: string): Signal<TimelineEvent | null | undefined> {
    const loaded = this.room.timeline.get(eventId) ?? this.timeline.value.get(eventId);
    const known = this.fetched.get(eventId);
    if (known !== undefined) return known;
    const found = signal<TimelineEvent | null | undefined>(loaded);
    this.fetched.set(eventId, found);
    for (const key of this.fetched.keys()) {
      if (this.fetched.size <= FETCHED_KEPT) break;
      this.fetched.delete(key);
    }
    if (loaded === undefined) void this.fetch(eventId, found);
    return found;
  }

  thread(root: string): Thread {
    return new Thread(this.chat.api, this.room.timeline, root);
  }

  filesIn(thread: string | undefined): Signal<Attachment[]> {
    const place = thread ?? "";
    const files = this.attachments.get(place) ?? signal<Attachment[]>([]);
    this.attachments.set(place, files);
    return files;
  }

  /** Reacts, or takes the reaction back. It is shown at once. */
  async react(event: TimelineEvent, key: string): Promise<void> {
    const { me } = this.chat;
    const own = event.reactions.get(key)?.get(me);
    if (own === ON_ITS_WAY) return;
    if (own !== undefined) {
      event.removeReaction(key, me);
      try {
        await this.chat.sending.redact(this.room.id, own);
      } catch (error) {
        event.addReaction(key, me, own);
        throw error;
      }
      return;
    }
    event.addReaction(key, me, ON_ITS_WAY);
    try {
      const relation = { rel_type: "m.annotation", event_id: event.id, key };
      const id = await this.chat.sending.quietly(this.room, "m.reaction", { "m.relates_to": relation });
      if (event.reactions.get(key)?.get(me) === ON_ITS_WAY) event.addReaction(key, me, id);
    } catch (error) {
      event.removeReaction(key, me);
      throw error;
    }
  }

  async delete(event: TimelineEvent): Promise<void> {
    await this.chat.sending.redact(this.room.id, event.id);
  }

  retry(event: TimelineEvent): void {
    this.chat.sending.retry(this.room, event);
  }

  giveUp(event: TimelineEvent): void {
    this.room.timeline.drop(event);
  }

  /** Goes on in the room that replaced this one. */
  async follow(successor: string): Promise<void> {
    if (this.chat.rooms.get(successor)?.membership.value === "join") return;
    const server = this.room.creator.value?.replace(/^[^:]*:/, "") ?? "";
    await this.chat.api.post(path`/_matrix/client/v3/join/${successor}`, {}, { query: { server_name: server, via: server } });
  }

  async joinAgain(): Promise<void> {
    await this.chat.api.post(path`/_matrix/client/v3/join/${this.room.id}`);
  }

  private show(timeline: Timeline): void {
    if (timeline === this.timeline.value) return;
    this.stopFollowing();
    this.stopFollowing = () => {};
    if (timeline !== this.room.timeline) {
      const follower = (raw: RawEvent) => timeline.hear(raw);
      this.room.timeline.followers.add(follower);
      this.stopFollowing = () => this.room.timeline.followers.delete(follower);
    }
    this.timeline.value = timeline;
  }

  private async fetch(eventId: string, into: Signal<TimelineEvent | null | undefined>): Promise<void> {
    try {
      const raw = await this.chat.api.get<RawEvent>(path`/_matrix/client/v3/rooms/${this.room.id}/event/${eventId}`);
      const loaded = this.room.timeline.get(eventId);
      into.value = loaded ?? bundled(raw);
    } catch {
      into.value = null;
    }
  }
}

const ON_ITS_WAY = "~";

/** An event with the edit that came with it. */
function bundled(raw: RawEvent): TimelineEvent {
  const event = new TimelineEvent(raw);
  event.takeBundled();
  return event;
}
