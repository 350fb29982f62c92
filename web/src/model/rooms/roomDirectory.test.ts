import { expect, test } from "vitest";
import { parseAddress } from "./roomDirectory.ts";

test("aliases, room ids and user ids are addresses", () => {
  expect(parseAddress(" #tea:example.org ")).toEqual({ kind: "room", id: "#tea:example.org", via: [] });
  expect(parseAddress("!abc")).toEqual({ kind: "room", id: "!abc", via: [] });
  expect(parseAddress("@ann:example.org")).toEqual({ kind: "user", id: "@ann:example.org" });
});

test("matrix: addresses are parsed", () => {
  expect(parseAddress("matrix:r/tea:example.org?action=join&via=one.org")).toEqual({ kind: "room", id: "#tea:example.org", via: ["one.org"] });
  expect(parseAddress("matrix:roomid/abc:example.org/e/event?via=a&via=b")).toEqual({ kind: "room", id: "!abc:example.org", via: ["a", "b"] });
  expect(parseAddress("matrix:u/ann:example.org")).toEqual({ kind: "user", id: "@ann:example.org" });
});

test("matrix.to links are parsed", () => {
  expect(parseAddress("https://matrix.to/#/%23tea%3Aexample.org?via=one.org")).toEqual({ kind: "room", id: "#tea:example.org", via: ["one.org"] });
  expect(parseAddress("https://matrix.to/#/@ann:example.org")).toEqual({ kind: "user", id: "@ann:example.org" });
});

test("other text is not an address", () => {
  for (const typed of ["", "tea", "#tea", "# tea:x", "@ann", "https://example.org/#/#tea:x", "matrix:e/x"]) {
    expect(parseAddress(typed), typed).toBe(null);
  }
});
