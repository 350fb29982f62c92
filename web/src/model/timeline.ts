// The events of one room that are loaded, in order, with what was said about them: edits, reactions, redactions.

import { signal, type Signal } from "@preact/signals";
import { path, type Api } from "./api.ts";
import { record, relationOf, text, type Content, type RawEvent, type Relation } from "./events.ts";

export type SendState = "sending" | "sent" | "failed";

/** One event of a timeline. Views read `changed` to be told when something about it changes. */
export class TimelineEvent {
  readonly changed = signal(0);
  /** Names the event for as long as the page is open: the local echo and the event that it becomes are one. */
  readonly key: string;
  sendState: SendState = "sent";
  /** Why it could not be sent. */
  problem: string | null = null;
  /** The newest edit, by the event's own sender. */
  edit: RawEvent | null = null;
  /** Reactions: key → sender → the reaction's event id. */
  reactions = new Map<string, Map<string, string>>();
  /** What a thread's root knows of its thread. */
  thread: { count: number; latest: RawEvent | null } | null = null;

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

  get isEdited(): boolean {
    return this.edit !== null && !this.isRedacted;
  }

  get isEncrypted(): boolean {
    return this.raw.type === "m.room.encrypted" && !this.isRedacted;
  }

  get relation(): Relation {
    return relationOf(this.raw.content);
  }

  /** The content to show: that of the newest edit, if there is one. */
  get content(): Content {
    const edited = this.isEdited ? record(this.edit?.content["m.new_content"]) : undefined;
    return edited ?? this.raw.content;
  }

  touch(): void {
    this.changed.value += 1;
  }
}

interface Messages {
  chunk: RawEvent[];
  start: string;
  end?: string;
}

const PAGE = 50;
/** How many pages are fetched to close the gap that a limited sync leaves; then the older part is let go. */
const GAP_PAGES = 10;

/** Where a timeline goes on: a token to ask with, or null where there is nothing more. */
type Edge = { token: string | null; loading: boolean };

export class Timeline {
  /** Goes up whenever events come or go. */
  readonly changed = signal(0);
  readonly loadingBack: Signal<boolean> = signal(false);
  readonly loadingForward: Signal<boolean> = signal(false);
  events: TimelineEvent[] = [];
  /** Own events that are not back from the server yet, in the order of sending. */
  pending: TimelineEvent[] = [];

  private readonly byId = new Map<string, TimelineEvent>();
  /** What came before the event that it is about: by the target's id. */
  private readonly early = new Map<string, RawEvent[]>();
  private back: Edge = { token: null, loading: false };
  private forward: Edge = { token: null, loading: false };
  /** The updates that came while a gap is being closed: they go after it. */
  private heldUp: [RawEvent[], boolean, string | undefined][] | null = null;

  constructor(
    private readonly api: Api,
    readonly roomId: string,
    /** Whether new events are appended; a timeline around an old event is not, until it reaches the present. */
    public live = true,
  ) {}

  get(eventId: string): TimelineEvent | undefined {
    return this.byId.get(eventId);
  }

  get canGoBack(): boolean {
    return this.back.token !== null;
  }

  get canGoForward(): boolean {
    return !this.live && this.forward.token !== null;
  }

  /** The newest event that is at the server. */
  get last(): TimelineEvent | undefined {
    return this.events.at(-1);
  }

  /** Takes what a sync says of the room. */
  update(events: RawEvent[], limited: boolean, prevBatch: string | undefined): void {
    if (this.heldUp !== null) {
      this.heldUp.push([events, limited, prevBatch]);
      return;
    }
    const known = this.events.length > 0;
    if (limited && known) {
      void this.closeGap(events, prevBatch ?? null);
      return;
    }
    if (!known && prevBatch !== undefined) this.back.token = prevBatch;
    this.append(events);
  }

  /** Adds events at the end. What is there already stays as it is. */
  append(events: RawEvent[]): void {
    for (const raw of events) {
      this.settlePending(raw);
      this.place(raw, "end");
    }
    this.changed.value += 1;
  }

  async loadBack(): Promise<void> {
    await this.load(this.back, "b", this.loadingBack);
  }

  async loadForward(): Promise<void> {
    await this.load(this.forward, "f", this.loadingForward);
    if (this.forward.token === null) this.live = true;
  }

  /** Loads what surrounds an event into a timeline of its own. */
  static async around(api: Api, roomId: string, eventId: string): Promise<Timeline> {
    interface Context {
      event: RawEvent;
      events_before?: RawEvent[];
      events_after?: RawEvent[];
      start?: string;
      end?: string;
    }
    const context = await api.get<Context>(path`/_matrix/client/v3/rooms/${roomId}/context/${eventId}`, {
      limit: PAGE,
      filter: JSON.stringify({ lazy_load_members: true }),
    });
    const timeline = new Timeline(api, roomId, false);
    timeline.append([...(context.events_before ?? []).reverse(), context.event, ...(context.events_after ?? [])]);
    timeline.back.token = context.start ?? null;
    timeline.forward.token = context.end ?? null;
    return timeline;
  }

  /** Adds a local echo. */
  echo(event: TimelineEvent): void {
    this.pending.push(event);
    this.changed.value += 1;
  }

  /** Takes a local echo away: it was given up. */
  drop(event: TimelineEvent): void {
    this.pending = this.pending.filter((other) => other !== event);
    this.changed.value += 1;
  }

  /** The server has stored the local echo as this event. */
  stored(event: TimelineEvent, eventId: string): void {
    if (!this.pending.includes(event)) return;
    event.raw = { ...event.raw, event_id: eventId };
    event.sendState = "sent";
    event.touch();
    if (this.byId.has(eventId)) this.drop(event);
  }

  private settlePending(raw: RawEvent): void {
    const transaction = raw.unsigned?.transaction_id;
    const echo = this.pending.find(({ key, id }) => key === transaction || id === raw.event_id);
    if (echo === undefined) return;
    this.pending = this.pending.filter((other) => other !== echo);
    if (this.byId.has(raw.event_id)) return;
    echo.raw = raw;
    echo.sendState = "sent";
    this.insert(echo, "end");
    echo.touch();
  }

  private place(raw: RawEvent, end: "start" | "end"): void {
    if (this.byId.has(raw.event_id)) return;
    this.insert(new TimelineEvent(raw), end);
  }

  private insert(event: TimelineEvent, end: "start" | "end"): void {
    this.byId.set(event.id, event);
    if (end === "end") this.events.push(event);
    else this.events.unshift(event);
    this.takeBundled(event);
    for (const about of this.early.get(event.id) ?? []) this.relate(about, event);
    this.early.delete(event.id);
    this.relateTo(event.raw);
  }

  private takeBundled(event: TimelineEvent): void {
    const bundled = event.raw.unsigned?.["m.relations"];
    const edit = record(bundled?.["m.replace"]);
    if (edit?.["content"] !== undefined) this.relate(edit as unknown as RawEvent, event);
    const thread = record(bundled?.["m.thread"]);
    if (thread !== undefined) {
      const latest = thread["latest_event"] as RawEvent | undefined;
      event.thread = { count: Number(thread["count"] ?? 0), latest: latest ?? null };
    }
  }

  private relateTo(raw: RawEvent): void {
    const target = raw.type === "m.room.redaction" ? redactedBy(raw) : relationOf(raw.content).target;
    if (target === undefined) return;
    const event = this.byId.get(target);
    if (event !== undefined) this.relate(raw, event);
    else if (raw.type === "m.room.redaction" || isAnnotation(raw)) {
      this.early.set(target, [...(this.early.get(target) ?? []), raw]);
    }
  }

  private relate(raw: RawEvent, event: TimelineEvent): void {
    const { type, key } = relationOf(raw.content);
    if (raw.type === "m.room.redaction") this.redact(event, raw);
    else if (type === "m.replace" && raw.sender === event.sender) {
      if (event.edit === null || event.edit.origin_server_ts <= raw.origin_server_ts) event.edit = raw;
    } else if (type === "m.annotation" && key !== undefined && !raw.unsigned?.redacted_because) {
      const senders = event.reactions.get(key) ?? new Map<string, string>();
      event.reactions.set(key, senders.set(raw.sender, raw.event_id));
    } else if (type === "m.thread" && event.thread?.latest?.event_id !== raw.event_id) {
      // What is bundled counts what was there when the root was fetched; only later replies are added.
      if ((event.thread?.latest?.origin_server_ts ?? 0) <= raw.origin_server_ts) {
        event.thread = { count: (event.thread?.count ?? 0) + 1, latest: raw };
      }
    }
    event.touch();
  }

  private redact(event: TimelineEvent, redaction: RawEvent): void {
    const { target, key } = event.relation;
    const about = target === undefined ? undefined : this.byId.get(target);
    if (about !== undefined && key !== undefined) {
      const senders = about.reactions.get(key);
      if (senders?.get(event.sender) === event.id) senders.delete(event.sender);
      if (senders?.size === 0) about.reactions.delete(key);
    }
    if (about?.edit?.event_id === event.id) about.edit = null;
    about?.touch();
    if (event.isState && event.raw.type !== "m.room.member") {
      event.raw = { ...event.raw, unsigned: { ...event.raw.unsigned, redacted_because: redaction } };
    } else {
      event.raw = { ...event.raw, content: {}, unsigned: { redacted_because: redaction } };
    }
    event.edit = null;
    event.reactions.clear();
  }

  private async load(edge: Edge, dir: "b" | "f", loading: Signal<boolean>): Promise<void> {
    if (edge.token === null || edge.loading) return;
    edge.loading = true;
    loading.value = true;
    try {
      const page = await this.messages(dir, edge.token);
      for (const raw of page.chunk) this.place(raw, dir === "b" ? "start" : "end");
      edge.token = page.end ?? null;
    } finally {
      edge.loading = false;
      loading.value = false;
      this.changed.value += 1;
    }
  }

  private async messages(dir: "b" | "f", from: string): Promise<Messages> {
    return this.api.get<Messages>(path`/_matrix/client/v3/rooms/${this.roomId}/messages`, {
      dir,
      from,
      limit: PAGE,
      filter: JSON.stringify({ lazy_load_members: true }),
    });
  }

  /** The sync left something out before `events`: it is fetched, or everything older is let go. */
  private async closeGap(events: RawEvent[], prevBatch: string | null): Promise<void> {
    this.heldUp = [];
    const { between, edge } = await this.between(prevBatch);
    if (edge !== undefined) this.reset(edge);
    this.append([...between, ...events]);
    const heldUp = this.heldUp;
    this.heldUp = null;
    for (const update of heldUp) this.update(...update);
  }

  /** What lies between the newest known event and the token; `edge` where the known events were not reached. */
  private async between(prevBatch: string | null): Promise<{ between: RawEvent[]; edge?: string | null }> {
    const between: RawEvent[] = [];
    let token = prevBatch;
    try {
      for (let page = 0; page < GAP_PAGES && token !== null; page++) {
        const { chunk, end } = await this.messages("b", token);
        const met = chunk.findIndex(({ event_id }) => this.byId.has(event_id));
        between.unshift(...(met === -1 ? chunk : chunk.slice(0, met)).reverse());
        if (met !== -1 || end === undefined) return { between };
        token = end;
      }
      return { between, edge: token };
    } catch {
      return { between: [], edge: prevBatch };
    }
  }

  private reset(token: string | null): void {
    this.events = [];
    this.byId.clear();
    this.early.clear();
    this.back = { token, loading: false };
  }
}

/** The id of the event that a redaction is about, in the form of any room version. */
export function redactedBy(raw: RawEvent): string | undefined {
  return text(raw.content["redacts"]) ?? raw.redacts;
}

function isAnnotation(raw: RawEvent): boolean {
  const { type } = relationOf(raw.content);
  return type === "m.annotation" || type === "m.replace" || type === "m.thread";
}
