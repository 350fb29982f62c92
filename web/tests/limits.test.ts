import { expect, test } from "vitest";
import { PASSWORD, testEnvironment } from "./harness.ts";

const env = testEnvironment({ PARLOUR__LIMITS__ENABLED: "true", PARLOUR__LIMITS__REGISTRATION_BURST: "1" });

test("a rate-limited registration shows how long to wait", async () => {
  await env.registerAccount("first");
  const second = await env.openBrowser();
  await second.page.goto("/#/register");
  await second.page.getByLabel("User name").fill("second");
  await second.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await second.page.getByLabel("Repeat the password", { exact: true }).fill(PASSWORD);

  await second.page.getByRole("button", { name: "Create account" }).click();

  const alert = second.page.getByRole("alert").filter({ hasText: /\S/ });
  expect(await alert.textContent()).toMatch(/^Too many attempts\. Try again in \d+ seconds\.$/);
});
