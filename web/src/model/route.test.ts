import { expect, test } from "vitest";
import { parseRoute, type Route, routeHref } from "./route.ts";

test("every route has an address that parses back to it", () => {
  const places: Route[] = [
    { at: "home" },
    { at: "room", id: "!a/b#c:example.org" },
    { at: "room", id: "!a", event: "$e/1" },
    { at: "people" },
    { at: "explore" },
    { at: "settings", tab: "devices" },
    { at: "invite", token: "a-b_c/d" },
    { at: "register" },
    { at: "login" },
  ];
  for (const place of places) expect(parseRoute(routeHref(place))).toEqual(place);
});

test("an unknown address leads home", () => {
  for (const hash of ["", "#", "#/", "#/nowhere", "#/room/", "#/invite", "#/%E0%A4%A"]) expect(parseRoute(hash)).toEqual({ at: "home" });
});

test("settings without a tab show the profile", () => {
  expect(parseRoute("#/settings")).toEqual({ at: "settings", tab: "profile" });
});
