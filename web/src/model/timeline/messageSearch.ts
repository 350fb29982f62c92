// Searches for messages.

import { signal } from "@preact/signals";
import { type Api, messageOf } from "../server/api.ts";
import { asArray, asNumber, asRecord, asString, asStrings, type RawEvent } from "../server/events.ts";

export interface SearchHit {
  roomId: string;
  event: RawEvent;
}

const PAGE_SIZE = 20;

export class MessageSearch {
  readonly hits = signal<SearchHit[]>([]);
  /** The total number of results; null before the first search. */
  readonly count = signal<number | null>(null);
  /** The words to highlight. */
  readonly words = signal<string[]>([]);
  readonly loading = signal(false);
  readonly problem = signal<string | null>(null);
  readonly hasMore = signal(false);

  private next: string | undefined;
  private term = "";
  private rooms: string[] | undefined;
  private requestCount = 0;

  constructor(private readonly api: Api) {}

  /** Searches in one room, or in all rooms. */
  async start(term: string, roomId: string | null): Promise<void> {
    this.term = term;
    this.rooms = roomId === null ? undefined : [roomId];
    this.next = undefined;
    this.hits.value = [];
    this.count.value = null;
    await this.load();
  }

  async loadMore(): Promise<void> {
    if (this.loading.value || !this.hasMore.value) return;
    await this.load();
  }

  private async load(): Promise<void> {
    const requestNumber = ++this.requestCount;
    this.loading.value = true;
    this.problem.value = null;
    try {
      const found = await this.fetchPage();
      if (requestNumber !== this.requestCount) return;
      const results = asArray(found["results"]).map((result) => asRecord(asRecord(result)?.["result"]));
      const hits = results.flatMap((event) => {
        const roomId = asString(event?.["room_id"]);
        return roomId === undefined ? [] : [{ roomId, event: event as unknown as RawEvent }];
      });
      this.hits.value = [...this.hits.value, ...hits];
      this.count.value = asNumber(found["count"]) ?? this.hits.value.length;
      this.words.value = [...new Set([...asStrings(found["highlights"]), ...this.term.split(/\s+/)])].filter((word) => word !== "");
      this.next = asString(found["next_batch"]);
      this.hasMore.value = this.next !== undefined;
    } catch (error) {
      if (requestNumber === this.requestCount) this.problem.value = messageOf(error);
    } finally {
      if (requestNumber === this.requestCount) this.loading.value = false;
    }
  }

  private async fetchPage(): Promise<Record<string, unknown>> {
    const answer = await this.api.post<Record<string, unknown>>(
      "/_matrix/client/v3/search",
      {
        search_categories: {
          room_events: {
            search_term: this.term,
            keys: ["content.body"],
            order_by: "recent",
            filter: { limit: PAGE_SIZE, ...(this.rooms === undefined ? {} : { rooms: this.rooms }) },
            event_context: { before_limit: 0, after_limit: 0 },
          },
        },
      },
      { query: { next_batch: this.next } },
    );
    return asRecord(asRecord(answer["search_categories"])?.["room_events"]) ?? {};
  }
}

/** Splits a text so that the searched words can be highlighted. */
export function splitAtWords(body: string, words: string[]): { text: string; found: boolean }[] {
  const patterns = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (patterns.length === 0) return [{ text: body, found: false }];
  return body
    .split(new RegExp(`(${patterns.join("|")})`, "giu"))
    .map((part, at) => ({ text: part, found: at % 2 === 1 }))
    .filter(({ text }) => text !== "");
}
