// The address in the browser, as a signal.

import { signal } from "@preact/signals";
import { hrefOf, parseRoute, type Route } from "../model/route.ts";

export const route = signal<Route>(parseRoute(location.hash));
addEventListener("hashchange", () => (route.value = parseRoute(location.hash)));

export function go(to: Route, replace = false): void {
  const href = hrefOf(to);
  if (replace) {
    history.replaceState(null, "", location.pathname + href);
    route.value = to;
  } else {
    location.hash = href;
  }
}

/** The registration token of the link that the server prints, or that an administrator made. */
export function registrationToken(): string | null {
  return new URLSearchParams(location.search).get("registration_token");
}

/** Takes the registration token out of the address once it is used. */
export function forgetRegistrationToken(): void {
  history.replaceState(null, "", location.pathname + location.hash);
}
