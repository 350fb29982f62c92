// What was begun to be written, kept over reloads.

import { list, record, text } from "../server/events.ts";
import type { Storage } from "../session/session.ts";
import type { Mention } from "./markdown.ts";

export interface Draft {
  text: string;
  mentions: Mention[];
  /** The event that is answered, or edited. */
  replyTo: string | null;
  editing: string | null;
}

export const EMPTY: Draft = { text: "", mentions: [], replyTo: null, editing: null };

const KEY = "parlour.drafts";
/** The oldest drafts are let go beyond so many. */
const KEPT = 100;

/** Lets go of everything that was begun in this browser: whoever signs out leaves nothing behind. */
export function forgetDrafts(storage: Storage): void {
  storage.removeItem(KEY);
}

export class Drafts {
  constructor(
    private readonly storage: Storage,
    private readonly me: string,
  ) {}

  get(place: string): Draft {
    const draft = record(this.all()[place]);
    if (draft === undefined) return EMPTY;
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
  texts(): Map<string, string> {
    const texts = Object.keys(this.all()).map((place) => [place, this.get(place).text.trim()] as const);
    return new Map(texts.filter(([, begun]) => begun !== ""));
  }

  set(place: string, draft: Draft): void {
    const { [place]: _, ...others } = this.all();
    const isEmpty = draft.text === "" && draft.replyTo === null && draft.editing === null;
    const kept = Object.entries(isEmpty ? others : { ...others, [place]: draft }).slice(-KEPT);
    try {
      this.storage.setItem(KEY, JSON.stringify({ user: this.me, drafts: Object.fromEntries(kept) }));
    } catch {
      // The storage is full, or closed: then the draft lives as long as the page.
    }
  }

  /** What another user of this browser began is not for this one. */
  private all(): Record<string, unknown> {
    try {
      const stored = record(JSON.parse(this.storage.getItem(KEY) ?? "null"));
      return stored?.["user"] === this.me ? (record(stored["drafts"]) ?? {}) : {};
    } catch {
      return {};
    }
  }
}
