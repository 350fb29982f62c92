// Checks pages with axe.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";
import { expect } from "vitest";

/** Returns the problems that axe finds by WCAG 2.2 AA and its best practices. */
async function accessibilityProblems(page: Page): Promise<string[]> {
  const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  // Evaluated instead of added as a script, which the Content-Security-Policy forbids.
  await page.evaluate(source);
  return page.evaluate(async () => {
    interface Axe {
      run(context: Document, options: unknown): Promise<{ violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }>;
    }
    const { violations } = await (window as unknown as { axe: Axe }).axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    });
    return violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary ?? ""}`));
  });
}

/** Checks a page once its animations are over. `screen` names it in a failure. */
export async function expectAccessible(page: Page, screen: string): Promise<void> {
  await page.evaluate(async () =>
    Promise.all(
      document
        .getAnimations()
        .map(async (animation) => animation.finish !== undefined && animation.effect?.getComputedTiming().iterations !== Infinity && animation.finish()),
    ),
  );
  expect(await accessibilityProblems(page), screen).toEqual([]);
}
