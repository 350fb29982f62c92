import { beforeAll, expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";
import { createRoom, messageField, messageLog, messagesWith, pixelsBelow, type TestRoom, typeMessage } from "./roomHelpers.ts";

const env = testEnvironment();
let alice: TestUser;
let bob: TestUser;
let carol: TestUser;
let tokens: { alice: string; bob: string; carol: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await env.signUp("alice");
  bob = await env.signUp("bob");
  carol = await env.signUp("carol");
  tokens = { alice: await env.accessTokenOf(alice), bob: await env.accessTokenOf(bob), carol: await env.accessTokenOf(carol) };
  room = await createRoom(env, [tokens.alice, tokens.bob, tokens.carol]);
  await room.open(alice);
});

/** Sets the focus of a page; headless browsers do not change it themselves. */
async function setFocus(person: TestUser, isLooking: boolean): Promise<void> {
  await person.page.evaluate((looking) => {
    document.hasFocus = () => looking;
    window.dispatchEvent(new Event(looking ? "focus" : "blur"));
  }, isLooking);
}

test("a message is marked as sent, then as read by others", async () => {
  await typeMessage(alice.page, "Read me");
  const mine = messagesWith(alice.page, "Read me");
  await mine.getByRole("img", { name: "Sent" }).waitFor();
  await room.open(bob);
  await messagesWith(bob.page, "Read me").waitFor();
  await mine.getByRole("img", { name: "Read by bob" }).waitFor();
  await room.open(carol);
  await mine.getByRole("img", { name: /Read by (bob, carol|carol, bob)/ }).waitFor();
});

test("nothing is marked as read while the page is in the background", async () => {
  await setFocus(bob, false);
  await setFocus(carol, false);
  await typeMessage(alice.page, "Anybody there?");
  await messagesWith(bob.page, "Anybody there?").waitFor();
  const mine = messagesWith(alice.page, "Anybody there?");
  await mine.getByRole("img", { name: "Sent" }).waitFor();
  await bob.page.getByRole("separator", { name: "New messages" }).waitFor();

  await setFocus(bob, true);
  await mine.getByRole("img", { name: "Read by bob" }).waitFor();
  await setFocus(carol, true);
});

test("private read receipts are not shown to others", async () => {
  const settings = `/_matrix/client/v3/user/${encodeURIComponent(carol.userId)}/account_data/dev.parlour.settings`;
  await env.request(tokens.carol, "PUT", settings, { sendReceipts: false });
  await carol.page.reload();
  await messagesWith(carol.page, "Anybody there?").waitFor();
  const receipt = carol.page.waitForRequest((request) => request.url().includes("/read_markers"));
  await typeMessage(alice.page, "In secret");
  await messagesWith(carol.page, "In secret").waitFor();
  expect(Object.keys((await receipt).postDataJSON() as object)).toContain("m.read.private");
  await messagesWith(alice.page, "In secret").getByRole("img", { name: "Read by bob" }).waitFor();
});

test("one or several typing users are shown", async () => {
  await messageField(bob.page).pressSequentially("H");
  await alice.page.getByText("bob is typing…").first().waitFor();
  await messageField(carol.page).pressSequentially("H");
  await alice.page.getByText(/(bob and carol|carol and bob) are typing…/).waitFor();
  await messageField(carol.page).fill("");
  await messageField(bob.page).press("Enter");
  await alice.page
    .getByText(/typing…/)
    .first()
    .waitFor({ state: "hidden" });
});

test("the view follows new messages when it is at the end", async () => {
  for (let number = 1; number <= 40; number++) await room.send(tokens.bob, `Line ${number}.`);
  await messagesWith(alice.page, "Line 40.").waitFor();
  await expect.poll(async () => pixelsBelow(alice.page)).toBeLessThan(2);
});

test("a reader above the end sees a button with the new count", async () => {
  await expect.poll(async () => pixelsBelow(alice.page)).toBeLessThan(2);
  await messageLog(alice.page).hover();
  await alice.page.mouse.wheel(0, -700);
  const jump = alice.page.getByRole("button", { name: /^Jump to/ });
  await jump.waitFor();
  await room.send(tokens.bob, "Something new");
  await room.send(tokens.bob, "And again");

  await alice.page.getByRole("button", { name: "Jump to 2 new messages" }).click();
  await expect.poll(async () => pixelsBelow(alice.page)).toBeLessThan(2);
  await messagesWith(alice.page, "And again").waitFor();
  await jump.waitFor({ state: "detached" });
});

test("new messages do not move the visible ones", async () => {
  await messageLog(alice.page).hover();
  await alice.page.mouse.wheel(0, -700);
  await alice.page.getByRole("button", { name: /^Jump to/ }).waitFor();
  const anchor = messagesWith(alice.page, "Line 25.").first();
  await anchor.waitFor();
  const before = (await anchor.boundingBox())!.y;
  await room.send(tokens.bob, "Do not move");
  await alice.page.getByRole("button", { name: "Jump to 1 new message" }).waitFor();
  expect(Math.abs((await anchor.boundingBox())!.y - before)).toBeLessThan(2);
});

test("sending a message scrolls to the end", async () => {
  await typeMessage(alice.page, "Here I am");
  await expect.poll(async () => pixelsBelow(alice.page)).toBeLessThan(2);
});

test("a room opens at the first new message", async () => {
  await bob.page.goto("/#/");
  for (let number = 1; number <= 60; number++) await room.send(tokens.alice, `News ${number}.`);
  // Only when all have arrived do they certainly fill more than the view.
  await bob.page.getByRole("navigation").getByText("News 60.").first().waitFor();
  await room.open(bob);
  const line = bob.page.getByRole("separator", { name: "New messages" });
  await line.waitFor();
  const view = (await messageLog(bob.page).locator("xpath=..").boundingBox())!;
  await expect.poll(async () => (await line.boundingBox())!.y - view.y).toBeLessThan(view.height / 2);
  await expect.poll(async () => (await line.boundingBox())!.y - view.y).toBeGreaterThan(0);
  await expect.poll(async () => pixelsBelow(bob.page)).toBeGreaterThan(500);
  expect(await messageLog(bob.page).getByText("News 1.", { exact: true }).isVisible()).toBe(true);
});

test("there were no console errors", () => {
  for (const person of [alice, bob, carol]) expect(person.consoleErrors).toEqual([]);
});
