import { beforeAll, expect, test } from "vitest";
import { testEnvironment } from "./harness.ts";
import { createRoom, messageActions, messageLog, messagesWith, openRoomOfTwo, type RoomOfTwo, typeMessage } from "./roomHelpers.ts";

const env = testEnvironment();
let { alice, bob, tokens, room } = {} as RoomOfTwo;

beforeAll(async () => {
  ({ alice, bob, tokens, room } = await openRoomOfTwo(env));
});

test("replies are shown in the thread and counted in the room", async () => {
  await typeMessage(alice.page, "The root");
  const bar = await messageActions(bob.page, "The root");
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

  const chip = messagesWith(alice.page, "The root").getByRole("button", { name: /1 reply/ });
  await chip.getByText("In the thread").waitFor();
  expect(await messageLog(alice.page).getByRole("article").filter({ hasText: "In the thread" }).filter({ hasNotText: "The root" }).count()).toBe(0);

  await chip.click();
  const other = alice.page.getByRole("complementary", { name: "Thread" });
  await other.getByRole("article").filter({ hasText: "In the thread" }).waitFor();
  await other.getByRole("textbox", { name: "Message to the thread" }).fill("Answer there");
  await other.getByRole("textbox", { name: "Message to the thread" }).press("Enter");
  await thread.getByRole("article").filter({ hasText: "Answer there" }).waitFor();
  await messagesWith(bob.page, "The root")
    .getByRole("button", { name: /2 replies/ })
    .waitFor();
});

test("reactions and edits appear in the thread", async () => {
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
  await messagesWith(bob.page, "The root")
    .getByRole("button", { name: /2 replies/ })
    .click();
  await other.getByText("In the thread, corrected").waitFor();
  await other.getByRole("button", { name: /👍.*: alice/ }).waitFor();
  await other.getByRole("button", { name: "Close thread" }).click();
  await alice.page.getByRole("button", { name: "Close thread" }).click();
});

test("a search finds messages of the room and leads to them", async () => {
  await room.send(tokens.bob, "The quick marmalade");
  for (let number = 0; number < 80; number++) await room.send(tokens.bob, `Filling ${number}`);
  await messagesWith(alice.page, "Filling 79").waitFor();
  await alice.page.reload();
  await alice.page.getByRole("button", { name: "Search messages" }).click();
  await alice.page.getByRole("searchbox", { name: "Search for" }).fill("marmalade");
  await alice.page.keyboard.press("Enter");
  const panel = alice.page.getByRole("complementary", { name: "Search" });
  await panel.getByText("1 message found").waitFor();
  await panel.locator("mark", { hasText: "marmalade" }).waitFor();
  await panel.getByRole("button", { name: /quick/ }).click();
  await messagesWith(alice.page, "The quick marmalade").waitFor();
  await expect.poll(async () => messagesWith(alice.page, "The quick marmalade").evaluate((element) => element === document.activeElement)).toBe(true);
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
  const other = await createRoom(env, [tokens.alice], { name: "Elsewhere" });
  await other.send(tokens.alice, "A rare zeppelin");
  await alice.page.getByRole("searchbox", { name: "Search for" }).fill("zeppelin");
  await alice.page.keyboard.press("Enter");
  const panel = alice.page.getByRole("complementary", { name: "Search" });
  await panel.getByText("0 messages found").waitFor();
  await panel.getByRole("checkbox", { name: "In all rooms" }).check();
  await panel.getByText("in Elsewhere").waitFor();
  await panel.getByRole("button", { name: /zeppelin/ }).click();
  await alice.page.getByRole("heading", { level: 1, name: "Elsewhere" }).waitFor();
  await messagesWith(alice.page, "A rare zeppelin").waitFor();
});

test("there were no console errors", () => {
  expect(alice.consoleErrors).toEqual([]);
  expect(bob.consoleErrors).toEqual([]);
});
