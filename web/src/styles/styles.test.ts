import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..");

test("a class belongs to one style sheet", () => {
  const owners = new Map<string, Set<string>>();
  for (const file of readdirSync(ROOT, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".css")) continue;
    for (const name of classesOf(readFileSync(join(ROOT, file), "utf8"))) {
      owners.set(name, (owners.get(name) ?? new Set()).add(file));
    }
  }
  const shared = [...owners].filter(([, files]) => files.size > 1).map(([name, files]) => `.${name}: ${[...files].join(", ")}`);
  expect(shared).toEqual([]);
});

/** The classes with which selectors begin: what stands after them belongs to them. */
function classesOf(css: string): Set<string> {
  const rules = css.replace(/\/\*.*?\*\//gs, "").matchAll(/([^{};]+)\{/g);
  const selectors = [...rules].flatMap(([, selectors = ""]) => selectors.split(","));
  const names = selectors.map((selector) => /^\.([\w-]+)/.exec(selector.trim())?.[1]);
  return new Set(names.filter((name) => name !== undefined));
}
