// Unsent drafts, kept over reloads.

import { asArray, asRecord, asString } from "../server/events.ts";
import type { BrowserStorage } from "../session/session.ts";
import type { Mention } from "./markdown.ts";

export interface Draft {
  text: string;
  mentions: Mention[];
  /** The event that the draft replies to, and the event that it edits. */
  replyTo: string | null;
  editing: string | null;
}

export const EMPTY_DRAFT: Draft = { text: "", mentions: [], replyTo: null, editing: null };

const STORAGE_KEY = "parlour.drafts";
/** Beyond this number the oldest drafts are dropped. */
const MAX_DRAFTS = 100;

/** Deletes all drafts in this browser, so that nothing stays behind after signing out. */
export function deleteDrafts(storage: BrowserStorage): void {
  storage.removeItem(STORAGE_KEY);
}

export class Drafts {
  constructor(
    private readonly storage: BrowserStorage,
    private readonly me: string,
  ) {}

  get(place: string): Draft {
    const draft = asRecord(this.readAll()[place]);
    if (draft === undefined) return EMPTY_DRAFT;
    return {
      text: asString(draft["text"]) ?? "",
      mentions: asArray(draft["mentions"]).flatMap((mention) => {
        const { label, id } = asRecord(mention) ?? {};
        return typeof label === "string" && typeof id === "string" ? [{ label, id }] : [];
      }),
      replyTo: asString(draft["replyTo"]) ?? null,
      editing: asString(draft["editing"]) ?? null,
    };
  }

  /** Returns the text of each draft, by room or thread. */
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
      // The storage is full or blocked: the draft lives as long as the page.
    }
  }

  /** Reads the drafts of this user; those of another user of this browser are ignored. */
  private readAll(): Record<string, unknown> {
    try {
      const stored = asRecord(JSON.parse(this.storage.getItem(STORAGE_KEY) ?? "null"));
      return stored?.["user"] === this.me ? (asRecord(stored["drafts"]) ?? {}) : {};
    } catch {
      return {};
    }
  }
}
