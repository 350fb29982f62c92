import { expect, test } from "vitest";
import { PASSWORD, type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

async function openInviteDialog({ page }: TestUser, roomId: string, tab: "People" | "Links") {
  await page.goto(`/#/room/${encodeURIComponent(roomId)}`);
  await page.getByRole("button", { name: "Details", exact: true }).click();
  await page.getByRole("button", { name: "Invite people" }).click();
  const dialog = page.getByRole("dialog", { name: "Invite people" });
  await dialog.getByRole("tab", { name: tab }).click();
  return dialog;
}

async function createPrivateRoom(person: TestUser, name: string): Promise<string> {
  const { room_id } = await env.request(await env.accessTokenOf(person), "POST", "/_matrix/client/v3/createRoom", { name, preset: "private_chat" });
  return String(room_id);
}

function invitationLink({ page }: TestUser, name: string) {
  return page.getByRole("region", { name: /Invitations/ }).getByRole("link", { name: new RegExp(name) });
}

test("people are invited by name; one accepts and one declines", async () => {
  const [ann, bob, cara] = [await env.signUp("ann"), await env.signUp("bob"), await env.signUp("cara")];
  const dialog = await openInviteDialog(ann, await createPrivateRoom(ann, "Tea"), "People");
  for (const name of ["bob", "cara"]) {
    await dialog.getByRole("combobox", { name: "People to invite" }).fill(name);
    await dialog.getByRole("option", { name: new RegExp(name) }).click();
  }
  await dialog.getByRole("button", { name: "Invite 2 people" }).click();
  await expect.poll(async () => dialog.count()).toBe(0);

  await invitationLink(bob, "Tea").click();
  await bob.page.getByRole("main").getByText("ann invites you to this room").waitFor();
  await bob.page.getByRole("main").getByRole("button", { name: "Accept" }).click();
  await bob.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link", { name: /Tea/ }).waitFor();
  await cara.page.getByRole("button", { name: "Decline: Tea" }).click();
  await expect.poll(async () => invitationLink(cara, "Tea").count()).toBe(0);
  await ann.page.getByRole("button", { name: "Participants 2" }).waitFor();
  expect(bob.consoleErrors).toEqual([]);
});

test("an expiring invitation shows its end to both sides and can be withdrawn", async () => {
  const [dan, eve] = [await env.signUp("dan"), await env.signUp("eve")];
  const dialog = await openInviteDialog(dan, await createPrivateRoom(dan, "Hike"), "People");
  await dialog.getByRole("combobox", { name: "People to invite" }).fill("eve");
  await dialog.getByRole("option", { name: /^eve/ }).click();
  await dialog.getByLabel("Invitation expires").selectOption("In 1 day");
  await dialog.getByRole("button", { name: "Send invitation" }).click();
  await invitationLink(eve, "Hike")
    .getByText(/expires (tomorrow|in 1 day|in 24 hours)/)
    .waitFor();
  await invitationLink(eve, "Hike").click();
  await eve.page.getByText(/This invitation expires/).waitFor();

  await dan.page.getByRole("complementary").getByRole("tab", { name: "Members" }).click();
  const invited = dan.page.getByRole("region", { name: "Invited" });
  await invited.getByText(/Expires (tomorrow|in 1 day|in 24 hours)/).waitFor();
  await invited.getByRole("button", { name: "Actions for eve" }).click();
  await dan.page.getByRole("menuitem", { name: "Withdraw invitation" }).click();
  await expect.poll(async () => invitationLink(eve, "Hike").count()).toBe(0);
});

test("an expired invitation disappears by itself", async () => {
  const [finn, gus] = [await env.signUp("finn"), await env.signUp("gus")];
  const id = await createPrivateRoom(finn, "Short");
  const body = { user_id: gus.userId, expires_at: Date.now() + 8_000 };
  await env.request(await env.accessTokenOf(finn), "POST", `/_parlour/client/v1/rooms/${encodeURIComponent(id)}/invite`, body);
  await invitationLink(gus, "Short").waitFor();
  await expect.poll(async () => invitationLink(gus, "Short").count(), { timeout: 30_000 }).toBe(0);
});

test("an expiry too far in the future is refused before sending", async () => {
  const hana = await env.signUp("hana");
  await env.registerAccount("ida");
  const dialog = await openInviteDialog(hana, await createPrivateRoom(hana, "Far"), "People");
  await dialog.getByRole("combobox", { name: "People to invite" }).fill("ida");
  await dialog.getByRole("option", { name: /ida/ }).click();
  await dialog.getByLabel("Invitation expires").selectOption("At a date…");
  await dialog.getByLabel("Date and time").fill("2040-01-01T00:00");
  await dialog.getByRole("button", { name: "Send invitation" }).click();
  await dialog.getByText("The limit is one year.").waitFor();
});

test("a link is created with limits, shown as QR code, and revoked", async () => {
  const jo = await env.signUp("jo", { permissions: ["clipboard-read", "clipboard-write"] });
  const dialog = await openInviteDialog(jo, await createPrivateRoom(jo, "Linked"), "Links");
  await dialog.getByLabel("Link expires").selectOption("In 1 day");
  await dialog.getByLabel("Number of uses").fill("3");
  await dialog.getByLabel("Label").fill("Tennis club");
  await dialog.getByRole("button", { name: "Create link" }).click();
  const link = dialog.getByRole("listitem").filter({ hasText: "Tennis club" });
  await link.getByText("3 of 3 uses left").waitFor();
  const address = await link.getByLabel("Address of Tennis club").inputValue();
  expect(address).toMatch(/\/#\/invite\/.+/);
  await link.getByRole("button", { name: "Copy Tennis club" }).click();
  await expect.poll(async () => jo.page.evaluate(async () => navigator.clipboard.readText())).toBe(address);
  await link.getByRole("button", { name: "QR code of Tennis club" }).click();
  await link.getByRole("img", { name: "QR code of Tennis club" }).waitFor();

  await link.getByRole("button", { name: "Revoke Tennis club" }).click();
  await expect.poll(async () => link.count()).toBe(0);
  const stranger = await env.openBrowser();
  await stranger.page.goto(address);
  await stranger.page.getByRole("heading", { name: "This invitation is no longer valid" }).waitFor();
  expect(jo.consoleErrors).toEqual([]);
});

test("a new user registers through a link and lands in the room", async () => {
  const kim = await env.signUp("kim");
  const id = await createPrivateRoom(kim, "Welcome room");
  const link = await env.request(await env.accessTokenOf(kim), "POST", `/_parlour/client/v1/rooms/${encodeURIComponent(id)}/invite_links`, { max_uses: 1 });
  const lea = await env.openBrowser();
  await lea.page.goto(`/#/invite/${String(link["token"])}`);
  await lea.page.getByText("Welcome room").waitFor();
  await lea.page.getByText("kim invites you").waitFor();
  await lea.page.getByRole("button", { name: "Create an account" }).click();
  await lea.page.getByLabel("User name").fill("lea");
  await lea.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await lea.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
  await lea.page.getByRole("button", { name: "Create account" }).click();
  await lea.page.getByRole("main").getByRole("heading", { name: "Welcome room" }).waitFor();
  expect(decodeURIComponent(lea.page.url())).toContain(id);

  const late = await env.openBrowser();
  await late.page.goto(`/#/invite/${String(link["token"])}`);
  await late.page.getByRole("heading", { name: "This invitation is no longer valid" }).waitFor();
  expect(lea.consoleErrors).toEqual([]);
});

test("an existing user signs in through a link and lands in the room", async () => {
  const max = await env.signUp("max");
  const id = await createPrivateRoom(max, "Reading");
  await env.registerAccount("nina");
  const link = await env.request(await env.accessTokenOf(max), "POST", `/_parlour/client/v1/rooms/${encodeURIComponent(id)}/invite_links`, {});
  const nina = await env.openBrowser();
  await nina.page.goto(`/#/invite/${String(link["token"])}`);
  await nina.page.getByRole("button", { name: "Sign in" }).click();
  await nina.page.getByLabel("User name").fill("nina");
  await nina.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await nina.page.getByRole("button", { name: "Sign in" }).click();
  await nina.page.getByRole("main").getByRole("heading", { name: "Reading" }).waitFor();
});

test("a signed-in user sees the room of a link before joining", async () => {
  const [olga, pia] = [await env.signUp("olga"), await env.signUp("pia")];
  const id = await createPrivateRoom(olga, "Orchestra");
  const link = await env.request(await env.accessTokenOf(olga), "POST", `/_parlour/client/v1/rooms/${encodeURIComponent(id)}/invite_links`, {});
  await pia.page.goto(`/#/invite/${String(link["token"])}`);
  await pia.page.getByRole("main").getByRole("heading", { name: "Orchestra" }).waitFor();
  await pia.page.getByText("olga invites you to this room").waitFor();
  await pia.page.getByRole("main").getByRole("button", { name: "Join" }).click();
  await pia.page
    .getByRole("list", { name: "Rooms and chats" })
    .getByRole("link", { name: /Orchestra/ })
    .waitFor();
  await pia.page.goto("/#/invite/nosuchtoken");
  await pia.page.getByRole("heading", { name: "This invitation is no longer valid" }).waitFor();
});
