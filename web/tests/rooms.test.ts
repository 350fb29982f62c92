import { expect, test } from "vitest";
import { type Person, world } from "./harness.ts";

const here = world();

async function makes(person: Person, body: Record<string, unknown>): Promise<string> {
  const { room_id } = await here.api(await here.token(person), "POST", "/_matrix/client/v3/createRoom", body);
  return String(room_id);
}

async function joins(person: Person, room: string): Promise<void> {
  await here.api(await here.token(person), "POST", `/_matrix/client/v3/join/${encodeURIComponent(room)}`, {});
}

async function says(person: Person, room: string, body: string, more: Record<string, unknown> = {}): Promise<void> {
  const where = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/${crypto.randomUUID()}`;
  await here.api(await here.token(person), "PUT", where, { msgtype: "m.text", body, ...more });
}

function list({ page }: Person) {
  return page.getByRole("list", { name: "Rooms and chats" }).getByRole("link");
}

test("rooms stand by activity, with the last message and what is unread", async () => {
  const [ann, bob] = [await here.person("ann"), await here.person("bob")];
  const tea = await makes(bob, { name: "Tea", preset: "public_chat" });
  const hike = await makes(bob, { name: "Hike", preset: "public_chat" });
  for (const room of [tea, hike]) await joins(ann, room);
  await says(bob, tea, "Milk or lemon?");
  await expect.poll(async () => list(ann).allInnerTexts()).toEqual([expect.stringContaining("Tea"), expect.stringContaining("Hike")]);
  await list(ann).filter({ hasText: "bob: Milk or lemon?" }).getByText("1 unread").waitFor();

  await says(bob, hike, "At nine by the bridge");
  await says(bob, hike, "ann, do you come?", { "m.mentions": { user_ids: [ann.userId] } });
  await expect.poll(async () => list(ann).allInnerTexts()).toEqual([expect.stringContaining("Hike"), expect.stringContaining("Tea")]);
  await list(ann).filter({ hasText: "Hike" }).getByText("2 unread, you are mentioned").waitFor();
  await expect.poll(async () => ann.page.title()).toBe("(3) Parlour");

  await says(ann, tea, "Lemon");
  await list(ann).filter({ hasText: "You: Lemon" }).waitFor();
  expect(ann.problems).toEqual([]);
});

test("filters show what is unread, direct chats, or rooms", async () => {
  const [carol, dan] = [await here.person("carol"), await here.person("dan")];
  const books = await makes(dan, { name: "Books", preset: "public_chat" });
  await joins(carol, books);
  await carol.page.getByRole("link", { name: "People" }).click();
  await carol.page.getByRole("button", { name: /^dan/ }).click();
  await list(carol).filter({ hasText: "dan" }).waitFor();
  await says(dan, books, "Chapter three");
  await list(carol).filter({ hasText: "Chapter three" }).waitFor();

  await carol.page.getByRole("button", { name: "Direct" }).click();
  await expect.poll(async () => list(carol).count()).toBe(1);
  await list(carol).filter({ hasText: "dan" }).waitFor();
  await carol.page.getByRole("button", { name: "Rooms", exact: true }).click();
  await expect.poll(async () => list(carol).allInnerTexts()).toEqual([expect.stringContaining("Books")]);
  await carol.page.getByRole("button", { name: "Unread" }).click();
  await list(carol).filter({ hasText: "Books" }).waitFor();
});

test("the search finds rooms, people, and public rooms to join", async () => {
  const [eve, finn] = [await here.person("eve"), await here.person("finn")];
  await makes(eve, { name: "Über uns" });
  await makes(finn, { name: "Ubuntu help", preset: "public_chat", visibility: "public" });
  const search = eve.page.getByRole("searchbox", { name: "Search rooms and people" });
  await list(eve).filter({ hasText: "Über uns" }).waitFor();

  await search.fill("ub");
  await list(eve).filter({ hasText: "Über uns" }).waitFor();
  await eve.page
    .getByRole("region", { name: "Public rooms" })
    .getByRole("button", { name: /Ubuntu help/ })
    .click();
  await list(eve).filter({ hasText: "Ubuntu help" }).waitFor();
  expect(await search.inputValue()).toBe("");

  await search.fill("finn");
  await eve.page.getByRole("region", { name: "People" }).getByRole("button", { name: /finn/ }).click();
  await list(eve).filter({ hasText: "finn" }).waitFor();
});

test("arrow keys move through the list, and Enter opens a room", async () => {
  const gus = await here.person("gus");
  for (const name of ["One", "Two", "Three"]) await makes(gus, { name });
  await expect.poll(async () => list(gus).count()).toBe(3);
  await gus.page.keyboard.press("Control+k");
  await gus.page.keyboard.press("ArrowDown");
  await gus.page.keyboard.press("ArrowDown");
  await gus.page.keyboard.press("Enter");
  await gus.page.getByRole("main").getByRole("heading", { name: "Two" }).waitFor();
  await gus.page.locator("[aria-current=page]", { hasText: "Two" }).waitFor();
});

test("five hundred rooms are a list of a few rows", async () => {
  const hugo = await here.person("hugo");
  const token = await here.token(hugo);
  for (let batch = 0; batch < 25; batch++) {
    const names = Array.from({ length: 20 }, (_, at) => `Room ${batch * 20 + at}`);
    await Promise.all(names.map(async (name) => here.api(token, "POST", "/_matrix/client/v3/createRoom", { name })));
  }
  await expect.poll(async () => list(hugo).first().locator("xpath=ancestor::li").getAttribute("aria-setsize"), { timeout: 30_000 }).toBe("500");
  expect(await list(hugo).count()).toBeLessThan(60);
  await list(hugo).first().focus();
  await hugo.page.locator(".sidebar-list").evaluate((element) => element.scrollTo(0, element.scrollHeight));
  await expect.poll(async () => list(hugo).last().locator("xpath=ancestor::li").getAttribute("aria-posinset")).toBe("500");
}, 120_000);

test("on a phone one sees the list, or what was chosen in it", async () => {
  const ida = await here.person("ida", { viewport: { width: 390, height: 844 }, hasTouch: true });
  await makes(ida, { name: "Harbour" });
  await list(ida).filter({ hasText: "Harbour" }).click();
  await ida.page.getByRole("heading", { name: "Harbour" }).waitFor();
  expect(await ida.page.getByRole("navigation", { name: "Conversations" }).isVisible()).toBe(false);
  await ida.page.goBack();
  await list(ida).filter({ hasText: "Harbour" }).waitFor();
  await ida.page.getByRole("link", { name: "People" }).click();
  await ida.page.getByRole("link", { name: "Back to conversations" }).click();
  await list(ida).filter({ hasText: "Harbour" }).waitFor();
});

test("the skip link leads past the list", async () => {
  const jo = await here.person("jo");
  await jo.page.getByText("Choose a conversation").waitFor();
  await jo.page.keyboard.press("Tab");
  await jo.page.getByRole("button", { name: "Skip to conversation" }).click();
  expect(await jo.page.evaluate(() => document.activeElement?.tagName)).toBe("MAIN");
});
