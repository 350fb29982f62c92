import { expect, test } from "vitest";
import { DOT_PNG, type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

/** Creates a room of the first user with all others in it. */
async function createRoomWith(name: string, [maker, ...others]: [TestUser, ...TestUser[]]): Promise<string> {
  const { room_id } = await env.request(await env.accessTokenOf(maker), "POST", "/_matrix/client/v3/createRoom", { name, preset: "public_chat" });
  for (const other of others) await env.request(await env.accessTokenOf(other), "POST", `/_matrix/client/v3/join/${encodeURIComponent(String(room_id))}`, {});
  return String(room_id);
}

async function openDetails({ page }: TestUser, roomId: string, tab: "About" | "Members" | "Settings"): Promise<void> {
  await page.goto(`/#/room/${encodeURIComponent(roomId)}`);
  await page.getByRole("button", { name: "Details", exact: true }).click();
  await page.getByRole("complementary").getByRole("tab", { name: tab }).click();
}

async function chooseAction({ page }: TestUser, name: string, what: string): Promise<void> {
  await page.getByRole("button", { name: `Actions for ${name}` }).click();
  await page.getByRole("menuitem", { name: what }).click();
}

function memberGroup({ page }: TestUser, name: string) {
  return page.getByRole("complementary").getByRole("region", { name });
}

test("members are listed with roles and counted", async () => {
  const [ann, bob, cara] = [await env.signUp("ann"), await env.signUp("bob"), await env.signUp("cara")];
  const id = await createRoomWith("Tea", [ann, bob, cara]);
  await openDetails(ann, id, "About");
  await ann.page.getByRole("button", { name: "Participants 3" }).click();
  await memberGroup(ann, "In the room").getByText("In the room · 3").waitFor();
  await memberGroup(ann, "In the room")
    .getByRole("button", { name: /^ann Online Creator/ })
    .waitFor();

  await chooseAction(ann, "bob", "Change role");
  const dialog = ann.page.getByRole("dialog", { name: "Role of bob" });
  await dialog.getByLabel("Role").selectOption("Moderator");
  await dialog.getByRole("button", { name: "Save" }).click();
  await memberGroup(ann, "In the room")
    .getByRole("button", { name: /^bob .*Moderator/ })
    .waitFor();
  await openDetails(bob, id, "Members");
  await chooseAction(bob, "cara", "Remove from room");
  await bob.page.getByRole("dialog", { name: "Remove cara?" }).getByRole("button", { name: "Cancel" }).click();

  await ann.page.getByRole("searchbox", { name: "Search members" }).fill("car");
  await memberGroup(ann, "In the room").getByText("In the room · 1").waitFor();
  expect(ann.consoleErrors).toEqual([]);
});

test("a removed member disappears for everyone, with the reason stored", async () => {
  const [dan, eve, finn] = [await env.signUp("dan"), await env.signUp("eve"), await env.signUp("finn")];
  const id = await createRoomWith("Hike", [dan, eve, finn]);
  await openDetails(dan, id, "Members");
  await openDetails(eve, id, "Members");
  await chooseAction(dan, "finn", "Remove from room");
  const dialog = dan.page.getByRole("dialog", { name: "Remove finn?" });
  await dialog.getByLabel("Reason").fill("By mistake here");
  await dialog.getByRole("button", { name: "Remove" }).click();
  for (const person of [dan, eve]) await memberGroup(person, "In the room").getByText("In the room · 2").waitFor();
  await expect.poll(async () => finn.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link", { name: /Hike/ }).count()).toBe(0);
  const state = await env.request(
    await env.accessTokenOf(dan),
    "GET",
    `/_matrix/client/v3/rooms/${encodeURIComponent(id)}/state/m.room.member/${encodeURIComponent(finn.userId)}`,
  );
  expect(state).toMatchObject({ membership: "leave", reason: "By mistake here" });
});

test("a banned user cannot return until the ban is lifted", async () => {
  const [gus, hana] = [await env.signUp("gus"), await env.signUp("hana")];
  const id = await createRoomWith("Choir", [gus, hana]);
  await openDetails(gus, id, "Members");
  await chooseAction(gus, "hana", "Ban");
  await gus.page.getByRole("dialog", { name: "Ban hana?" }).getByRole("button", { name: "Ban" }).click();
  await memberGroup(gus, "Banned").getByText("hana", { exact: true }).waitFor();
  const join = env.request(await env.accessTokenOf(hana), "POST", `/_matrix/client/v3/join/${encodeURIComponent(id)}`, {});
  await expect(join).rejects.toThrow("403");

  await chooseAction(gus, "hana", "Unban");
  await expect.poll(async () => memberGroup(gus, "Banned").count()).toBe(0);
  await env.request(await env.accessTokenOf(hana), "POST", `/_matrix/client/v3/join/${encodeURIComponent(id)}`, {});
  await memberGroup(gus, "In the room").getByText("In the room · 2").waitFor();
});

test("members without power are offered no actions on others", async () => {
  const [ida, jo] = [await env.signUp("ida"), await env.signUp("jo")];
  const id = await createRoomWith("Books", [ida, jo]);
  await openDetails(jo, id, "Members");
  await jo.page.getByRole("button", { name: "Actions for ida" }).click();
  expect(await jo.page.getByRole("menuitem").allInnerTexts()).toEqual(["Message"]);
  await jo.page.keyboard.press("Escape");
  await jo.page.getByRole("tab", { name: "Settings" }).click();
  expect(await jo.page.getByLabel("Who can join").isDisabled()).toBe(true);
  expect(await jo.page.getByRole("button", { name: "Delete room" }).count()).toBe(0);
});

test("changes of a room's details reach everyone", async () => {
  const [kim, lea] = [await env.signUp("kim"), await env.signUp("lea")];
  const id = await createRoomWith("Old name", [kim, lea]);
  await openDetails(kim, id, "About");
  await openDetails(lea, id, "About");
  await kim.page.getByRole("button", { name: "Edit room" }).click();
  const dialog = kim.page.getByRole("dialog", { name: "Edit room" });
  await dialog.getByLabel("Picture").setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: DOT_PNG });
  await dialog.getByRole("button", { name: "Change picture" }).waitFor();
  await dialog.getByLabel("Name").fill("New name");
  await dialog.getByLabel("Topic").fill("Two lines\nof topic");
  await dialog.getByLabel("Address").fill("newname");
  await dialog.getByRole("button", { name: "Save" }).click();
  const panel = lea.page.getByRole("complementary", { name: "Details of New name" });
  await panel.getByText("of topic").waitFor();
  await panel.getByText("#newname:localhost").waitFor();
  await panel.locator(".avatar.large img").waitFor();
});

test("the settings and notifications of a room are changed", async () => {
  const mia = await env.signUp("mia");
  const id = await createRoomWith("Settings room", [mia]);
  const token = await env.accessTokenOf(mia);
  const state = async (type: string) => env.request(token, "GET", `/_matrix/client/v3/rooms/${encodeURIComponent(id)}/state/${type}/`);
  await openDetails(mia, id, "Settings");
  await mia.page.getByLabel("Who can join").selectOption("Only invited people");
  await expect.poll(async () => state("m.room.join_rules")).toMatchObject({ join_rule: "invite" });
  await mia.page.getByLabel("Who can read the history").selectOption("Members, since they joined");
  await expect.poll(async () => state("m.room.history_visibility")).toMatchObject({ history_visibility: "joined" });
  await mia.page.getByLabel("Show in the list of public rooms").check();
  await expect.poll(async () => env.request("", "GET", `/_matrix/client/v3/directory/list/room/${encodeURIComponent(id)}`)).toEqual({ visibility: "public" });

  await mia.page.getByLabel("Notifications").selectOption("Nothing");
  await mia.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link", { name: /muted/ }).waitFor();
  await mia.page.getByLabel("Notifications").selectOption("Only mentions");
  await expect.poll(async () => mia.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link", { name: /muted/ }).count()).toBe(0);
  await expect.poll(async () => mia.page.getByLabel("Notifications").inputValue()).toBe("mentions");
});

test("Escape closes the panel, which fills a phone", async () => {
  const nina = await env.signUp("nina", { viewport: { width: 390, height: 844 } });
  const id = await createRoomWith("Small", [nina]);
  await openDetails(nina, id, "About");
  const panel = nina.page.getByRole("complementary", { name: "Details of Small" });
  expect((await panel.boundingBox())?.width).toBe(390);
  await nina.page.keyboard.press("Escape");
  await expect.poll(async () => panel.count()).toBe(0);
});
