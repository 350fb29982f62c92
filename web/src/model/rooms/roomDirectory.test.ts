import { expect, test } from "vitest";
import { parseAddress } from "./roomDirectory.ts";

test("an alias, an id and a user's id are addresses", () => {
  expect(parseAddress(" #tea:example.org ")).toEqual({ kind: "room", id: "#tea:example.org", via: [] });
  expect(parseAddress("!abc")).toEqual({ kind: "room", id: "!abc", via: [] });
  expect(parseAddress("@ann:example.org")).toEqual({ kind: "user", id: "@ann:example.org" });
});

test("matrix: addresses are read", () => {
  expect(parseAddress("matrix:r/tea:example.org?action=join&via=one.org")).toEqual({ kind: "room", id: "#tea:example.org", via: ["one.org"] });
  expect(parseAddress("matrix:roomid/abc:example.org/e/event?via=a&via=b")).toEqual({ kind: "room", id: "!abc:example.org", via: ["a", "b"] });
  expect(parseAddress("matrix:u/ann:example.org")).toEqual({ kind: "user", id: "@ann:example.org" });
});

test("links of matrix.to are read", () => {
  expect(parseAddress("https://matrix.to/#/%23tea%3Aexample.org?via=one.org")).toEqual({ kind: "room", id: "#tea:example.org", via: ["one.org"] });
  expect(parseAddress("https://matrix.to/#/@ann:example.org")).toEqual({ kind: "user", id: "@ann:example.org" });
});

test("other text is no address", () => {
  for (const typed of ["", "tea", "#tea", "# tea:x", "@ann", "https://example.org/#/#tea:x", "matrix:e/x"]) {
    expect(parseAddress(typed), typed).toBe(null);
  }
});
