import { beforeAll, expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";
import { createRoom, messageActions, messageField, messageLog, messagesWith, openRoomOfTwo, type RoomOfTwo, typeMessage } from "./roomHelpers.ts";

const env = testEnvironment();
let { alice, bob, tokens, room } = {} as RoomOfTwo;

beforeAll(async () => {
  ({ alice, bob, tokens, room } = await openRoomOfTwo(env));
});

test("a message reaches the other user", async () => {
  await typeMessage(alice.page, "Good morning");
  await messagesWith(alice.page, "Good morning").waitFor();
  await messagesWith(bob.page, "Good morning").getByText("alice").waitFor();
  expect(await messageField(alice.page).inputValue()).toBe("");
});

test("a click on the sender shows their profile", async () => {
  await room.send(tokens.bob, "Who am I?");
  await messagesWith(alice.page, "Who am I?").getByRole("button", { name: "bob" }).click();
  const card = alice.page.getByRole("dialog", { name: "Profile" });
  await card.getByText("@bob:localhost").waitFor();
  await card.getByRole("button", { name: "Close" }).click();
});

test("a reaction is shown to others and can be removed", async () => {
  await typeMessage(alice.page, "React to this");
  const bar = await messageActions(bob.page, "React to this");
  await bar.getByRole("button", { name: "React" }).click();
  await bob.page.getByRole("dialog", { name: "Emoji" }).getByRole("button", { name: "thumbs up", exact: true }).click();

  const seen = messagesWith(alice.page, "React to this").getByRole("button", { name: /👍.*: bob/ });
  await seen.waitFor();
  const own = messagesWith(bob.page, "React to this").getByRole("button", { name: /👍.*: you/ });
  expect(await own.getAttribute("aria-pressed")).toBe("true");

  await own.click();
  await own.waitFor({ state: "detached" });
  await seen.waitFor({ state: "detached" });
});

test("a reply shows the original message and leads to it", async () => {
  await typeMessage(alice.page, "The question");
  await (await messageActions(bob.page, "The question")).getByRole("button", { name: "Reply" }).click();
  await bob.page.getByRole("group", { name: "Reply to" }).getByText("The question").waitFor();
  await typeMessage(bob.page, "The answer");

  const quote = messagesWith(alice.page, "The answer").getByRole("button", { name: "In reply to: alice The question" });
  await quote.click();
  await expect
    .poll(async () =>
      messagesWith(alice.page, "The question")
        .first()
        .evaluate((element) => element === document.activeElement),
    )
    .toBe(true);
});

test("an edit replaces the text for everyone and is marked", async () => {
  await typeMessage(alice.page, "Teh typo");
  await messagesWith(bob.page, "Teh typo").waitFor();
  await (await messageActions(alice.page, "Teh typo")).getByRole("button", { name: "Edit" }).click();
  expect(await messageField(alice.page).inputValue()).toBe("Teh typo");
  await typeMessage(alice.page, "The typo");

  await messagesWith(bob.page, "The typo").getByText("edited").waitFor();
  await messagesWith(bob.page, "Teh typo").waitFor({ state: "detached" });
});

test("users delete their own messages, moderators those of others", async () => {
  await typeMessage(bob.page, "Delete me");
  await typeMessage(alice.page, "Not yours");
  await messagesWith(bob.page, "Not yours").waitFor();
  const others = await messageActions(bob.page, "Not yours");
  await others.getByRole("button", { name: "More" }).click();
  await bob.page.getByRole("menuitem", { name: "Copy text" }).waitFor();
  expect(await bob.page.getByRole("menuitem", { name: "Delete" }).count()).toBe(0);
  await bob.page.keyboard.press("Escape");

  const bar = await messageActions(alice.page, "Delete me");
  await bar.getByRole("button", { name: "More" }).click();
  await alice.page.getByRole("menuitem", { name: "Delete" }).click();
  await alice.page.getByRole("dialog", { name: "Delete this message?" }).getByRole("button", { name: "Delete" }).click();

  await messagesWith(bob.page, "Message deleted").waitFor();
  await messagesWith(bob.page, "Delete me").waitFor({ state: "detached" });
});

test("changes of the room are described in words", async () => {
  await room.setState(tokens.alice, "m.room.topic", { topic: "Tests" });
  await messageLog(bob.page).getByText("alice changed the topic to “Tests”").waitFor();
  await room.setState(tokens.alice, "m.room.join_rules", { join_rule: "invite" });
  await messageLog(bob.page).getByText("alice made the room private").waitFor();
});

test("only harmless HTML is shown", async () => {
  await room.send(tokens.bob, {
    msgtype: "m.text",
    body: "fallback",
    format: "org.matrix.custom.html",
    formatted_body:
      '<mx-reply>an old quotation</mx-reply><b>bold</b><img src=x onerror="window.hurt = 1"><script>window.hurt = 2</script>' +
      '<a href="javascript:window.hurt=3" onclick="window.hurt=4">bad link</a><a href="https://example.org/" style="color:red">good link</a>' +
      '<span data-mx-spoiler="secret">hidden words</span><code class="language-rust evil">code</code><iframe src="https://example.org"></iframe>' +
      '<form action="https://example.org"><input name="password"></form><svg><a href="javascript:window.hurt=5">x</a></svg><p class="dialog" id="app">text</p>',
  });
  const shown = messagesWith(alice.page, "good link");
  await shown.getByRole("link", { name: "good link" }).waitFor();
  await shown.getByText("bad link").click();

  const html = await shown.locator(".text").innerHTML();
  expect(html).not.toMatch(/quotation|<img|<script|javascript:|onclick|style=|iframe|<form|<input|<svg|evil|id=|class="dialog"/);
  expect(html).toContain("<b>bold</b>");
  expect(html).toContain('class="language-rust"');
  const link = shown.getByRole("link", { name: "good link" });
  expect(await link.getAttribute("target")).toBe("_blank");
  expect(await link.getAttribute("rel")).toBe("noreferrer noopener");
  expect(await alice.page.evaluate(() => "hurt" in window)).toBe(false);

  const spoiler = shown.getByRole("button", { name: "Spoiler: secret. Show it" });
  await spoiler.press("Enter");
  await spoiler.waitFor({ state: "detached" });

  // While the sanitiser reads such a message, the browser reports that the Content-Security-Policy would block it as
  // well.
  await messagesWith(bob.page, "good link").waitFor();
  for (const { consoleErrors } of [alice, bob]) {
    const others = consoleErrors.filter((problem) => !problem.includes("Content Security Policy"));
    consoleErrors.splice(0, consoleErrors.length, ...others);
  }
});

test("safe addresses in plain text are links", async () => {
  await room.send(tokens.bob, "See https://example.org/a_(b). or javascript:alert(1)");
  const link = messagesWith(alice.page, "or javascript:").getByRole("link");
  await link.waitFor();
  expect(await link.getAttribute("href")).toBe("https://example.org/a_(b)");
});

test("emotes, notices, locations and polls are shown", async () => {
  await room.send(tokens.bob, { msgtype: "m.emote", body: "waves" });
  await room.send(tokens.bob, { msgtype: "m.notice", body: "I am a bot" });
  await room.send(tokens.bob, { msgtype: "m.location", body: "The harbour", geo_uri: "geo:1,2" });
  await room.send(
    tokens.bob,
    {
      "org.matrix.msc3381.poll.start": {
        question: { "org.matrix.msc1767.text": "Tea or coffee?" },
        answers: [
          { id: "1", "org.matrix.msc1767.text": "Tea" },
          { id: "2", "org.matrix.msc1767.text": "Coffee" },
        ],
      },
    },
    "org.matrix.msc3381.poll.start",
  );
  await messagesWith(alice.page, "bob waves").waitFor();
  await messagesWith(alice.page, "I am a bot").waitFor();
  await messagesWith(alice.page, "The harbour").waitFor();
  await messagesWith(alice.page, "Tea or coffee?").getByText("Coffee").first().waitFor();
});

test("arrow keys move through messages, and Tab reaches their actions", async () => {
  await typeMessage(alice.page, "Last but one");
  await typeMessage(alice.page, "Last of all");
  await messagesWith(alice.page, "Last of all").focus();
  await alice.page.keyboard.press("ArrowUp");
  await expect.poll(async () => messagesWith(alice.page, "Last but one").evaluate((element) => element === document.activeElement)).toBe(true);
  await alice.page.keyboard.press("Tab");
  await expect.poll(async () => alice.page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe("React");
  await alice.page.keyboard.press("Escape");
  await expect.poll(async () => messagesWith(alice.page, "Last but one").evaluate((element) => element === document.activeElement)).toBe(true);
});

test("new messages are announced", async () => {
  await room.send(tokens.bob, "Listen");
  await alice.page.getByRole("status", { name: "New messages" }).getByText("bob: Listen").waitFor();
});

test("a room that was replaced leads to the new one", async () => {
  const next = await createRoom(env, [tokens.alice, tokens.bob], { name: "The new room" });
  const old = await createRoom(env, [tokens.alice, tokens.bob], { name: "The old room" });
  await old.setState(tokens.alice, "m.room.tombstone", { body: "moved", replacement_room: next.id });
  await old.open(bob);
  await bob.page.getByRole("button", { name: "Go to the new room" }).click();
  await bob.page.getByRole("heading", { level: 1, name: "The new room" }).waitFor();
});

test("a removed user sees by whom and why", async () => {
  const short = await createRoom(env, [tokens.alice, tokens.bob], { name: "Short" });
  await short.open(bob);
  await env.request(tokens.alice, "POST", `${short.path}/kick`, { user_id: bob.userId, reason: "Too loud" });
  await bob.page.getByText("alice removed you from this room.").waitFor();
  await bob.page.getByText("Too loud").waitFor();
});

test("a user who may not write sees why", async () => {
  const quiet = await createRoom(env, [tokens.alice, tokens.bob], { power_level_content_override: { events_default: 50 } });
  await quiet.open(bob);
  await bob.page.getByText("you are not allowed to write in it").waitFor();
  expect(await messageField(bob.page).count()).toBe(0);
});

test("there were no console errors", () => {
  expect(alice.consoleErrors).toEqual([]);
  expect(bob.consoleErrors).toEqual([]);
});
