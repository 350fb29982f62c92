// What was begun to be written, kept over reloads.

import { list, record, text } from "../server/events.ts";
import type { BrowserStorage } from "../session/session.ts";
import type { Mention } from "./markdown.ts";

export interface Draft {
  text: string;
  mentions: Mention[];
  /** The event that is answered, or edited. */
  replyTo: string | null;
  editing: string | null;
}

export const EMPTY_DRAFT: Draft = { text: "", mentions: [], replyTo: null, editing: null };

const STORAGE_KEY = "parlour.drafts";
/** The oldest drafts are let go beyond so many. */
const MAX_DRAFTS = 100;

/** Lets go of everything that was begun in this browser: whoever signs out leaves nothing behind. */
export function deleteDrafts(storage: BrowserStorage): void {
  storage.removeItem(STORAGE_KEY);
}

export class Drafts {
  constructor(
    private readonly storage: BrowserStorage,
    private readonly me: string,
  ) {}

  get(place: string): Draft {
    const draft = record(this.readAll()[place]);
    if (draft === undefined) return EMPTY_DRAFT;
    return {
      text: text(draft["text"]) ?? "",
      mentions: list(draft["mentions"]).flatMap((mention) => {
        const { label, id } = record(mention) ?? {};
        return typeof label === "string" && typeof id === "string" ? [{ label, id }] : [];
      }),
      replyTo: text(draft["replyTo"]) ?? null,
      editing: text(draft["editing"]) ?? null,
    };
  }

  /** What was begun in each place. */
  draftTexts(): Map<string, string> {
    const texts = Object.keys(this.readAll()).map((place) => [place, this.get(place).text.trim()] as const);
    return new Map(texts.filter(([, begun]) => begun !== ""));
  }

  set(place: string, draft: Draft): void {
    const { [place]: _, ...others } = this.readAll();
    const isEmpty = draft.text === "" && draft.replyTo === null && draft.editing === null;
    const kept = Object.entries(isEmpty ? others : { ...others, [place]: draft }).slice(-MAX_DRAFTS);
    try {
      this.storage.setItem(STORAGE_KEY, JSON.stringify({ user: this.me, drafts: Object.fromEntries(kept) }));
    } catch {
      // The storage is full, or closed: then the draft lives as long as the page.
    }
  }

  /** What another user of this browser began is not for this one. */
  private readAll(): Record<string, unknown> {
    try {
      const stored = record(JSON.parse(this.storage.getItem(STORAGE_KEY) ?? "null"));
      return stored?.["user"] === this.me ? (record(stored["drafts"]) ?? {}) : {};
    } catch {
      return {};
    }
  }
}
