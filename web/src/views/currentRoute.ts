// The route of the page, as a signal.

import { signal } from "@preact/signals";
import { parseRoute, type Route, routeHref } from "../model/route.ts";

export const currentRoute = signal<Route>(parseRoute(location.hash));
addEventListener("hashchange", () => (currentRoute.value = parseRoute(location.hash)));

export function navigate(to: Route, replace = false): void {
  const href = routeHref(to);
  if (replace) {
    history.replaceState(null, "", location.pathname + href);
    currentRoute.value = to;
  } else {
    location.hash = href;
  }
}

/** Returns the registration token of the link that the server prints or an administrator made. */
export function registrationToken(): string | null {
  return new URLSearchParams(location.search).get("registration_token");
}

/** Removes a used registration token from the address. */
export function removeRegistrationToken(): void {
  history.replaceState(null, "", location.pathname + location.hash);
}
