import { expect, test } from "vitest";
import { DOT_PNG, PASSWORD, type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment();

async function openTab({ page }: TestUser, tab: string): Promise<void> {
  await page.goto("/#/settings/profile");
  await page.getByRole("tab", { name: tab }).click();
  await page.getByRole("tabpanel", { name: tab }).waitFor();
}

async function logInElsewhere(name: string, device: string, password = PASSWORD): Promise<string> {
  const answer = await env.request("", "POST", "/_matrix/client/v3/login", {
    type: "m.login.password",
    identifier: { type: "m.id.user", user: name },
    password,
    initial_device_display_name: device,
  });
  return String(answer["access_token"]);
}

test("the display name and the picture are changed, and others see them", async () => {
  const [ann, bob] = [await env.signUp("ann"), await env.signUp("bob")];
  await openTab(ann, "Profile");
  await ann.page.getByLabel("Display name").fill("Ann Lee");
  await ann.page.getByRole("button", { name: "Save name" }).click();
  await ann.page.getByRole("button", { name: "Ann Lee account" }).waitFor();
  await ann.page.getByLabel("Picture").setInputFiles({ name: "dot.png", mimeType: "image/png", buffer: DOT_PNG });
  await ann.page.locator(".own-menu .avatar img").waitFor();

  await bob.page.getByRole("link", { name: "People" }).click();
  const row = bob.page.getByRole("main").getByRole("button", { name: /^Ann Lee/ });
  await row.locator("img").waitFor();
  await ann.page.getByRole("button", { name: "Remove" }).click();
  await expect.poll(async () => ann.page.locator(".own-menu .avatar img").count()).toBe(0);
  expect(ann.consoleErrors).toEqual([]);
});

test("changing the password requires the old one", async () => {
  const cara = await env.signUp("cara");
  const elsewhere = await logInElsewhere("cara", "Old phone");
  await openTab(cara, "Account");
  const change = async (current: string) => {
    await cara.page.getByLabel("Current password", { exact: true }).fill(current);
    await cara.page.getByLabel("New password", { exact: true }).fill("a new and better one");
    await cara.page.getByLabel("Repeat the password", { exact: true }).fill("a new and better one");
    await cara.page.getByRole("button", { name: "Change password" }).click();
  };
  await change("wrong");
  await cara.page.getByText("This is not the right password.").waitFor();
  await change(PASSWORD);
  await cara.page.getByText("Your password has been changed.").waitFor();
  await logInElsewhere("cara", "Phone", "a new and better one");
  await expect(env.request(elsewhere, "GET", "/_matrix/client/v3/account/whoami")).rejects.toThrow("401");
});

test("devices are listed, renamed, and signed out with the password", async () => {
  const dan = await env.signUp("dan");
  const phone = await logInElsewhere("dan", "Old phone");
  await logInElsewhere("dan", "Tablet");
  await logInElsewhere("dan", "Laptop");
  await openTab(dan, "Devices");
  const devices = dan.page.getByRole("tabpanel").getByRole("listitem");
  await expect.poll(async () => devices.count()).toBe(4);
  await devices.first().getByText("this device").waitFor();

  await dan.page.getByRole("button", { name: "Rename Tablet" }).click();
  await dan.page.getByRole("dialog").getByLabel("Name").fill("Kitchen tablet");
  await dan.page.getByRole("dialog").getByRole("button", { name: "Save" }).click();
  await devices.filter({ hasText: "Kitchen tablet" }).waitFor();

  await dan.page.getByRole("button", { name: "Sign out Old phone" }).click();
  const dialog = dan.page.getByRole("dialog", { name: "Sign out this device?" });
  await dialog.getByLabel("Your password", { exact: true }).fill("wrong");
  await dialog.getByRole("button", { name: "Sign out" }).click();
  await dialog.getByText("This is not the right password.").waitFor();
  await dialog.getByLabel("Your password", { exact: true }).fill(PASSWORD);
  await dialog.getByRole("button", { name: "Sign out" }).click();
  await expect.poll(async () => devices.count()).toBe(3);
  await expect(env.request(phone, "GET", "/_matrix/client/v3/account/whoami")).rejects.toThrow("401");

  await dan.page.getByRole("button", { name: "Sign out all others" }).click();
  await dan.page.getByRole("dialog").getByLabel("Your password", { exact: true }).fill(PASSWORD);
  await dan.page.getByRole("dialog").getByRole("button", { name: "Sign out" }).click();
  await expect.poll(async () => devices.count()).toBe(1);
});

test("turning presence off and on takes effect immediately", async () => {
  const eve = await env.signUp("eve");
  const token = await env.accessTokenOf(eve);
  const presence = async () => (await env.request(token, "GET", `/_matrix/client/v3/presence/${encodeURIComponent(eve.userId)}/status`))["presence"];
  await expect.poll(presence).toBe("online");
  await openTab(eve, "Privacy");
  await eve.page.getByRole("checkbox", { name: /When I am online/ }).click();
  await expect.poll(presence).toBe("offline");
  await eve.page.getByRole("checkbox", { name: /When I am online/ }).click();
  await expect.poll(presence).toBe("online");
});

test("the theme follows the system until the user chooses one", async () => {
  const finn = await env.signUp("finn", { colorScheme: "dark" });
  await openTab(finn, "Appearance");
  const ground = async () => finn.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  expect(await ground()).toBe("rgb(20, 23, 27)");
  await finn.page.getByRole("radio", { name: "Light" }).check();
  await expect.poll(ground).toBe("rgb(246, 244, 239)");
  await finn.page.reload();
  await finn.page.getByRole("radio", { name: "Light" }).waitFor();
  await expect.poll(ground).toBe("rgb(246, 244, 239)");
});

test("push rules and keywords are stored on the server", async () => {
  const gus = await env.signUp("gus");
  const token = await env.accessTokenOf(gus);
  await openTab(gus, "Notifications");
  await gus.page.getByRole("checkbox", { name: "Messages in rooms" }).click();
  await expect
    .poll(async () => (await env.request(token, "GET", "/_matrix/client/v3/pushrules/global/underride/.m.rule.message/enabled"))["enabled"])
    .toBe(false);
  await gus.page.getByLabel("Word", { exact: true }).fill("biscuits");
  await gus.page.getByRole("button", { name: "Add keyword" }).click();
  await gus.page.getByRole("button", { name: "Remove biscuits" }).waitFor();
  expect(await env.request(token, "GET", "/_matrix/client/v3/pushrules/global/content/biscuits")).toMatchObject({ pattern: "biscuits" });
  await gus.page.getByRole("button", { name: "Remove biscuits" }).click();
  await expect.poll(async () => gus.page.getByRole("button", { name: "Remove biscuits" }).count()).toBe(0);
});

test("notifications appear for other rooms, except muted ones", async () => {
  const [hana, ida] = [await env.signUp("hana", { permissions: ["notifications"] }), await env.signUp("ida")];
  await hana.page.addInitScript(() => {
    const shown: string[] = [];
    class Shown {
      static permission = "granted";
      static requestPermission = async () => "granted";
      constructor(title: string, { body }: { body: string }) {
        shown.push(`${title}: ${body}`);
      }
      close() {}
    }
    Object.assign(window, { Notification: Shown, shown });
  });
  const rooms: string[] = [];
  for (const name of ["Loud", "Quiet"]) {
    const { room_id } = await env.request(await env.accessTokenOf(ida), "POST", "/_matrix/client/v3/createRoom", { name, preset: "public_chat" });
    await env.request(await env.accessTokenOf(hana), "POST", `/_matrix/client/v3/join/${encodeURIComponent(String(room_id))}`, {});
    rooms.push(String(room_id));
  }
  const rule = { actions: [], conditions: [{ kind: "event_match", key: "room_id", pattern: rooms[1] }] };
  await env.request(await env.accessTokenOf(hana), "PUT", `/_matrix/client/v3/pushrules/global/override/${encodeURIComponent(rooms[1]!)}`, rule);
  await hana.page.reload();
  await hana.page.getByRole("list", { name: "Rooms and chats" }).getByRole("link", { name: /Loud/ }).waitFor();
  for (const room of [...rooms].reverse()) {
    const where = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/${crypto.randomUUID()}`;
    await env.request(await env.accessTokenOf(ida), "PUT", where, { msgtype: "m.text", body: "Hello" });
  }
  await expect.poll(async () => hana.page.evaluate(() => (window as unknown as { shown: string[] }).shown)).toEqual(["Loud: ida: Hello"]);
});

test("arrow keys move through the tabs", async () => {
  const jo = await env.signUp("jo");
  await openTab(jo, "Profile");
  await jo.page.getByRole("tab", { name: "Profile" }).focus();
  await jo.page.keyboard.press("ArrowDown");
  await jo.page.getByRole("tabpanel", { name: "Account" }).waitFor();
  await jo.page.keyboard.press("End");
  await jo.page.getByRole("tabpanel", { name: "About" }).waitFor();
  expect(await jo.page.evaluate(() => document.activeElement?.textContent)).toBe("About");
  await jo.page.getByText("localhost", { exact: true }).waitFor();
});

test("deactivating requires the typed user id and the password", async () => {
  const kim = await env.signUp("kim");
  await openTab(kim, "Account");
  await kim.page.getByRole("button", { name: "Deactivate account…" }).click();
  const dialog = kim.page.getByRole("dialog", { name: "Deactivate your account?" });
  expect(await dialog.getByRole("button", { name: "Deactivate permanently" }).isDisabled()).toBe(true);
  await dialog.getByLabel("Type your user id to continue").fill("@kim:localhost");
  await dialog.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await dialog.getByRole("button", { name: "Deactivate permanently" }).click();
  await kim.page.getByRole("heading", { name: "Sign in" }).waitFor();
  await expect(logInElsewhere("kim", "x")).rejects.toThrow("403");
});
