import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const SOURCE_FOLDER = join(import.meta.dirname, "..");

const sheets = readdirSync(SOURCE_FOLDER, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".css"))
  .map((file) => ({ file, selectors: selectorsOf(readFileSync(join(SOURCE_FOLDER, file), "utf8")) }));

/** Returns the style sheets that define each class by itself. */
function sheetsByClass(): Map<string, Set<string>> {
  const owners = new Map<string, Set<string>>();
  for (const { file, selectors } of sheets) {
    for (const selector of selectors) {
      const name = /^\.([\w-]+)/.exec(selector)?.[1];
      if (name !== undefined) owners.set(name, (owners.get(name) ?? new Set()).add(file));
    }
  }
  return owners;
}

test("a class belongs to one style sheet", () => {
  const shared = [...sheetsByClass()].filter(([, files]) => files.size > 1);
  expect(shared.map(([name, files]) => `.${name}: ${[...files].join(", ")}`)).toEqual([]);
});

test("a modifier class does not belong to another style sheet", () => {
  const owned = sheetsByClass();
  const mixed = sheets.flatMap(({ file, selectors }) =>
    selectors.flatMap((selector) => {
      const variants = [...selector.matchAll(/\.[\w-]+\.([\w-]+)/g)].map(([, name = ""]) => name);
      return variants.filter((name) => isForeign(name, file, owned)).map((name) => `${file}: .${name} in ${selector}`);
    }),
  );
  expect(mixed).toEqual([]);
});

/** Whether a class belongs to another sheet. Classes of components may be used everywhere. */
function isForeign(name: string, file: string, owned: Map<string, Set<string>>): boolean {
  const files = [...(owned.get(name) ?? [])];
  return files.length > 0 && !files.some((owner) => owner === file || owner.startsWith("views/components/"));
}

function selectorsOf(css: string): string[] {
  const rules = css.replace(/\/\*.*?\*\//gs, "").matchAll(/([^{};]+)\{/g);
  return [...rules].flatMap(([, selectors = ""]) => selectors.split(",").map((selector) => selector.trim()));
}
