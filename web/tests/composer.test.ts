import { beforeAll, expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";
import { createRoom, messageActions, messageField, messagesWith, openRoomOfTwo, type RoomOfTwo, typeMessage } from "./roomHelpers.ts";

const env = testEnvironment();
let { alice, bob, tokens, room } = {} as RoomOfTwo;

beforeAll(async () => {
  ({ alice, bob, tokens, room } = await openRoomOfTwo(env));
});

test("plain text is sent without HTML, Markdown with HTML", async () => {
  await typeMessage(alice.page, "just text & <b>more</b>");
  await messagesWith(bob.page, "just text & <b>more</b>").waitFor();
  expect(await room.newestContent(tokens.alice)).not.toHaveProperty("formatted_body");

  await typeMessage(alice.page, "some **bold** words");
  await messagesWith(bob.page, "some bold words").getByText("bold", { exact: true }).waitFor();
  expect(await room.newestContent(tokens.alice)).toMatchObject({ body: "some **bold** words", formatted_body: "some <strong>bold</strong> words" });
});

test("Shift+Enter starts a new line", async () => {
  await messageField(alice.page).fill("line one");
  await messageField(alice.page).press("Shift+Enter");
  await messageField(alice.page).pressSequentially("line two");
  await messageField(alice.page).press("Enter");
  await messagesWith(bob.page, "line two").waitFor();
  expect((await room.newestContent(tokens.alice))["body"]).toBe("line one\nline two");
});

test("a draft is kept over a reload, for its room only", async () => {
  const other = await createRoom(env, [tokens.alice], { name: "Another" });
  await messageField(alice.page).fill("not finished");
  await alice.page.reload();
  await expect.poll(async () => messageField(alice.page).inputValue()).toBe("not finished");
  await other.open(alice);
  expect(await alice.page.getByRole("textbox", { name: "Message to Another" }).inputValue()).toBe("");
  await room.open(alice);
  expect(await messageField(alice.page).inputValue()).toBe("not finished");
  await messageField(alice.page).fill("");
});

test("signing out deletes the drafts", async () => {
  const dora = await env.signUp("dora");
  await env.request(await env.accessTokenOf(dora), "POST", `/_matrix/client/v3/join/${encodeURIComponent(room.id)}`, {});
  await room.open(dora);
  await messageField(dora.page).fill("nobody may read this");
  await expect.poll(async () => dora.page.evaluate(() => localStorage.getItem("parlour.drafts"))).toContain("nobody");
  await dora.page.getByRole("button", { name: "dora account" }).click();
  await dora.page.getByRole("menuitem", { name: "Sign out" }).click();
  await dora.page.getByRole("dialog").getByRole("button", { name: "Sign out" }).click();
  await dora.page.getByRole("heading", { name: "Sign in" }).waitFor();
  expect(await dora.page.evaluate(() => JSON.stringify(localStorage))).not.toContain("nobody");
});

test("an unfinished reply is kept over a reload", async () => {
  await room.send(tokens.bob, "Answer me");
  await (await messageActions(alice.page, "Answer me")).getByRole("button", { name: "Reply" }).click();
  await messageField(alice.page).fill("In a moment");
  await alice.page.reload();
  await alice.page.getByRole("group", { name: "Reply to" }).getByText("Answer me").waitFor();
  await messageField(alice.page).press("Enter");
  await messagesWith(bob.page, "In a moment")
    .getByRole("button", { name: /In reply to: bob/ })
    .waitFor();
});

test("a completed name mentions the user", async () => {
  await messageField(alice.page).pressSequentially("Hello @bo");
  const people = alice.page.getByRole("listbox", { name: "People" });
  await people.getByRole("option", { name: /bob/ }).waitFor();
  await messageField(alice.page).press("Enter");
  expect(await messageField(alice.page).inputValue()).toBe("Hello @bob ");
  await messageField(alice.page).press("Enter");

  await messagesWith(bob.page, "Hello bob").getByRole("link", { name: "bob" }).waitFor();
  expect(await room.newestContent(tokens.alice)).toMatchObject({
    body: "Hello @bob",
    "m.mentions": { user_ids: [bob.userId] },
    formatted_body: `Hello <a href="https://matrix.to/#/${encodeURIComponent(bob.userId)}">bob</a>`,
  });
});

test("only users with the power can mention the whole room", async () => {
  await messageField(alice.page).pressSequentially("@ro");
  await alice.page.getByRole("option", { name: /@room/ }).click();
  await messageField(alice.page).press("Enter");
  await expect.poll(async () => (await room.newestContent(tokens.alice))["m.mentions"]).toEqual({ room: true });

  await messageField(bob.page).pressSequentially("@ro");
  expect(await bob.page.getByRole("option", { name: /@room/ }).count()).toBe(0);
  await messageField(bob.page).fill("");
});

test("arrow up edits the user's last message, Escape cancels", async () => {
  await typeMessage(alice.page, "First version");
  await messagesWith(bob.page, "First version").waitFor();
  await messageField(alice.page).press("ArrowUp");
  await alice.page.getByRole("group", { name: "Edit message" }).waitFor();
  expect(await messageField(alice.page).inputValue()).toBe("First version");
  await messageField(alice.page).press("Escape");
  expect(await messageField(alice.page).inputValue()).toBe("");
});

test("an emoji is found and inserted at the cursor", async () => {
  await messageField(alice.page).fill("ab");
  await messageField(alice.page).press("ArrowLeft");
  await alice.page.getByRole("button", { name: "Emoji", exact: true }).click();
  await alice.page.getByRole("searchbox", { name: "Search emoji" }).fill("octopus");
  await alice.page.keyboard.press("ArrowDown");
  await alice.page.keyboard.press("Enter");
  await expect.poll(async () => messageField(alice.page).inputValue()).toBe("a🐙b");
  await messageField(alice.page).fill("");

  await alice.page.getByRole("button", { name: "Emoji", exact: true }).click();
  await alice.page.getByRole("button", { name: "Recent" }).click();
  await alice.page.getByRole("button", { name: "octopus" }).waitFor();
  await alice.page.keyboard.press("Escape");
});

test("a failed message says so and is sent once on retry", async () => {
  await alice.page.routeWebSocket(/stream/, (socket) => void socket.close());
  await room.open(alice);
  await alice.page.reload();
  let isBroken = true;
  await alice.page.route(/\/send\/m\.room\.message\//, async (route) =>
    isBroken ? route.fulfill({ status: 403, json: { errcode: "M_FORBIDDEN", error: "Not now" } }) : route.continue(),
  );
  await typeMessage(alice.page, "At last");
  const mine = messagesWith(alice.page, "At last");
  await mine.getByText("Not sent. Not now").waitFor();
  isBroken = false;
  await mine.getByRole("button", { name: "Try again" }).click();
  await mine.getByRole("img", { name: "Sent" }).waitFor();
  await messagesWith(bob.page, "At last").waitFor();
  expect(await messagesWith(bob.page, "At last").count()).toBe(1);
});

test("on a touch screen Enter starts a new line and the button sends", async () => {
  const carol = await env.signUp("carol", { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await env.request(await env.accessTokenOf(carol), "POST", `/_matrix/client/v3/join/${encodeURIComponent(room.id)}`, {});
  await room.open(carol);
  await messageField(carol.page).fill("one");
  await messageField(carol.page).press("Enter");
  await messageField(carol.page).pressSequentially("two");
  await carol.page.getByRole("button", { name: "Send" }).tap();
  await messagesWith(bob.page, "two").last().waitFor();
  expect((await room.newestContent(tokens.alice))["body"]).toBe("one\ntwo");

  // The actions on a message are behind a long press.
  const touched = messagesWith(carol.page, "At last");
  await touched.dispatchEvent("pointerdown", { pointerType: "touch", clientX: 100, clientY: 100 });
  await carol.page.getByRole("menuitem", { name: "Reply" }).waitFor();
});

test("there were no console errors", () => {
  expect(alice.consoleErrors.filter((problem) => !problem.includes("WebSocket"))).toEqual([]);
  expect(bob.consoleErrors).toEqual([]);
});
