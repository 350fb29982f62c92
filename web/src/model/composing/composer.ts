// What is being written in one place: a room, or a thread of it.

import { type Signal, signal } from "@preact/signals";
import type { Chat } from "../client.ts";
import { record, strings, text } from "../server/events.ts";
import type { Conversation } from "../timeline/conversation.ts";
import type { TimelineEvent } from "../timeline/timelineEvent.ts";
import { type Draft, type Drafts, EMPTY } from "./drafts.ts";
import type { Mention } from "./markdown.ts";
import { bodyOf, captionContent, editContent, messageContent, relationTo } from "./messageContent.ts";

export interface ThreadPlace {
  root: string;
  /** The last event there. */
  last: () => string;
  /** Finds an event of the thread. */
  get: (eventId: string) => TimelineEvent | undefined;
}

export class Composer {
  readonly draft: Signal<Draft>;
  /** Goes up when the field should have the focus. */
  readonly wanted = signal(0);
  /** What was being written when an edit began. */
  private laidAside: Draft | null = null;
  private readonly place: string;

  constructor(
    private readonly chat: Chat,
    private readonly conversation: Conversation,
    private readonly drafts: Drafts,
    readonly thread?: ThreadPlace,
  ) {
    this.place = thread === undefined ? conversation.room.id : `${conversation.room.id} ${thread.root}`;
    this.draft = signal(drafts.get(this.place));
  }

  write(text: string): void {
    this.change({ text });
    if (this.draft.value.editing === null) {
      if (text === "") this.conversation.typist.stopped();
      else this.conversation.typist.typed();
    }
  }

  /** Notes that a label in the text names somebody. */
  mention(mention: Mention): void {
    const others = this.draft.value.mentions.filter(({ label }) => label !== mention.label);
    this.change({ mentions: [...others, mention] });
  }

  reply(event: TimelineEvent): void {
    if (this.draft.value.editing !== null) this.cancel();
    this.change({ replyTo: event.id });
    this.wanted.value += 1;
  }

  edit(event: TimelineEvent): void {
    if (this.draft.value.editing === null) this.laidAside = this.draft.value;
    const { content } = event;
    const mentioned = strings(record(content["m.mentions"])?.["user_ids"]);
    const mentions = mentioned.map((id) => ({ label: `@${this.conversation.room.memberName(id)}`, id }));
    const prefix = text(content["msgtype"]) === "m.emote" ? "/me " : "";
    this.set({ text: prefix + bodyOf(content), mentions, replyTo: null, editing: event.id });
    this.wanted.value += 1;
  }

  /** Edits the last own message, if there is one. Returns whether there is. */
  editLast(): boolean {
    const { room } = this.conversation;
    const own = room.timeline.events.findLast((event) => this.mayEdit(event) && this.isHere(event));
    if (own !== undefined) this.edit(own);
    return own !== undefined;
  }

  mayEdit(event: TimelineEvent): boolean {
    const isText = ["m.text", "m.emote", "m.notice"].includes(text(event.content["msgtype"]) ?? "");
    return (
      event.sender === this.chat.me &&
      event.raw.type === "m.room.message" &&
      isText &&
      !event.isRedacted &&
      event.isStored &&
      event.relation.type !== "m.replace"
    );
  }

  /** Gives up the answer or the edit. */
  cancel(): void {
    if (this.draft.value.editing !== null) this.set(this.laidAside ?? EMPTY);
    else this.change({ replyTo: null });
    this.laidAside = null;
    this.wanted.value += 1;
  }

  /** Sends what is written. `clean` makes sure that the HTML is harmless. */
  send(clean: (html: string) => string): void {
    const { text, mentions, editing } = this.draft.value;
    const { room } = this.conversation;
    if (text.trim() === "") return;
    const written = { text, mentions, clean, replyTo: this.answered(), thread: this.threadPlace() };
    if (editing === null) {
      this.chat.sending.send(room, messageContent(written));
      this.set(EMPTY);
    } else {
      const edited = this.find(editing);
      if (edited !== undefined && bodyOf(edited.content) !== text) this.chat.sending.send(room, editContent(written, edited));
      this.set(this.laidAside ?? EMPTY);
      this.laidAside = null;
    }
    this.conversation.typist.stopped();
  }

  /** Uploads the files and sends them, in their order. What fails stays. The text stands under the first of them. */
  async sendFiles(clean: (html: string) => string): Promise<void> {
    const { room } = this.conversation;
    const files = this.conversation.filesIn(this.thread?.root);
    const { text, mentions, editing } = this.draft.value;
    let caption = text.trim() === "" || editing !== null ? null : captionContent({ text, mentions, clean });
    const relation = relationTo({ replyTo: this.answered(), thread: this.threadPlace() });
    for (const file of files.value) {
      const content = await file.upload(caption);
      if (content === null) continue;
      this.chat.sending.send(room, { ...content, ...(relation === undefined ? {} : { "m.relates_to": relation }) });
      files.value = files.value.filter((other) => other !== file);
      if (editing === null && this.draft.value.text === text) this.set(EMPTY);
      caption = null;
    }
    this.conversation.typist.stopped();
  }

  find(eventId: string): TimelineEvent | undefined {
    const { room, timeline } = this.conversation;
    return room.timeline.get(eventId) ?? timeline.value.get(eventId) ?? this.thread?.get(eventId) ?? this.conversation.event(eventId).value ?? undefined;
  }

  private answered(): TimelineEvent | undefined {
    const { replyTo } = this.draft.value;
    return replyTo === null ? undefined : this.find(replyTo);
  }

  private threadPlace(): { root: string; last: string } | undefined {
    return this.thread === undefined ? undefined : { root: this.thread.root, last: this.thread.last() };
  }

  private isHere({ relation }: TimelineEvent): boolean {
    return this.thread === undefined ? relation.type !== "m.thread" : relation.type === "m.thread" && relation.target === this.thread.root;
  }

  private change(change: Partial<Draft>): void {
    this.set({ ...this.draft.value, ...change });
  }

  private set(draft: Draft): void {
    this.draft.value = draft;
    this.drafts.set(this.place, draft);
  }
}
