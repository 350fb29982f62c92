import { beforeAll, expect, test } from "vitest";
import { type Person, world } from "./harness.ts";
import { below, field, log, message, roomOf, type TestRoom, write } from "./roomHelpers.ts";

const here = world();
let alice: Person;
let bob: Person;
let carol: Person;
let tokens: { alice: string; bob: string; carol: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await here.person("alice");
  bob = await here.person("bob");
  carol = await here.person("carol");
  tokens = { alice: await here.token(alice), bob: await here.token(bob), carol: await here.token(carol) };
  room = await roomOf(here, [tokens.alice, tokens.bob, tokens.carol]);
  await room.open(alice);
});

/** Takes the focus from a page, or gives it back; browsers without a screen do not do it themselves. */
async function look(person: Person, isLooking: boolean): Promise<void> {
  await person.page.evaluate((looking) => {
    document.hasFocus = () => looking;
    window.dispatchEvent(new Event(looking ? "focus" : "blur"));
  }, isLooking);
}

test("an own message is sent, then read, and one sees by whom", async () => {
  await write(alice.page, "Read me");
  const mine = message(alice.page, "Read me");
  await mine.getByRole("img", { name: "Sent" }).waitFor();
  await room.open(bob);
  await message(bob.page, "Read me").waitFor();
  await mine.getByRole("img", { name: "Read by bob" }).waitFor();
  await room.open(carol);
  await mine.getByRole("img", { name: /Read by (bob, carol|carol, bob)/ }).waitFor();
});

test("nothing counts as read while nobody looks", async () => {
  await look(bob, false);
  await look(carol, false);
  await write(alice.page, "Anybody there?");
  await message(bob.page, "Anybody there?").waitFor();
  const mine = message(alice.page, "Anybody there?");
  await mine.getByRole("img", { name: "Sent" }).waitFor();
  await bob.page.getByRole("separator", { name: "New messages" }).waitFor();

  await look(bob, true);
  await mine.getByRole("img", { name: "Read by bob" }).waitFor();
  await look(carol, true);
});

test("whoever does not want to tell what they have read does not", async () => {
  const settings = `/_matrix/client/v3/user/${encodeURIComponent(carol.userId)}/account_data/dev.parlour.settings`;
  await here.api(tokens.carol, "PUT", settings, { sendReceipts: false });
  await carol.page.reload();
  await message(carol.page, "Anybody there?").waitFor();
  const receipt = carol.page.waitForRequest((request) => request.url().includes("/read_markers"));
  await write(alice.page, "In secret");
  await message(carol.page, "In secret").waitFor();
  expect(Object.keys((await receipt).postDataJSON() as object)).toContain("m.read.private");
  await message(alice.page, "In secret").getByRole("img", { name: "Read by bob" }).waitFor();
});

test("one sees who is typing: one, two, or several", async () => {
  await field(bob.page).pressSequentially("H");
  await alice.page.getByText("bob is typing…").first().waitFor();
  await field(carol.page).pressSequentially("H");
  await alice.page.getByText(/(bob and carol|carol and bob) are typing…/).waitFor();
  await field(carol.page).fill("");
  await field(bob.page).press("Enter");
  await alice.page
    .getByText(/typing…/)
    .first()
    .waitFor({ state: "hidden" });
});

test("the view follows new messages when it is at the end", async () => {
  for (let number = 1; number <= 40; number++) await room.says(tokens.bob, `Line ${number}.`);
  await message(alice.page, "Line 40.").waitFor();
  await expect.poll(async () => below(alice.page)).toBeLessThan(2);
});

test("when one reads above, a button counts what is new, and leads to it", async () => {
  await expect.poll(async () => below(alice.page)).toBeLessThan(2);
  await log(alice.page).hover();
  await alice.page.mouse.wheel(0, -700);
  const jump = alice.page.getByRole("button", { name: /^Jump to/ });
  await jump.waitFor();
  await room.says(tokens.bob, "Something new");
  await room.says(tokens.bob, "And again");

  await alice.page.getByRole("button", { name: "Jump to 2 new messages" }).click();
  await expect.poll(async () => below(alice.page)).toBeLessThan(2);
  await message(alice.page, "And again").waitFor();
  await jump.waitFor({ state: "detached" });
});

test("messages that come do not move what one reads", async () => {
  await log(alice.page).hover();
  await alice.page.mouse.wheel(0, -700);
  await alice.page.getByRole("button", { name: /^Jump to/ }).waitFor();
  const anchor = message(alice.page, "Line 25.").first();
  await anchor.waitFor();
  const before = (await anchor.boundingBox())!.y;
  await room.says(tokens.bob, "Do not move");
  await alice.page.getByRole("button", { name: "Jump to 1 new message" }).waitFor();
  expect(Math.abs((await anchor.boundingBox())!.y - before)).toBeLessThan(2);
});

test("an own message brings the view to the end", async () => {
  await write(alice.page, "Here I am");
  await expect.poll(async () => below(alice.page)).toBeLessThan(2);
});

test("a room opens where the new messages begin", async () => {
  await bob.page.goto("/#/");
  for (let number = 1; number <= 60; number++) await room.says(tokens.alice, `News ${number}.`);
  // Only when all of them have come is it sure that they fill more than the view.
  await bob.page.getByRole("navigation").getByText("News 60.").first().waitFor();
  await room.open(bob);
  const line = bob.page.getByRole("separator", { name: "New messages" });
  await line.waitFor();
  const view = (await log(bob.page).locator("xpath=..").boundingBox())!;
  await expect.poll(async () => (await line.boundingBox())!.y - view.y).toBeLessThan(view.height / 2);
  await expect.poll(async () => (await line.boundingBox())!.y - view.y).toBeGreaterThan(0);
  await expect.poll(async () => below(bob.page)).toBeGreaterThan(500);
  expect(await log(bob.page).getByText("News 1.", { exact: true }).isVisible()).toBe(true);
});

test("nothing went wrong in the consoles", () => {
  for (const person of [alice, bob, carol]) expect(person.problems).toEqual([]);
});
