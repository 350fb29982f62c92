import { beforeAll, expect, test } from "vitest";
import { type Person, world } from "./harness.ts";
import { actions, log, message, roomOf, type TestRoom, write } from "./roomHelpers.ts";

const here = world();
let alice: Person;
let bob: Person;
let tokens: { alice: string; bob: string };
let room: TestRoom;

beforeAll(async () => {
  alice = await here.person("alice");
  bob = await here.person("bob");
  tokens = { alice: await here.token(alice), bob: await here.token(bob) };
  room = await roomOf(here, [tokens.alice, tokens.bob]);
  await room.open(alice);
  await room.open(bob);
});

test("an answer in a thread stands in the thread, and the room shows how many there are", async () => {
  await write(alice.page, "The root");
  const bar = await actions(bob.page, "The root");
  await bar.getByRole("button", { name: "More" }).click();
  await bob.page.getByRole("menuitem", { name: "Open thread" }).click();
  const thread = bob.page.getByRole("complementary", { name: "Thread" });
  await thread.getByRole("article").filter({ hasText: "The root" }).waitFor();
  await thread.getByRole("textbox", { name: "Message to the thread" }).fill("In the thread");
  await thread.getByRole("textbox", { name: "Message to the thread" }).press("Enter");
  await thread
    .getByRole("article")
    .filter({ hasText: "In the thread" })
    .getByRole("img", { name: /Sent|Read/ })
    .waitFor();

  const chip = message(alice.page, "The root").getByRole("button", { name: /1 reply/ });
  await chip.getByText("In the thread").waitFor();
  expect(await log(alice.page).getByRole("article").filter({ hasText: "In the thread" }).filter({ hasNotText: "The root" }).count()).toBe(0);

  await chip.click();
  const other = alice.page.getByRole("complementary", { name: "Thread" });
  await other.getByRole("article").filter({ hasText: "In the thread" }).waitFor();
  await other.getByRole("textbox", { name: "Message to the thread" }).fill("Answer there");
  await other.getByRole("textbox", { name: "Message to the thread" }).press("Enter");
  await thread.getByRole("article").filter({ hasText: "Answer there" }).waitFor();
  await message(bob.page, "The root")
    .getByRole("button", { name: /2 replies/ })
    .waitFor();
});

test("reactions and edits in a thread are seen there", async () => {
  const thread = alice.page.getByRole("complementary", { name: "Thread" });
  const answer = thread.getByRole("article").filter({ hasText: "In the thread" });
  await answer.hover();
  await answer.getByRole("button", { name: "React" }).click();
  await alice.page.getByRole("dialog", { name: "Emoji" }).getByRole("button", { name: "thumbs up", exact: true }).click();
  const other = bob.page.getByRole("complementary", { name: "Thread" });
  await other.getByRole("button", { name: /👍.*: alice/ }).waitFor();

  await other.getByRole("textbox", { name: "Message to the thread" }).press("ArrowUp");
  await other.getByRole("textbox", { name: "Message to the thread" }).fill("In the thread, corrected");
  await other.getByRole("textbox", { name: "Message to the thread" }).press("Enter");
  await thread.getByText("In the thread, corrected").waitFor();

  // The same after a reload, from the server.
  await bob.page.reload();
  await message(bob.page, "The root")
    .getByRole("button", { name: /2 replies/ })
    .click();
  await other.getByText("In the thread, corrected").waitFor();
  await other.getByRole("button", { name: /👍.*: alice/ }).waitFor();
  await other.getByRole("button", { name: "Close thread" }).click();
  await alice.page.getByRole("button", { name: "Close thread" }).click();
});

test("a search finds messages of the room, and leads to them", async () => {
  await room.says(tokens.bob, "The quick marmalade");
  for (let number = 0; number < 80; number++) await room.says(tokens.bob, `Filling ${number}`);
  await message(alice.page, "Filling 79").waitFor();
  await alice.page.reload();
  await alice.page.getByRole("button", { name: "Search messages" }).click();
  await alice.page.getByRole("searchbox", { name: "Search for" }).fill("marmalade");
  await alice.page.keyboard.press("Enter");
  const panel = alice.page.getByRole("complementary", { name: "Search" });
  await panel.getByText("1 message found").waitFor();
  await panel.locator("mark", { hasText: "marmalade" }).waitFor();
  await panel.getByRole("button", { name: /quick/ }).click();
  await message(alice.page, "The quick marmalade").waitFor();
  await expect.poll(async () => message(alice.page, "The quick marmalade").evaluate((element) => element === document.activeElement)).toBe(true);
});

test("a search shows more on demand", async () => {
  await alice.page.getByRole("searchbox", { name: "Search for" }).fill("Filling");
  await alice.page.keyboard.press("Enter");
  const panel = alice.page.getByRole("complementary", { name: "Search" });
  await panel.getByText("80 messages found").waitFor();
  expect(await panel.getByRole("listitem").count()).toBe(20);
  await panel.getByRole("button", { name: "Show more" }).click();
  await expect.poll(async () => panel.getByRole("listitem").count()).toBe(40);
});

test("a search in all rooms leads to the other room", async () => {
  const other = await roomOf(here, [tokens.alice], { name: "Elsewhere" });
  await other.says(tokens.alice, "A rare zeppelin");
  await alice.page.getByRole("searchbox", { name: "Search for" }).fill("zeppelin");
  await alice.page.keyboard.press("Enter");
  const panel = alice.page.getByRole("complementary", { name: "Search" });
  await panel.getByText("0 messages found").waitFor();
  await panel.getByRole("checkbox", { name: "In all rooms" }).check();
  await panel.getByText("in Elsewhere").waitFor();
  await panel.getByRole("button", { name: /zeppelin/ }).click();
  await alice.page.getByRole("heading", { level: 1, name: "Elsewhere" }).waitFor();
  await message(alice.page, "A rare zeppelin").waitFor();
});

test("nothing went wrong in the consoles", () => {
  expect(alice.problems).toEqual([]);
  expect(bob.problems).toEqual([]);
});
