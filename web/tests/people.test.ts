import { expect, test } from "vitest";
import { type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

async function openPeople({ page }: TestUser): Promise<void> {
  await page.getByRole("link", { name: "People" }).click();
  await page.getByRole("heading", { name: "People" }).waitFor();
}

function peopleGroup({ page }: TestUser, name: string) {
  return page.getByRole("region", { name, exact: true });
}

test("online users have a green dot, others a last-seen time", async () => {
  const [ann, bob] = [await env.signUp("ann"), await env.signUp("bob")];
  const { user_id, access_token } = await env.registerAccount("zoe");
  for (const presence of ["online", "offline"]) {
    await env.request(access_token, "PUT", `/_matrix/client/v3/presence/${encodeURIComponent(user_id)}/status`, { presence });
  }
  await bob.page.getByText("Choose a conversation").waitFor();
  await openPeople(ann);
  const online = peopleGroup(ann, "Online now").getByRole("button", { name: /^bob Online/ });
  await online.locator(".dot.online").waitFor();
  const offline = peopleGroup(ann, "Everyone else").getByRole("button", { name: /^zoe Last seen just now/ });
  await offline.waitFor();
  expect(await offline.locator(".dot").count()).toBe(0);
  expect(ann.consoleErrors).toEqual([]);
});

test("a user who hides their presence is not shown as online", async () => {
  const [carol, dan] = [await env.signUp("carol"), await env.signUp("dan")];
  await dan.page.getByText("Choose a conversation").waitFor();
  await openPeople(carol);
  await peopleGroup(carol, "Online now").getByRole("button", { name: /^dan/ }).waitFor();
  await dan.page.goto("/#/settings/privacy");
  await dan.page.getByRole("checkbox", { name: /When I am online/ }).click();
  await expect
    .poll(async () => {
      await carol.page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
      return peopleGroup(carol, "Online now").getByRole("button", { name: /^dan/ }).count();
    })
    .toBe(0);
});

test("a click on a user opens their direct chat, the same every time", async () => {
  const eve = await env.signUp("eve");
  await env.registerAccount("finn");
  await openPeople(eve);
  await eve.page.getByRole("button", { name: /^finn/ }).click();
  await eve.page.getByRole("main").getByRole("heading", { name: "finn" }).waitFor();
  const first = eve.page.url();

  await openPeople(eve);
  await eve.page.getByRole("button", { name: /^finn/ }).click();
  await expect.poll(() => eve.page.url()).toBe(first);
  await expect.poll(async () => eve.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link").count()).toBe(1);
  const direct = await env.request(await env.accessTokenOf(eve), "GET", `/_matrix/client/v3/user/${encodeURIComponent(eve.userId)}/account_data/m.direct`);
  expect(Object.keys(direct)).toEqual(["@finn:localhost"]);
});

test("an accepted direct chat is direct for the invited user as well", async () => {
  const [gus, hana] = [await env.signUp("gus"), await env.signUp("hana")];
  await openPeople(gus);
  await gus.page.getByRole("button", { name: /^hana/ }).click();
  await hana.page
    .getByRole("region", { name: /Invitations/ })
    .getByRole("button", { name: "Accept: gus" })
    .click();
  await hana.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link", { name: /gus/ }).waitFor();
  await openPeople(hana);
  const before = hana.page.url();
  await hana.page.getByRole("main").getByRole("button", { name: /^gus/ }).click();
  await expect.poll(() => hana.page.url()).not.toBe(before);
  await expect.poll(async () => hana.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link").count()).toBe(1);
});

test("people are found by a part of their name", async () => {
  const ida = await env.signUp("ida");
  for (const name of ["jonas", "jonathan", "kim"]) await env.registerAccount(name);
  await openPeople(ida);
  await ida.page.getByRole("searchbox", { name: "Search people" }).fill("jon");
  await expect
    .poll(async () =>
      ida.page
        .getByRole("main")
        .getByRole("button", { name: /^(jonas|jonathan|kim)/ })
        .count(),
    )
    .toBe(2);
});

test("the profile card shows shared rooms, invites, and ignores", async () => {
  const [lea, max] = [await env.signUp("lea"), await env.signUp("max")];
  const token = await env.accessTokenOf(lea);
  const { room_id } = await env.request(token, "POST", "/_matrix/client/v3/createRoom", { name: "Shared", preset: "public_chat" });
  await env.request(token, "POST", "/_matrix/client/v3/createRoom", { name: "Only mine" });
  await env.request(await env.accessTokenOf(max), "POST", `/_matrix/client/v3/join/${encodeURIComponent(String(room_id))}`, {});
  await openPeople(lea);
  await lea.page.getByRole("button", { name: "Profile of max" }).click();
  const card = lea.page.getByRole("dialog", { name: "Profile" });
  await card.getByRole("link", { name: "Shared" }).waitFor();

  await card.getByRole("button", { name: "Invite to a room" }).click();
  await lea.page.getByRole("dialog", { name: "Invite max" }).getByRole("button", { name: "Invite" }).click();
  await max.page.getByRole("link", { name: /Only mine/ }).waitFor();

  await card.getByRole("button", { name: "Ignore" }).click();
  await card.getByText("You do not see this person's messages.").waitFor();
  await card.getByRole("button", { name: "Stop ignoring" }).click();
  await expect.poll(async () => card.getByText("You do not see this person's messages.").count()).toBe(0);
});
