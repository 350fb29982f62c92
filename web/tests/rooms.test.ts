import { expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

async function createRoom(person: TestUser, body: Record<string, unknown>): Promise<string> {
  const { room_id } = await env.request(await env.accessTokenOf(person), "POST", "/_matrix/client/v3/createRoom", body);
  return String(room_id);
}

async function joinRoom(person: TestUser, room: string): Promise<void> {
  await env.request(await env.accessTokenOf(person), "POST", `/_matrix/client/v3/join/${encodeURIComponent(room)}`, {});
}

async function sendMessage(person: TestUser, room: string, body: string, more: Record<string, unknown> = {}): Promise<void> {
  const where = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/${crypto.randomUUID()}`;
  await env.request(await env.accessTokenOf(person), "PUT", where, { msgtype: "m.text", body, ...more });
}

function roomLinks({ page }: TestUser) {
  return page.getByRole("list", { name: "Rooms and chats" }).getByRole("link");
}

test("rooms are sorted by activity, with last message and unread count", async () => {
  const [ann, bob] = [await env.signUp("ann"), await env.signUp("bob")];
  const tea = await createRoom(bob, { name: "Tea", preset: "public_chat" });
  const hike = await createRoom(bob, { name: "Hike", preset: "public_chat" });
  for (const room of [tea, hike]) await joinRoom(ann, room);
  await sendMessage(bob, tea, "Milk or lemon?");
  await expect.poll(async () => roomLinks(ann).allInnerTexts()).toEqual([expect.stringContaining("Tea"), expect.stringContaining("Hike")]);
  await roomLinks(ann).filter({ hasText: "bob: Milk or lemon?" }).getByText("1 unread").waitFor();

  await sendMessage(bob, hike, "At nine by the bridge");
  await sendMessage(bob, hike, "ann, do you come?", { "m.mentions": { user_ids: [ann.userId] } });
  await expect.poll(async () => roomLinks(ann).allInnerTexts()).toEqual([expect.stringContaining("Hike"), expect.stringContaining("Tea")]);
  await roomLinks(ann).filter({ hasText: "Hike" }).getByText("2 unread, you are mentioned").waitFor();
  await expect.poll(async () => ann.page.title()).toBe("(3) Parlour");

  await sendMessage(ann, tea, "Lemon");
  await roomLinks(ann).filter({ hasText: "You: Lemon" }).waitFor();
  expect(ann.consoleErrors).toEqual([]);
});

test("filters show unread rooms, direct chats, or rooms", async () => {
  const [carol, dan] = [await env.signUp("carol"), await env.signUp("dan")];
  const books = await createRoom(dan, { name: "Books", preset: "public_chat" });
  await joinRoom(carol, books);
  await carol.page.getByRole("link", { name: "People" }).click();
  await carol.page.getByRole("button", { name: /^dan/ }).click();
  await roomLinks(carol).filter({ hasText: "dan" }).waitFor();
  await sendMessage(dan, books, "Chapter three");
  await roomLinks(carol).filter({ hasText: "Chapter three" }).waitFor();

  await carol.page.getByRole("button", { name: "Direct" }).click();
  await expect.poll(async () => roomLinks(carol).count()).toBe(1);
  await roomLinks(carol).filter({ hasText: "dan" }).waitFor();
  await carol.page.getByRole("button", { name: "Rooms", exact: true }).click();
  await expect.poll(async () => roomLinks(carol).allInnerTexts()).toEqual([expect.stringContaining("Books")]);
  await carol.page.getByRole("button", { name: "Unread" }).click();
  await roomLinks(carol).filter({ hasText: "Books" }).waitFor();
});

test("the search finds rooms, people, and public rooms to join", async () => {
  const [eve, finn] = [await env.signUp("eve"), await env.signUp("finn")];
  await createRoom(eve, { name: "Über uns" });
  await createRoom(finn, { name: "Ubuntu help", preset: "public_chat", visibility: "public" });
  const search = eve.page.getByRole("searchbox", { name: "Search rooms and people" });
  await roomLinks(eve).filter({ hasText: "Über uns" }).waitFor();

  await search.fill("ub");
  await roomLinks(eve).filter({ hasText: "Über uns" }).waitFor();
  await eve.page
    .getByRole("region", { name: "Public rooms" })
    .getByRole("button", { name: /Ubuntu help/ })
    .click();
  await roomLinks(eve).filter({ hasText: "Ubuntu help" }).waitFor();
  expect(await search.inputValue()).toBe("");

  await search.fill("finn");
  await eve.page.getByRole("region", { name: "People" }).getByRole("button", { name: /finn/ }).click();
  await roomLinks(eve).filter({ hasText: "finn" }).waitFor();
});

test("arrow keys move through the list, and Enter opens a room", async () => {
  const gus = await env.signUp("gus");
  for (const name of ["One", "Two", "Three"]) await createRoom(gus, { name });
  await expect.poll(async () => roomLinks(gus).count()).toBe(3);
  await gus.page.keyboard.press("Control+k");
  await gus.page.keyboard.press("ArrowDown");
  await gus.page.keyboard.press("ArrowDown");
  await gus.page.keyboard.press("Enter");
  await gus.page.getByRole("main").getByRole("heading", { name: "Two" }).waitFor();
  await gus.page.locator("[aria-current=page]", { hasText: "Two" }).waitFor();
});

test("a list of five hundred rooms renders a few rows", async () => {
  const hugo = await env.signUp("hugo");
  const token = await env.accessTokenOf(hugo);
  for (let batch = 0; batch < 25; batch++) {
    const names = Array.from({ length: 20 }, (_, at) => `Room ${batch * 20 + at}`);
    await Promise.all(names.map(async (name) => env.request(token, "POST", "/_matrix/client/v3/createRoom", { name })));
  }
  await expect.poll(async () => roomLinks(hugo).first().locator("xpath=ancestor::li").getAttribute("aria-setsize"), { timeout: 30_000 }).toBe("500");
  expect(await roomLinks(hugo).count()).toBeLessThan(60);
  await roomLinks(hugo).first().focus();
  await hugo.page.locator(".sidebar-list").evaluate((element) => element.scrollTo(0, element.scrollHeight));
  await expect.poll(async () => roomLinks(hugo).last().locator("xpath=ancestor::li").getAttribute("aria-posinset")).toBe("500");
}, 120_000);

test("a phone shows either the list or the chosen page", async () => {
  const ida = await env.signUp("ida", { viewport: { width: 390, height: 844 }, hasTouch: true });
  await createRoom(ida, { name: "Harbour" });
  await roomLinks(ida).filter({ hasText: "Harbour" }).click();
  await ida.page.getByRole("heading", { name: "Harbour" }).waitFor();
  expect(await ida.page.getByRole("navigation", { name: "Conversations" }).isVisible()).toBe(false);
  await ida.page.goBack();
  await roomLinks(ida).filter({ hasText: "Harbour" }).waitFor();
  await ida.page.getByRole("link", { name: "People" }).click();
  await ida.page.getByRole("link", { name: "Back to conversations" }).click();
  await roomLinks(ida).filter({ hasText: "Harbour" }).waitFor();
});

test("the skip link skips the list", async () => {
  const jo = await env.signUp("jo");
  await jo.page.getByText("Choose a conversation").waitFor();
  await jo.page.keyboard.press("Tab");
  await jo.page.getByRole("button", { name: "Skip to conversation" }).click();
  expect(await jo.page.evaluate(() => document.activeElement?.tagName)).toBe("MAIN");
});
