import { expect, test } from "vitest";
import { matrixLinkTarget, safeHref, splitAtLinks } from "./links.ts";

test.each([
  ["see https://example.org.", "https://example.org", "https://example.org/"],
  ["(https://example.org/a_(b))", "https://example.org/a_(b)", "https://example.org/a_(b)"],
  ["www.example.org/x, yes", "www.example.org/x", "https://www.example.org/x"],
  ["«https://example.org/?q=1&r=2»", "https://example.org/?q=1&r=2»", "https://example.org/?q=1&r=2%C2%BB"],
])("in %j the address is found", (text, shown, href) => {
  const found = splitAtLinks(text);
  expect(found.find((piece) => piece.href !== undefined)).toEqual({ text: shown, href });
  expect(found.map((piece) => piece.text).join("")).toBe(text);
});

test.each(["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "//example.org", "ftp://example.org"])(
  "%j may not be opened",
  (href) => {
    expect(safeHref(href)).toBeUndefined();
    expect(splitAtLinks(href).every((piece) => piece.href === undefined)).toBe(true);
  },
);

test("matrix.to links and matrix: addresses have a target", () => {
  expect(matrixLinkTarget("https://matrix.to/#/@ann:x")).toEqual({ kind: "user", id: "@ann:x" });
  expect(matrixLinkTarget("https://matrix.to/#/%40ann%3Ax")).toEqual({ kind: "user", id: "@ann:x" });
  expect(matrixLinkTarget("https://matrix.to/#/!r:x/$e?via=x")).toEqual({ kind: "room", id: "!r:x", event: "$e" });
  expect(matrixLinkTarget("matrix:u/ann:x")).toEqual({ kind: "user", id: "@ann:x" });
  expect(matrixLinkTarget("https://example.org/#/@ann:x")).toBeUndefined();
});
