// The routes of the page. They are in the address after `#`, so that the browser's back button works.

import { decodeUriPart } from "./server/decodeUriPart.ts";

export type Route =
  | { at: "home" }
  | { at: "room"; id: string; event?: string }
  | { at: "people" }
  | { at: "explore" }
  | { at: "settings"; tab: string }
  | { at: "invite"; token: string }
  | { at: "register" }
  | { at: "login" };

export function parseRoute(hash: string): Route {
  const [first = "", second = "", third = ""] = hash
    .replace(/^#?\/?/, "")
    .split("/")
    .map(decodeUriPart);
  switch (first) {
    case "room":
      return second === "" ? { at: "home" } : { at: "room", id: second, ...(third === "" ? {} : { event: third }) };
    case "invite":
      return second === "" ? { at: "home" } : { at: "invite", token: second };
    case "settings":
      return { at: "settings", tab: second === "" ? "profile" : second };
    case "people":
    case "explore":
    case "register":
    case "login":
      return { at: first };
    default:
      return { at: "home" };
  }
}

export function routeHref(route: Route): string {
  switch (route.at) {
    case "home":
      return "#/";
    case "room":
      return `#/room/${encodeURIComponent(route.id)}${route.event === undefined ? "" : `/${encodeURIComponent(route.event)}`}`;
    case "invite":
      return `#/invite/${encodeURIComponent(route.token)}`;
    case "settings":
      return `#/settings/${encodeURIComponent(route.tab)}`;
    default:
      return `#/${route.at}`;
  }
}
