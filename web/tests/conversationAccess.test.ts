import axe from "axe-core";
import type { Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { createRoom, messageActions, messageField, messagesWith, type TestRoom } from "./roomHelpers.ts";

const env = testEnvironment();
let alice: TestUser;
let tokens: { alice: string; bob: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await env.signUp("alice");
  tokens = { alice: await env.accessTokenOf(alice), bob: (await env.registerAccount("bob")).access_token };
  room = await createRoom(env, [tokens.alice, tokens.bob]);
  const first = await room.send(tokens.bob, {
    msgtype: "m.text",
    body: "x",
    format: "org.matrix.custom.html",
    formatted_body:
      'Some <code>code</code>, <a href="https://example.org">a link</a>, <a href="https://matrix.to/#/@alice:x">alice</a> and <span data-mx-spoiler>a spoiler</span><blockquote>quoted</blockquote>',
  });
  await room.send(tokens.bob, { "m.relates_to": { rel_type: "m.annotation", event_id: first, key: "👍" } }, "m.reaction");
  await room.send(tokens.alice, { msgtype: "m.text", body: "An answer", "m.relates_to": { "m.in_reply_to": { event_id: first } } });
  await room.send(tokens.bob, { msgtype: "m.text", body: "In the thread", "m.relates_to": { rel_type: "m.thread", event_id: first } });
  await room.send(tokens.bob, { msgtype: "m.notice", body: "A notice" });
  await room.send(tokens.bob, { msgtype: "m.file", body: "plan.pdf", url: "mxc://x/y", info: { size: 1_000 } });
  await room.redact(tokens.bob, await room.send(tokens.bob, "gone"));
});

/** Returns the problems that axe finds in the main view. */
async function accessibilityProblems(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  return page.evaluate(async () => {
    const { axe } = window as unknown as {
      axe: { run: (where: string) => Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }> };
    };
    const { violations } = await axe.run("main");
    return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary}`));
  });
}

test.each(["light", "dark"] as const)("a conversation is accessible in the %s theme", async (colorScheme) => {
  await alice.page.emulateMedia({ colorScheme });
  await room.open(alice);
  await messagesWith(alice.page, "An answer")
    .getByRole("button", { name: /In reply to: bob/ })
    .waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);
});

test("popups in a conversation are accessible", async () => {
  await messageActions(alice.page, "An answer");
  expect(await accessibilityProblems(alice.page)).toEqual([]);

  await messageField(alice.page).fill("@bo");
  await messageField(alice.page).pressSequentially("b");
  await alice.page.getByRole("listbox", { name: "People" }).waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);
  await messageField(alice.page).fill("");

  await alice.page.getByRole("button", { name: "Emoji", exact: true }).click();
  await alice.page.getByRole("searchbox", { name: "Search emoji" }).waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);
  await alice.page.keyboard.press("Escape");

  await alice.page.getByLabel("Files to attach").setInputFiles({ name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("a") });
  await alice.page.getByRole("list", { name: "Files to send" }).waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);
  await alice.page.getByRole("button", { name: "Remove a.txt" }).click();
});

test("the side panels are accessible", async () => {
  await messagesWith(alice.page, "Some code")
    .getByRole("button", { name: /1 reply/ })
    .click();
  await alice.page.getByRole("complementary", { name: "Thread" }).getByRole("article").last().waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);

  await alice.page.getByRole("button", { name: "Search messages" }).click();
  await alice.page.getByRole("searchbox", { name: "Search for" }).fill("answer");
  await alice.page.keyboard.press("Enter");
  await alice.page.getByText("1 message found").waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);
  await alice.page.getByRole("button", { name: "Close search" }).click();
});

test("a conversation is accessible on a phone, and nothing is wider than the screen", async () => {
  await alice.page.setViewportSize({ width: 390, height: 844 });
  await messagesWith(alice.page, "An answer").waitFor();
  expect(await accessibilityProblems(alice.page)).toEqual([]);
  expect(await alice.page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  await alice.page.getByRole("link", { name: "Back to the list" }).click();
  await alice.page
    .getByRole("link", { name: /The room/ })
    .first()
    .waitFor();
});
