import { expect, test } from "vitest";
import { PASSWORD, type TestUser, testEnvironment } from "./harness.ts";

const env = testEnvironment({ PARLOUR__REGISTRATION__OPEN: "true" });

async function typeNewAccount({ page }: TestUser, name: string): Promise<void> {
  await page.getByLabel("User name").fill(name);
  await page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);
}

async function signIn({ page }: TestUser, name: string, password = PASSWORD): Promise<void> {
  await page.getByLabel("User name").fill(name);
  await page.getByLabel("Password", { exact: true }).fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

async function waitUntilSignedIn({ page }: TestUser): Promise<void> {
  await page.getByText("Choose a conversation").waitFor();
}

test("the first link makes an administrator, who stays logged in over a reload", async () => {
  const admin = await env.openBrowser();
  await admin.page.goto(env.server.firstLink);
  await admin.page.getByRole("heading", { name: "Create an account" }).waitFor();
  await typeNewAccount(admin, "admin");
  await admin.page.getByRole("button", { name: "Create account" }).click();
  await waitUntilSignedIn(admin);
  expect(admin.page.url()).not.toContain("registration_token");
  const { capabilities } = await env.request(await env.accessTokenOf(admin), "GET", "/_matrix/client/v3/capabilities");
  expect(capabilities).toMatchObject({ "m.account_moderation": { suspend: true } });

  await admin.page.reload();
  await waitUntilSignedIn(admin);
  expect(admin.consoleErrors).toEqual([]);
});

test("a used registration link says so", async () => {
  const late = await env.openBrowser();
  await late.page.goto(env.server.firstLink);
  await late.page.getByText("already been used").waitFor();
  await late.page.getByRole("link", { name: "Sign in" }).click();
  await late.page.getByRole("heading", { name: "Sign in" }).waitFor();
});

test("with open registration a user registers, signs out and in again", async () => {
  const ann = await env.openBrowser();
  await ann.page.goto("/");
  await ann.page.getByRole("link", { name: "Create an account" }).click();
  await typeNewAccount(ann, "ann");
  await ann.page.getByText("@ann is free").waitFor();
  await ann.page.getByRole("button", { name: "Create account" }).click();
  await waitUntilSignedIn(ann);

  await ann.page.getByRole("button", { name: "ann account" }).click();
  await ann.page.getByRole("menuitem", { name: "Sign out" }).click();
  await ann.page.getByRole("button", { name: "Sign out" }).click();
  await ann.page.getByRole("heading", { name: "Sign in" }).waitFor();
  await ann.page.reload();
  await ann.page.getByRole("heading", { name: "Sign in" }).waitFor();

  await signIn(ann, "ann", "not the password");
  await ann.page.getByRole("alert").filter({ hasText: /\S/ }).waitFor();
  await signIn(ann, "ann");
  await waitUntilSignedIn(ann);
});

test("a taken name and different passwords are reported before sending", async () => {
  await env.registerAccount("taken");
  const bob = await env.openBrowser();
  await bob.page.goto("/#/register");
  await bob.page.getByLabel("User name").fill("Taken");
  await bob.page.getByText("This name is taken.").waitFor();
  await bob.page.getByLabel("Password", { exact: true }).fill("long enough for all");
  await bob.page.getByLabel("Repeat the password", { exact: true }).fill("something else");
  await bob.page.getByText("The passwords do not match yet.").waitFor();
  await bob.page.getByRole("button", { name: "Create account" }).click();
  await bob.page.getByText("The two passwords do not match.").waitFor();
});

test("a password can be shown while it is typed", async () => {
  const eve = await env.openBrowser();
  await eve.page.goto("/");
  const field = eve.page.getByLabel("Password", { exact: true });
  await field.fill("secret words");
  expect(await field.getAttribute("type")).toBe("password");
  await eve.page.getByRole("button", { name: "Show what is typed: Password" }).click();
  expect(await field.getAttribute("type")).toBe("text");
});

test("after a soft logout the user signs in again on the same device", async () => {
  const carol = await env.signUp("carol");
  await waitUntilSignedIn(carol);
  const before = await carol.page.evaluate(() => localStorage.getItem("parlour.session")!);
  await carol.page.goto("/#/people");
  await carol.page.route("**/_matrix/client/**", async (route) => {
    const path = new URL(route.request().url()).pathname;
    if (/login|register/.test(path)) return route.fallback();
    await route.fulfill({ status: 401, json: { errcode: "M_UNKNOWN_TOKEN", error: "again, please", soft_logout: true } });
  });
  await carol.page.reload();
  await carol.page.getByRole("heading", { name: "Sign in again" }).waitFor();
  await carol.page.getByText("@carol:localhost").waitFor();
  await carol.page.unroute("**/_matrix/client/**");

  await carol.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await carol.page.getByRole("button", { name: "Sign in" }).click();
  await carol.page.getByRole("heading", { name: "People" }).waitFor();
  const after = await carol.page.evaluate(() => localStorage.getItem("parlour.session")!);
  expect((JSON.parse(after) as { deviceId: string }).deviceId).toBe((JSON.parse(before) as { deviceId: string }).deviceId);
});

test("a session ended by another device leads back to signing in", async () => {
  const dave = await env.signUp("dave");
  await waitUntilSignedIn(dave);
  await env.request(await env.accessTokenOf(dave), "POST", "/_matrix/client/v3/logout");
  await dave.page.getByRole("heading", { name: "Sign in" }).waitFor();
});
