// The pages on which the server signs users in, registers them, lets apps in, and shows the account. They need no script.

import { createHash, randomBytes } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { expectAccessible } from "./axe.ts";
import { PASSWORD, testEnvironment } from "./harness.ts";

const env = testEnvironment();
const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";
const COLOR_SCHEMES = ["light", "dark"] as const;

/** An app on the same computer, to which the browser is sent back. */
class LocalApp {
  private server!: Server;
  private clientId = "";
  private metadata: Record<string, string> = {};
  private readonly verifier = randomBytes(32).toString("base64url");
  redirectUri = "";

  async start(): Promise<void> {
    this.server = createServer((_, response) => response.setHeader("Content-Type", "text/html").end("<h1>Back in the app</h1>"));
    await new Promise<void>((done) => this.server.listen(0, "127.0.0.1", done));
    this.redirectUri = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/callback`;
    this.metadata = (await env.request("", "GET", "/_matrix/client/v1/auth_metadata")) as Record<string, string>;
    const client = await env.request("", "POST", this.pathOf("registration_endpoint"), {
      client_name: "Example App",
      client_uri: "https://app.example.org/",
      policy_uri: "https://app.example.org/privacy",
      redirect_uris: ["http://127.0.0.1/callback"],
      grant_types: ["authorization_code", "refresh_token", DEVICE_GRANT],
      response_types: ["code"],
      application_type: "native",
    });
    this.clientId = client["client_id"] as string;
  }

  async stop(): Promise<void> {
    await new Promise((done) => this.server.close(done));
  }

  private pathOf(endpoint: string): string {
    return new URL(this.metadata[endpoint]!).pathname;
  }

  /** Returns the address with which the app asks to sign a device in. */
  signInAddress(deviceId: string, further: Record<string, string> = {}): string {
    const parameters = new URLSearchParams({
      response_type: "code",
      client_id: this.clientId,
      redirect_uri: this.redirectUri,
      scope: `urn:matrix:client:api:* urn:matrix:client:device:${deviceId}`,
      state: "some-state",
      code_challenge: createHash("sha256").update(this.verifier).digest("base64url"),
      code_challenge_method: "S256",
      ...further,
    });
    return `${this.pathOf("authorization_endpoint")}?${parameters}`;
  }

  /** Returns the user and the device that the app has signed in, from the address to which the browser was sent. */
  async signedInAt(address: string): Promise<Record<string, unknown>> {
    const result = new URL(address).searchParams;
    expect(result.get("state")).toBe("some-state");
    const tokens = await this.sendForm("token_endpoint", {
      grant_type: "authorization_code",
      code: result.get("code")!,
      redirect_uri: this.redirectUri,
      client_id: this.clientId,
      code_verifier: this.verifier,
    });
    return env.request(tokens["access_token"] as string, "GET", "/_matrix/client/v3/account/whoami");
  }

  /** Begins to sign in a device without a browser. */
  async waitForCode(deviceId: string): Promise<{ userCode: string; tokens: () => Promise<Record<string, unknown>> }> {
    const begun = await this.sendForm("device_authorization_endpoint", {
      client_id: this.clientId,
      scope: `urn:matrix:client:api:* urn:matrix:client:device:${deviceId}`,
    });
    const form = { grant_type: DEVICE_GRANT, device_code: begun["device_code"] as string, client_id: this.clientId };
    return { userCode: begun["user_code"] as string, tokens: async () => this.sendForm("token_endpoint", form) };
  }

  private async sendForm(endpoint: string, fields: Record<string, string>): Promise<Record<string, unknown>> {
    const response = await fetch(env.server.url + this.pathOf(endpoint), { method: "POST", body: new URLSearchParams(fields) });
    return (await response.json()) as Record<string, unknown>;
  }
}

const app = new LocalApp();
beforeAll(async () => app.start());
afterAll(async () => app.stop());

async function fillSignIn(page: Page, name: string): Promise<void> {
  await page.getByLabel("User name or e-mail address").fill(name);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in" }).click();
}

test("an app signs a user in, without scripts", async () => {
  await env.registerAccount("ada");
  const { page } = await env.openBrowser({ javaScriptEnabled: false });
  await page.goto(app.signInAddress("PHONE"));
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.getByLabel("User name or e-mail address").fill("ada");
  await page.getByLabel("Password").fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("wrong").waitFor();
  await fillSignIn(page, "ada");
  await page.getByText("Example App").waitFor();
  await page.getByText("app.example.org").waitFor();
  await page.getByRole("button", { name: "Let it sign in" }).click();
  await page.getByRole("heading", { name: "Back in the app" }).waitFor();
  const identity = await app.signedInAt(page.url());
  expect(identity).toMatchObject({ user_id: expect.stringContaining("@ada:"), device_id: "PHONE" });
});

test("a user who cancels goes back to the app", async () => {
  await env.registerAccount("cleo");
  const { page } = await env.openBrowser();
  await page.goto(app.signInAddress("PHONE"));
  await fillSignIn(page, "cleo");
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("heading", { name: "Back in the app" }).waitFor();
  expect(new URL(page.url()).searchParams.get("error")).toBe("access_denied");
});

test("a user registers on the way to an app", async () => {
  const { page } = await env.openBrowser({ javaScriptEnabled: false });
  await page.goto(app.signInAddress("PHONE", { prompt: "create" }));
  await page.getByRole("heading", { name: "Create an account" }).waitFor();
  await page.getByLabel("User name").fill("brand-new");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Create the account" }).click();
  await page.getByRole("button", { name: "Let it sign in" }).click();
  await page.getByRole("heading", { name: "Back in the app" }).waitFor();
  expect(await app.signedInAt(page.url())).toMatchObject({ user_id: expect.stringContaining("@brand-new:") });
});

test("another user of the same browser can sign in", async () => {
  await env.registerAccount("one");
  await env.registerAccount("two");
  const { page } = await env.openBrowser();
  await page.goto(app.signInAddress("PHONE"));
  await fillSignIn(page, "one");
  await page.getByRole("button", { name: "Use another account" }).click();
  await fillSignIn(page, "two");
  await page.getByText("@two:").waitFor();
  await page.getByRole("button", { name: "Let it sign in" }).click();
  await page.getByRole("heading", { name: "Back in the app" }).waitFor();
  expect(await app.signedInAt(page.url())).toMatchObject({ user_id: expect.stringContaining("@two:") });
});

test("a user enters the code of a device without a browser", async () => {
  await env.registerAccount("tess");
  const waiting = await app.waitForCode("TELEVISION");
  expect(await waiting.tokens()).toMatchObject({ error: "authorization_pending" });
  const { page } = await env.openBrowser({ javaScriptEnabled: false });
  await page.goto("/link");
  await fillSignIn(page, "tess");
  await page.getByLabel("Code").fill(waiting.userCode.toLowerCase());
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByText(waiting.userCode).waitFor();
  await page.getByRole("button", { name: "Let it sign in" }).click();
  await page.getByText("is being signed in").waitFor();
  expect(await waiting.tokens()).toMatchObject({ token_type: "Bearer" });
});

test("a user changes the name, and signs a device out", async () => {
  const { access_token, device_id } = await env.registerAccount("nora");
  const { page } = await env.openBrowser();
  await page.goto("/_parlour/account");
  await fillSignIn(page, "nora");
  await page.getByLabel("Display name").fill("Nora <3");
  await page.getByRole("button", { name: "Save" }).click();
  await expect.poll(async () => page.getByLabel("Display name").inputValue()).toBe("Nora <3");
  await page.getByRole("link", { name: device_id }).click();
  await page.getByRole("button", { name: "Sign this device out" }).click();
  await page.getByRole("heading", { name: "Your account" }).waitFor();
  await expect(env.request(access_token, "GET", "/_matrix/client/v3/account/whoami")).rejects.toThrow("M_UNKNOWN_TOKEN");
});

test.for(COLOR_SCHEMES)("the pages are accessible, %s", async (colorScheme) => {
  const name = `axel-${colorScheme}`;
  const { device_id } = await env.registerAccount(name);
  const { page, consoleErrors } = await env.openBrowser({ colorScheme });
  const waiting = await app.waitForCode("TELEVISION");
  await page.goto(app.signInAddress("PHONE"));
  await expectAccessible(page, "sign in");
  await page.goto("/_parlour/register");
  await expectAccessible(page, "register");
  await page.goto(app.signInAddress("PHONE"));
  await fillSignIn(page, name);
  await page.getByRole("button", { name: "Let it sign in" }).waitFor();
  await expectAccessible(page, "question");
  const account = "/_parlour/account";
  for (const address of [
    account,
    `${account}?action=org.matrix.device_view&device_id=${device_id}`,
    `${account}?action=org.matrix.account_deactivate`,
    `${account}?action=org.matrix.cross_signing_reset`,
    `${account}?action=org.matrix.device_view&device_id=UNKNOWN`,
    "/link",
    `/link?user_code=${waiting.userCode}`,
  ]) {
    await page.goto(address);
    await expectAccessible(page, address);
  }
  expect(consoleErrors).toEqual([]);
});
