// The loaded events of one room, in order, with their edits, reactions and redactions.

import { type Signal, signal } from "@preact/signals";
import { type Api, path } from "../server/api.ts";
import { asString, type RawEvent, relationOf } from "../server/events.ts";
import { type SendState, TimelineEvent } from "./timelineEvent.ts";

export { type SendState, TimelineEvent };

/** A page of the history; the newest first if it was fetched backwards. */
export interface MessagesPage {
  chunk: RawEvent[];
  end?: string;
  /** Members that lazy loading left out of the syncs. */
  state?: RawEvent[];
}

const PAGE_SIZE = 50;
/** The orders of local echoes start here, after all other events. */
const FIRST_PENDING_ORDER = 1e12;
/** The most pages to fetch for the gap of a limited sync; with a larger gap the older events are dropped. */
const MAX_GAP_PAGES = 10;

/** An end of the loaded history: the token of the next page, or null if there is no more. */
type PaginationEdge = { token: string | null; loading: boolean };

export class Timeline {
  /** Goes up whenever events are added or removed. */
  readonly changed = signal(0);
  readonly loadingBack: Signal<boolean> = signal(false);
  readonly loadingForward: Signal<boolean> = signal(false);
  events: TimelineEvent[] = [];
  /** Goes up when all events were dropped, because the gap to the new ones is too large. */
  readonly resets = signal(0);
  /** Called with each new event. */
  readonly newEventListeners = new Set<(raw: RawEvent) => void>();
  /** Called with the state that comes with the history. */
  onHistoricState: ((events: RawEvent[]) => void) | null = null;
  /** The local echoes of sent events, in the order of sending. */
  pending: TimelineEvent[] = [];

  protected readonly eventsById = new Map<string, TimelineEvent>();
  /** The order of the last event of each sender. */
  readonly lastOrderBySender = new Map<string, number>();

  /** Relations that arrived before their target, by the target's id. */
  private readonly earlyRelations = new Map<string, RawEvent[]>();
  protected back: PaginationEdge = { token: null, loading: false };
  private oldest = 0;
  private newest = 0;
  private forward: PaginationEdge = { token: null, loading: false };
  /** The updates that arrived while a gap is being closed; they are applied after it. */
  private heldUpdates: [RawEvent[], boolean, string | undefined][] | null = null;

  constructor(
    protected readonly api: Api,
    readonly roomId: string,
    /** Whether new events are appended. A timeline around an old event is not live until it reaches the present. */
    public isLive = true,
  ) {}

  get(eventId: string): TimelineEvent | undefined {
    return this.eventsById.get(eventId);
  }

  get canGoBack(): boolean {
    return this.back.token !== null;
  }

  get canGoForward(): boolean {
    return !this.isLive && this.forward.token !== null;
  }

  /** The newest event that the server has. */
  get last(): TimelineEvent | undefined {
    return this.events.at(-1);
  }

  /** Applies a sync of the room. */
  update(events: RawEvent[], limited: boolean, prevBatch: string | undefined): void {
    if (this.heldUpdates !== null) {
      this.heldUpdates.push([events, limited, prevBatch]);
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

  /** Adds events at the end. Known events stay as they are. */
  append(events: RawEvent[]): void {
    for (const raw of events) {
      const isNew = !this.eventsById.has(raw.event_id);
      this.replaceEcho(raw);
      this.addEvent(raw, "end");
      if (isNew) for (const listener of this.newEventListeners) listener(raw);
    }
    this.changed.value += 1;
  }

  /** Applies an edit, reaction or redaction that has no place in this timeline to its target here. */
  applyRelatedEvent(raw: RawEvent): void {
    const target = relationTarget(raw);
    if (target === undefined || !this.eventsById.has(target) || this.eventsById.has(raw.event_id)) return;
    this.eventsById.set(raw.event_id, new TimelineEvent(raw));
    this.applyToTarget(raw);
  }

  /** Adds the older events of a timeline that overlaps this one. Returns false if they do not overlap. */
  mergeOlder(other: Timeline): boolean {
    const overlapIndex = other.events.findIndex(({ id }) => this.eventsById.has(id));
    if (overlapIndex === -1) return false;
    if (overlapIndex > 0) {
      for (const event of other.events.slice(0, overlapIndex).reverse()) this.addEvent(event.raw, "start");
      this.back = { token: other.back.token, loading: false };
      this.changed.value += 1;
    }
    return true;
  }

  async loadBack(): Promise<void> {
    await this.load(this.back, "b", this.loadingBack);
  }

  async loadForward(): Promise<void> {
    await this.load(this.forward, "f", this.loadingForward);
  }

  /** Loads the surroundings of an event as a separate timeline. */
  static async loadAround(api: Api, roomId: string, eventId: string, onState: Timeline["onHistoricState"] = null): Promise<Timeline> {
    interface Context {
      event: RawEvent;
      events_before?: RawEvent[];
      events_after?: RawEvent[];
      start?: string;
      end?: string;
      state?: RawEvent[];
    }
    const context = await api.get<Context>(path`/_matrix/client/v3/rooms/${roomId}/context/${eventId}`, {
      limit: PAGE_SIZE,
      filter: JSON.stringify({ lazy_load_members: true }),
    });
    const timeline = new Timeline(api, roomId, false);
    timeline.onHistoricState = onState;
    onState?.(context.state ?? []);
    timeline.append([...(context.events_before ?? []).reverse(), context.event, ...(context.events_after ?? [])]);
    timeline.back.token = context.start ?? null;
    timeline.forward.token = context.end ?? null;
    return timeline;
  }

  addEcho(event: TimelineEvent): void {
    event.order = FIRST_PENDING_ORDER + ++this.newest;
    this.pending.push(event);
    const edited = this.editTargetOf(event);
    if (edited !== undefined) {
      edited.pendingEdit = event;
      edited.notifyChanged();
    }
    this.changed.value += 1;
  }

  /** Removes a discarded local echo. */
  removeEcho(event: TimelineEvent): void {
    this.detachEcho(event);
    this.changed.value += 1;
  }

  /** Notes that the server stored a local echo under this event id. */
  markEchoStored(event: TimelineEvent, eventId: string): void {
    if (!this.pending.includes(event)) return;
    event.raw = { ...event.raw, event_id: eventId };
    event.sendState = "sent";
    event.notifyChanged();
    if (this.eventsById.has(eventId)) this.removeEcho(event);
  }

  private replaceEcho(raw: RawEvent): void {
    const transaction = raw.unsigned?.transaction_id;
    const echo = this.pending.find(({ key, id }) => key === transaction || id === raw.event_id);
    if (echo === undefined) return;
    this.detachEcho(echo);
    if (this.eventsById.has(raw.event_id)) return;
    echo.raw = raw;
    echo.sendState = "sent";
    this.insert(echo, "end");
    echo.notifyChanged();
  }

  private detachEcho(echo: TimelineEvent): void {
    this.pending = this.pending.filter((other) => other !== echo);
    const edited = this.editTargetOf(echo);
    if (edited?.pendingEdit === echo) {
      edited.pendingEdit = null;
      edited.notifyChanged();
    }
  }

  private editTargetOf(echo: TimelineEvent): TimelineEvent | undefined {
    const { type, target } = echo.relation;
    return type === "m.replace" && target !== undefined ? this.eventsById.get(target) : undefined;
  }

  protected addEvent(raw: RawEvent, end: "start" | "end"): void {
    if (this.eventsById.has(raw.event_id)) return;
    this.insert(new TimelineEvent(raw), end);
  }

  private insert(event: TimelineEvent, end: "start" | "end"): void {
    this.eventsById.set(event.id, event);
    event.order = end === "end" ? ++this.newest : --this.oldest;
    if (end === "end") this.events.push(event);
    else this.events.unshift(event);
    if (end === "end") this.lastOrderBySender.set(event.sender, event.order);
    else if (!this.lastOrderBySender.has(event.sender)) this.lastOrderBySender.set(event.sender, event.order);
    event.applyBundledRelations();
    for (const about of this.earlyRelations.get(event.id) ?? []) this.applyRelation(about, event);
    this.earlyRelations.delete(event.id);
    this.applyToTarget(event.raw);
  }

  private applyToTarget(raw: RawEvent): void {
    const target = relationTarget(raw);
    if (target === undefined) return;
    const event = this.eventsById.get(target);
    if (event !== undefined) this.applyRelation(raw, event);
    else this.earlyRelations.set(target, [...(this.earlyRelations.get(target) ?? []), raw]);
  }

  private applyRelation(raw: RawEvent, event: TimelineEvent): void {
    const { type, key } = relationOf(raw.content);
    if (raw.type === "m.room.redaction") this.redact(event, raw);
    else if (type === "m.replace") event.addEdit(raw);
    else if (type === "m.thread") event.addReply(raw);
    else if (key !== undefined) event.addReaction(key, raw.sender, raw.event_id);
  }

  private redact(event: TimelineEvent, redaction: RawEvent): void {
    if (event.isRedacted) return;
    const { target } = event.relation;
    if (target !== undefined) this.eventsById.get(target)?.removeRelation(event);
    event.redact(redaction);
  }

  private async load(edge: PaginationEdge, dir: "b" | "f", loading: Signal<boolean>): Promise<void> {
    if (edge.token === null || edge.loading) return;
    edge.loading = true;
    loading.value = true;
    try {
      const page = await this.fetchPage(dir, edge.token);
      // All events may have been dropped in the meantime.
      if (edge !== this.back && edge !== this.forward) return;
      for (const raw of page.chunk) this.addEvent(raw, dir === "b" ? "start" : "end");
      edge.token = page.end ?? null;
    } finally {
      edge.loading = false;
      loading.value = false;
      this.changed.value += 1;
    }
  }

  protected async fetchPage(dir: "b" | "f", from: string): Promise<MessagesPage> {
    const messages = await this.api.get<MessagesPage>(path`/_matrix/client/v3/rooms/${this.roomId}/messages`, {
      dir,
      from,
      limit: PAGE_SIZE,
      filter: JSON.stringify({ lazy_load_members: true }),
    });
    this.onHistoricState?.(messages.state ?? []);
    return messages;
  }

  /** Fetches the events that a limited sync left out before `events`, or drops everything older. */
  private async closeGap(events: RawEvent[], prevBatch: string | null): Promise<void> {
    this.heldUpdates = [];
    const { between, edge } = await this.fetchGap(prevBatch);
    if (edge !== undefined) this.clear(edge);
    this.append([...between, ...events]);
    const updates = this.heldUpdates;
    this.heldUpdates = null;
    for (const update of updates) this.update(...update);
  }

  /**
   * Fetches the events between the newest known one and the token. `edge` is set if the known events were not reached.
   */
  private async fetchGap(prevBatch: string | null): Promise<{ between: RawEvent[]; edge?: string | null }> {
    const between: RawEvent[] = [];
    let token = prevBatch;
    try {
      for (let page = 0; page < MAX_GAP_PAGES && token !== null; page++) {
        const { chunk, end } = await this.fetchPage("b", token);
        const knownIndex = chunk.findIndex(({ event_id }) => this.eventsById.has(event_id));
        between.unshift(...(knownIndex === -1 ? chunk : chunk.slice(0, knownIndex)).reverse());
        if (knownIndex !== -1 || end === undefined) return { between };
        token = end;
      }
      return { between, edge: token };
    } catch {
      return { between: [], edge: prevBatch };
    }
  }

  private clear(token: string | null): void {
    this.events = [];
    this.eventsById.clear();
    this.earlyRelations.clear();
    this.lastOrderBySender.clear();
    this.back = { token, loading: false };
    this.loadingBack.value = false;
    this.resets.value += 1;
  }
}

/** Returns the id of the redacted event, in any room version. */
export function redactionTarget(raw: RawEvent): string | undefined {
  return asString(raw.content["redacts"]) ?? raw.redacts;
}

/** Returns the event that an edit, reaction, redaction or threaded reply belongs to. A plain reply belongs to none. */
function relationTarget(raw: RawEvent): string | undefined {
  if (raw.type === "m.room.redaction") return redactionTarget(raw);
  const { type, target } = relationOf(raw.content);
  return type === "m.annotation" || type === "m.replace" || type === "m.thread" ? target : undefined;
}
