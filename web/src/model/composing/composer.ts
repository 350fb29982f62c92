// The message that is being written in a room or in a thread of it.

import { type Signal, signal } from "@preact/signals";
import type { Client } from "../client.ts";
import { asRecord, asString, asStrings } from "../server/events.ts";
import type { Conversation } from "../timeline/conversation.ts";
import type { TimelineEvent } from "../timeline/timelineEvent.ts";
import { type Draft, type Drafts, EMPTY_DRAFT } from "./drafts.ts";
import type { Mention } from "./markdown.ts";
import { bodyText, captionContent, editContent, messageContent, relationContent } from "./messageContent.ts";

export interface ComposerThread {
  root: string;
  /** Returns the id of the thread's last event. */
  last: () => string;
  /** Finds an event of the thread. */
  get: (eventId: string) => TimelineEvent | undefined;
}

export class Composer {
  readonly draft: Signal<Draft>;
  /** A counter that goes up when the text field should get the focus. */
  readonly focusRequests = signal(0);
  /** The draft that was being written when an edit began. */
  private savedDraft: Draft | null = null;
  private readonly draftKey: string;

  constructor(
    private readonly client: Client,
    private readonly conversation: Conversation,
    private readonly drafts: Drafts,
    readonly thread?: ComposerThread,
  ) {
    this.draftKey = thread === undefined ? conversation.room.id : `${conversation.room.id} ${thread.root}`;
    this.draft = signal(drafts.get(this.draftKey));
  }

  setText(text: string): void {
    this.updateDraft({ text });
    if (this.draft.value.editing === null) {
      if (text === "") this.conversation.typingNotifier.stopTyping();
      else this.conversation.typingNotifier.keepTyping();
    }
  }

  /** Remembers that a label in the text mentions a user. */
  addMention(mention: Mention): void {
    const others = this.draft.value.mentions.filter(({ label }) => label !== mention.label);
    this.updateDraft({ mentions: [...others, mention] });
  }

  startReply(event: TimelineEvent): void {
    if (this.draft.value.editing !== null) this.cancel();
    this.updateDraft({ replyTo: event.id });
    this.focusRequests.value += 1;
  }

  startEdit(event: TimelineEvent): void {
    if (this.draft.value.editing === null) this.savedDraft = this.draft.value;
    const { content } = event;
    const mentioned = asStrings(asRecord(content["m.mentions"])?.["user_ids"]);
    const mentions = mentioned.map((id) => ({ label: `@${this.conversation.room.memberName(id)}`, id }));
    const prefix = asString(content["msgtype"]) === "m.emote" ? "/me " : "";
    this.setDraft({ text: prefix + bodyText(content), mentions, replyTo: null, editing: event.id });
    this.focusRequests.value += 1;
  }

  /** Starts editing the user's last message. Returns false if there is none. */
  editLastMessage(): boolean {
    const { room } = this.conversation;
    const own = room.timeline.events.findLast((event) => this.mayEdit(event) && this.belongsHere(event));
    if (own !== undefined) this.startEdit(own);
    return own !== undefined;
  }

  mayEdit(event: TimelineEvent): boolean {
    const isText = ["m.text", "m.emote", "m.notice"].includes(asString(event.content["msgtype"]) ?? "");
    return (
      event.sender === this.client.me &&
      event.raw.type === "m.room.message" &&
      isText &&
      !event.isRedacted &&
      event.isStored &&
      event.relation.type !== "m.replace"
    );
  }

  /** Cancels the reply or the edit. */
  cancel(): void {
    if (this.draft.value.editing !== null) this.setDraft(this.savedDraft ?? EMPTY_DRAFT);
    else this.updateDraft({ replyTo: null });
    this.savedDraft = null;
    this.focusRequests.value += 1;
  }

  /** Sends the draft. `clean` makes the HTML harmless. */
  send(clean: (html: string) => string): void {
    const { text, mentions, editing } = this.draft.value;
    const { room } = this.conversation;
    if (text.trim() === "") return;
    const written = { text, mentions, clean, replyTo: this.repliedEvent(), thread: this.threadRelation() };
    if (editing === null) {
      this.client.sendQueue.send(room, messageContent(written));
      this.setDraft(EMPTY_DRAFT);
    } else {
      const edited = this.findEvent(editing);
      if (edited !== undefined && bodyText(edited.content) !== text) this.client.sendQueue.send(room, editContent(written, edited));
      this.setDraft(this.savedDraft ?? EMPTY_DRAFT);
      this.savedDraft = null;
    }
    this.conversation.typingNotifier.stopTyping();
  }

  /**
   * Uploads and sends the files in order. Files that fail stay in the list. The text becomes the caption of the first
   * file.
   */
  async sendAttachments(clean: (html: string) => string): Promise<void> {
    const { room } = this.conversation;
    const files = this.conversation.attachmentsIn(this.thread?.root);
    const { text, mentions, editing } = this.draft.value;
    let caption = text.trim() === "" || editing !== null ? null : captionContent({ text, mentions, clean });
    const relation = relationContent({ replyTo: this.repliedEvent(), thread: this.threadRelation() });
    for (const file of files.value) {
      const content = await file.upload(caption);
      if (content === null) continue;
      this.client.sendQueue.send(room, { ...content, ...(relation === undefined ? {} : { "m.relates_to": relation }) });
      files.value = files.value.filter((other) => other !== file);
      if (editing === null && this.draft.value.text === text) this.setDraft(EMPTY_DRAFT);
      caption = null;
    }
    this.conversation.typingNotifier.stopTyping();
  }

  findEvent(eventId: string): TimelineEvent | undefined {
    const { room, timeline } = this.conversation;
    return room.timeline.get(eventId) ?? timeline.value.get(eventId) ?? this.thread?.get(eventId) ?? this.conversation.quotedEvent(eventId).value ?? undefined;
  }

  private repliedEvent(): TimelineEvent | undefined {
    const { replyTo } = this.draft.value;
    return replyTo === null ? undefined : this.findEvent(replyTo);
  }

  private threadRelation(): { root: string; last: string } | undefined {
    return this.thread === undefined ? undefined : { root: this.thread.root, last: this.thread.last() };
  }

  private belongsHere({ relation }: TimelineEvent): boolean {
    return this.thread === undefined ? relation.type !== "m.thread" : relation.type === "m.thread" && relation.target === this.thread.root;
  }

  private updateDraft(change: Partial<Draft>): void {
    this.setDraft({ ...this.draft.value, ...change });
  }

  private setDraft(draft: Draft): void {
    this.draft.value = draft;
    this.drafts.set(this.draftKey, draft);
  }
}
