import { expect, test } from "vitest";
import { event } from "../testHelpers.ts";
import { TimelineEvent } from "../timeline/timeline.ts";
import { bodyText, editContent, messageContent } from "./messageContent.ts";

const input = (text: string) => ({ text, mentions: [] });

test("a reply refers to its event and mentions the sender", () => {
  const replyTo = new TimelineEvent(event("$1", { sender: "@bob:x" }));
  expect(messageContent({ ...input("yes"), replyTo })).toEqual({
    msgtype: "m.text",
    body: "yes",
    "m.mentions": { user_ids: ["@bob:x"] },
    "m.relates_to": { "m.in_reply_to": { event_id: "$1" } },
  });
});

test("a threaded message falls back to a reply to the last one", () => {
  const content = messageContent({ ...input("x"), thread: { root: "$r", last: "$l" } });
  expect(content["m.relates_to"]).toEqual({ rel_type: "m.thread", event_id: "$r", is_falling_back: true, "m.in_reply_to": { event_id: "$l" } });
});

test("an edit notifies only newly mentioned users", () => {
  const mentions = [
    { label: "@Ann", id: "@ann:x" },
    { label: "@Bob", id: "@bob:x" },
  ];
  const edited = new TimelineEvent(event("$1", { content: { msgtype: "m.text", body: "@Ann", "m.mentions": { user_ids: ["@ann:x"] } } }));
  const content = editContent({ text: "@Ann @Bob", mentions }, edited);
  expect(content).toMatchObject({
    body: "* @Ann @Bob",
    "m.mentions": { user_ids: ["@bob:x"] },
    "m.new_content": { body: "@Ann @Bob", "m.mentions": { user_ids: ["@ann:x", "@bob:x"] } },
    "m.relates_to": { rel_type: "m.replace", event_id: "$1" },
  });
});

test("/me makes an emote", () => {
  expect(messageContent(input("/me waves"))).toMatchObject({ msgtype: "m.emote", body: "waves" });
});

test("HTML is cleaned before it is sent", () => {
  const content = messageContent({ ...input("**x**"), clean: (html) => html.replaceAll("strong", "b") });
  expect(content["formatted_body"]).toBe("<b>x</b>");
});

test("the quotation of old clients is removed from the text", () => {
  const body = "> <@bob:x> first\n> second\n\nanswer";
  expect(bodyText({ body, "m.relates_to": { "m.in_reply_to": { event_id: "$1" } } })).toBe("answer");
  expect(bodyText({ body })).toBe(body);
});
