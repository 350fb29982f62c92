// Whether this browser shows notifications. The setting belongs to the browser, not to the account.

import { signal } from "@preact/signals";

const STORAGE_KEY = "parlour.notifications";

export const notificationsEnabled = signal(localStorage.getItem(STORAGE_KEY) !== "off");

export function setNotificationsEnabled(enabled: boolean): void {
  localStorage.setItem(STORAGE_KEY, enabled ? "on" : "off");
  notificationsEnabled.value = enabled;
}
