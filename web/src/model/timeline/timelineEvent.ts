// One event of a timeline, with its edits, reactions, thread and redaction.

import { signal } from "@preact/signals";
import { asNumber, asRecord, type Content, type RawEvent, type Relation, relationOf } from "../server/events.ts";

export type SendState = "sending" | "sent" | "failed";

/** Views read `changed` so that they are drawn again when something about the event changes. */
export class TimelineEvent {
  readonly changed = signal(0);
  /** Identifies the event while the page is open: the same for the local echo and the stored event. */
  readonly key: string;
  /** The position in the timeline: later events have higher numbers. */
  order = 0;
  sendState: SendState = "sent";
  /** Why the event could not be sent. */
  problem: string | null = null;
  /** An edit of this user that the server has not confirmed yet. */
  pendingEdit: TimelineEvent | null = null;
  /** Reactions: key → sender → event id of the reaction. */
  reactions = new Map<string, Map<string, string>>();
  /** The thread that starts at this event. */
  thread: { count: number; latest: RawEvent | null } | null = null;
  /** Whether this is an edit that was redacted: then nothing is shown for it. */
  isRedactedEdit = false;

  /** The edits by the sender of the event, oldest first. */
  private edits: RawEvent[] = [];

  constructor(
    public raw: RawEvent,
    key?: string,
  ) {
    this.key = key ?? raw.event_id;
  }

  get id(): string {
    return this.raw.event_id;
  }

  get sender(): string {
    return this.raw.sender;
  }

  get time(): number {
    return this.raw.origin_server_ts;
  }

  get isState(): boolean {
    return this.raw.state_key !== undefined;
  }

  get isRedacted(): boolean {
    return this.raw.unsigned?.redacted_because !== undefined;
  }

  get edit(): RawEvent | null {
    return this.pendingEdit?.raw ?? this.edits.at(-1) ?? null;
  }

  get isEdited(): boolean {
    return this.edit !== null && !this.isRedacted;
  }

  get isEncrypted(): boolean {
    return this.raw.type === "m.room.encrypted" && !this.isRedacted;
  }

  /** Whether the server has the event: only then can others refer to it. */
  get isStored(): boolean {
    return !this.raw.event_id.startsWith("~");
  }

  get relation(): Relation {
    return relationOf(this.raw.content);
  }

  /** The content to show: that of the newest edit, if there is one. */
  get content(): Content {
    const edited = this.isEdited ? asRecord(this.edit?.content["m.new_content"]) : undefined;
    return edited ?? this.raw.content;
  }

  addEdit(edit: RawEvent): void {
    const isValid =
      edit.sender === this.sender &&
      edit.type === this.raw.type &&
      !this.isState &&
      edit.unsigned?.redacted_because === undefined &&
      asRecord(edit.content["m.new_content"]) !== undefined;
    if (!isValid || this.edits.some(({ event_id }) => event_id === edit.event_id)) return;
    this.edits = [...this.edits, edit].sort((a, b) => a.origin_server_ts - b.origin_server_ts);
    this.notifyChanged();
  }

  addReaction(key: string, sender: string, eventId: string): void {
    const senders = this.reactions.get(key) ?? new Map<string, string>();
    this.reactions.set(key, senders.set(sender, eventId));
    this.notifyChanged();
  }

  removeReaction(key: string, sender: string): void {
    const senders = this.reactions.get(key);
    senders?.delete(sender);
    if (senders?.size === 0) this.reactions.delete(key);
    this.notifyChanged();
  }

  /** Counts a reply in the thread that starts here. */
  addReply(reply: RawEvent): void {
    if (reply.unsigned?.redacted_because !== undefined) return;
    const { count, latest } = this.thread ?? { count: 0, latest: null };
    // The bundled count includes replies up to the time of the request; only later replies are added.
    if (latest !== null && (latest.event_id === reply.event_id || latest.origin_server_ts > reply.origin_server_ts)) return;
    this.thread = { count: count + 1, latest: reply };
    this.notifyChanged();
  }

  removeReply(eventId: string): void {
    if (this.thread === null) return;
    const latest = this.thread.latest?.event_id === eventId ? null : this.thread.latest;
    const count = this.thread.count - 1;
    this.thread = count > 0 ? { count, latest } : null;
    this.notifyChanged();
  }

  /** Applies the relations that the server bundled with the event. */
  applyBundledRelations(): void {
    const bundled = this.raw.unsigned?.["m.relations"];
    const edit = asRecord(bundled?.["m.replace"]);
    if (asRecord(edit?.["content"]) !== undefined) this.addEdit(edit as unknown as RawEvent);
    const thread = asRecord(bundled?.["m.thread"]);
    if (thread === undefined) return;
    const latest = asRecord(thread["latest_event"]) as unknown as RawEvent | undefined;
    this.thread = { count: asNumber(thread["count"]) ?? 0, latest: latest ?? null };
  }

  /** Removes an edit, reaction or reply that was redacted. */
  removeRelation(from: TimelineEvent): void {
    const { type, key } = from.relation;
    if (type === "m.replace") this.edits = this.edits.filter(({ event_id }) => event_id !== from.id);
    else if (type === "m.thread") this.removeReply(from.id);
    else if (key !== undefined && this.reactions.get(key)?.get(from.sender) === from.id) this.removeReaction(key, from.sender);
    this.notifyChanged();
  }

  redact(redaction: RawEvent): void {
    this.isRedactedEdit = this.relation.type === "m.replace";
    const keepsContent = this.isState && this.raw.type !== "m.room.member";
    const unsigned = { ...this.raw.unsigned, redacted_because: redaction };
    this.raw = { ...this.raw, content: keepsContent ? this.raw.content : {}, unsigned };
    this.edits = [];
    this.pendingEdit = null;
    this.reactions.clear();
    this.notifyChanged();
  }

  notifyChanged(): void {
    this.changed.value += 1;
  }
}
