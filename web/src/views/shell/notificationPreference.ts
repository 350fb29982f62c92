// Whether this browser shows notifications. That is a matter of the browser, not of the account.

import { signal } from "@preact/signals";

const KEY = "parlour.notifications";

export const notificationsWanted = signal(localStorage.getItem(KEY) !== "off");

export function wantNotifications(wanted: boolean): void {
  localStorage.setItem(KEY, wanted ? "on" : "off");
  notificationsWanted.value = wanted;
}
