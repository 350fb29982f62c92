import { expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

async function openNewDialog({ page }: TestUser, what: "New room" | "New chat"): Promise<void> {
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.getByRole("menuitem", { name: what }).click();
}

function roomLinks({ page }: TestUser) {
  return page.getByRole("list", { name: "Rooms and chats" }).getByRole("link");
}

test("a public room is created, found, joined and left", async () => {
  const [ann, bob] = [await env.signUp("ann"), await env.signUp("bob")];
  await openNewDialog(ann, "New room");
  const dialog = ann.page.getByRole("dialog", { name: "New room" });
  await dialog.getByLabel("Name").fill("Garden club");
  await dialog.getByLabel("Topic").fill("Seeds and soil");
  await dialog.getByRole("radio", { name: /Public/ }).check();
  await dialog.getByLabel("Address").fill("garden");
  await dialog.getByRole("button", { name: "Create room" }).click();
  await ann.page.getByRole("main").getByRole("heading", { name: "Garden club" }).waitFor();

  await bob.page.getByRole("link", { name: "Explore rooms" }).click();
  await bob.page.getByRole("searchbox", { name: "Search public rooms" }).fill("garden");
  const card = bob.page.getByRole("main").getByRole("listitem").filter({ hasText: "Garden club" });
  await card.getByText("Seeds and soil").waitFor();
  await card.getByText("#garden:localhost").waitFor();
  await card.getByText("1 person").waitFor();
  await card.getByRole("button", { name: "Join Garden club" }).click();
  await bob.page.getByRole("main").getByRole("heading", { name: "Garden club" }).waitFor();
  await roomLinks(bob).filter({ hasText: "Garden club" }).waitFor();

  await bob.page.getByRole("button", { name: "Details", exact: true }).click();
  await bob.page
    .getByRole("complementary", { name: /Garden club/ })
    .getByRole("button", { name: "Leave" })
    .click();
  await bob.page.getByRole("dialog", { name: "Leave this room?" }).getByRole("button", { name: "Leave" }).click();
  await bob.page.getByText("Choose a conversation").waitFor();
  await expect.poll(async () => roomLinks(bob).count()).toBe(0);
  expect(ann.consoleErrors).toEqual([]);
  expect(bob.consoleErrors).toEqual([]);
});

test("a private room is created with invitations", async () => {
  const [carol, dan] = [await env.signUp("carol"), await env.signUp("dan")];
  await openNewDialog(carol, "New room");
  const dialog = carol.page.getByRole("dialog", { name: "New room" });
  await dialog.getByLabel("Name").fill("Surprise party");
  await dialog.getByLabel("Who can read the history").selectOption({ label: "Members, since they joined" });
  await dialog.getByRole("combobox", { name: "Invite people" }).fill("dan");
  await dialog.getByRole("option", { name: /dan/ }).click();
  await dialog.getByRole("button", { name: "Create room" }).click();
  await carol.page.getByRole("main").getByRole("heading", { name: "Surprise party" }).waitFor();

  await dan.page
    .getByRole("region", { name: /Invitations/ })
    .getByRole("link", { name: /Surprise party/ })
    .click();
  await dan.page.getByText("carol invites you to this room").waitFor();
  const room = decodeURIComponent(dan.page.url().split("#/room/")[1]!);
  const where = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/state/m.room.history_visibility/`;
  expect(await env.request(await env.accessTokenOf(carol), "GET", where)).toEqual({ history_visibility: "joined" });
});

test("a chat with several people is named after them", async () => {
  const eve = await env.signUp("eve");
  for (const name of ["finn", "gus"]) await env.registerAccount(name);
  await openNewDialog(eve, "New chat");
  const dialog = eve.page.getByRole("dialog", { name: "New chat" });
  for (const name of ["finn", "gus"]) {
    await dialog.getByRole("combobox", { name: "People to chat with" }).fill(name);
    await dialog.getByRole("option", { name: new RegExp(name) }).waitFor();
    await eve.page.keyboard.press("Enter");
    await dialog.getByRole("button", { name: `Remove ${name}` }).waitFor();
  }
  await dialog.getByRole("button", { name: "Start group chat" }).click();
  await eve.page.getByRole("main").getByRole("heading", { name: "finn and gus" }).waitFor();
});

test("a pasted address joins the room or opens a chat", async () => {
  const hana = await env.signUp("hana");
  const maker = await env.registerAccount("maker");
  await env.request(maker.access_token, "POST", "/_matrix/client/v3/createRoom", { name: "Hidden", preset: "public_chat", room_alias_name: "hidden" });
  await hana.page.getByRole("link", { name: "Explore rooms" }).click();
  const search = hana.page.getByRole("searchbox", { name: "Search public rooms" });
  await search.fill("matrix:r/hidden:localhost?action=join");
  await hana.page.getByRole("main").getByRole("button", { name: "Join" }).click();
  await hana.page.getByRole("main").getByRole("heading", { name: "Hidden" }).waitFor();

  await hana.page.getByRole("link", { name: "Explore rooms" }).click();
  await search.fill("#nowhere:localhost");
  await hana.page.getByRole("main").getByRole("button", { name: "Join" }).click();
  await hana.page.getByRole("status").filter({ hasText: /\S/ }).last().waitFor();
  await search.fill("@maker:localhost");
  await hana.page.getByRole("main").getByRole("button", { name: "Message" }).click();
  await hana.page.getByRole("main").getByRole("heading", { name: "maker" }).waitFor();
});

test("a user knocks on a room and is let in", async () => {
  const [ida, jo] = [await env.signUp("ida"), await env.signUp("jo")];
  await env.request(await env.accessTokenOf(ida), "POST", "/_matrix/client/v3/createRoom", {
    name: "Quiet room",
    visibility: "public",
    initial_state: [{ type: "m.room.join_rules", state_key: "", content: { join_rule: "knock" } }],
  });
  await jo.page.getByRole("link", { name: "Explore rooms" }).click();
  await jo.page.getByRole("button", { name: "Ask to join Quiet room" }).click();
  await jo.page.getByText("Request sent", { exact: true }).waitFor();

  await roomLinks(ida).filter({ hasText: "Quiet room" }).click();
  await ida.page.getByRole("button", { name: "Details", exact: true }).click();
  await ida.page.getByRole("tab", { name: "Members" }).click();
  await ida.page.getByRole("region", { name: "Asking to join" }).getByRole("button", { name: "Actions for jo" }).click();
  await ida.page.getByRole("menuitem", { name: "Let in" }).click();
  await jo.page
    .getByRole("region", { name: /Invitations/ })
    .getByRole("button", { name: "Accept: Quiet room" })
    .click();
  await jo.page.getByRole("main").getByRole("heading", { name: "Quiet room" }).waitFor();
});

test("the list of public rooms loads page by page", async () => {
  const kim = await env.signUp("kim");
  const token = (await env.registerAccount("builder")).access_token;
  for (let batch = 0; batch < 4; batch++) {
    const names = Array.from({ length: 10 }, (_, at) => `Hall ${batch * 10 + at}`);
    await Promise.all(
      names.map(async (name) => env.request(token, "POST", "/_matrix/client/v3/createRoom", { name, preset: "public_chat", visibility: "public" })),
    );
  }
  await kim.page.getByRole("link", { name: "Explore rooms" }).click();
  await kim.page.getByRole("searchbox", { name: "Search public rooms" }).fill("Hall");
  const halls = kim.page.getByRole("list", { name: "Public rooms" }).getByRole("heading", { name: /^Hall/ });
  await expect.poll(async () => halls.count()).toBe(30);
  await kim.page.getByRole("button", { name: "Show more" }).click();
  await expect.poll(async () => halls.count()).toBe(40);
});
