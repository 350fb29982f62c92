// Builds the contents of messages.

import { asRecord, asString, asStrings, type Content } from "../server/events.ts";
import type { TimelineEvent } from "../timeline/timelineEvent.ts";
import { formatMarkdown, type Mention } from "./markdown.ts";

export interface MessageInput {
  text: string;
  mentions: Mention[];
  replyTo?: TimelineEvent | undefined;
  /** The thread, and its last event: clients without threads show the message as a reply to that. */
  thread?: { root: string; last: string } | undefined;
  /** Makes HTML harmless; the page provides it. */
  clean?: (html: string) => string;
}

/** Returns the content of a new message. */
export function messageContent(written: MessageInput): Content {
  const { content, mentioned } = textContent(written);
  const { replyTo } = written;
  const users = new Set(mentioned.user_ids);
  if (replyTo !== undefined) users.add(replyTo.sender);
  const relation = relationContent(written);
  return {
    ...content,
    "m.mentions": mentionsContent(users, mentioned.room),
    ...(relation === undefined ? {} : { "m.relates_to": relation }),
  };
}

/** Returns the caption of a file. */
export function captionContent(written: MessageInput): Content {
  const { content, mentioned } = textContent(written);
  const { msgtype: _, ...caption } = content;
  return { ...caption, "m.mentions": mentionsContent(new Set(mentioned.user_ids), mentioned.room) };
}

/** Returns the content that replaces that of an older message. */
export function editContent(written: MessageInput, edited: TimelineEvent): Content {
  const { content, mentioned } = textContent(written);
  const before = new Set(asStrings(asRecord(edited.content["m.mentions"])?.["user_ids"]));
  // Users who were notified of the first version are not notified again.
  const newMentions = new Set(mentioned.user_ids.filter((userId) => !before.has(userId)));
  const wasRoom = asRecord(edited.content["m.mentions"])?.["room"] === true;
  const fallback: Content = { ...content, body: `* ${String(content["body"])}` };
  if (content["formatted_body"] !== undefined) fallback["formatted_body"] = `* ${String(content["formatted_body"])}`;
  return {
    ...fallback,
    "m.mentions": mentionsContent(newMentions, mentioned.room && !wasRoom),
    "m.new_content": { ...content, "m.mentions": mentionsContent(new Set(mentioned.user_ids), mentioned.room) },
    "m.relates_to": { rel_type: "m.replace", event_id: edited.id },
  };
}

/** Returns `m.relates_to` for a reply or for a message in a thread. */
export function relationContent({ replyTo, thread }: Pick<MessageInput, "replyTo" | "thread">): Content | undefined {
  if (thread !== undefined) {
    return {
      rel_type: "m.thread",
      event_id: thread.root,
      is_falling_back: replyTo === undefined,
      "m.in_reply_to": { event_id: replyTo?.id ?? thread.last },
    };
  }
  return replyTo === undefined ? undefined : { "m.in_reply_to": { event_id: replyTo.id } };
}

function textContent({ text, mentions, clean = (html) => html }: MessageInput) {
  const isEmote = /^\/me\s/.test(text);
  const formatted = formatMarkdown(isEmote ? text.replace(/^\/me\s+/, "") : text, mentions);
  const content: Content = { msgtype: isEmote ? "m.emote" : "m.text", body: formatted.body };
  if (formatted.html !== null) {
    content["format"] = "org.matrix.custom.html";
    content["formatted_body"] = clean(formatted.html);
  }
  return { content, mentioned: formatted.mentions };
}

function mentionsContent(users: Set<string>, room: boolean): Content {
  return { ...(users.size > 0 ? { user_ids: [...users] } : {}), ...(room ? { room: true } : {}) };
}

/** Returns the text of a message without the quotation that older clients put in front of replies. */
export function bodyText(content: Content): string {
  const body = asString(content["body"]) ?? "";
  const isReply = asRecord(asRecord(content["m.relates_to"])?.["m.in_reply_to"]) !== undefined;
  if (!isReply || !body.startsWith("> ")) return body;
  const lines = body.split("\n");
  const end = lines.findIndex((line) => !line.startsWith(">"));
  return end === -1 ? body : lines.slice(lines[end] === "" ? end + 1 : end).join("\n");
}
