// Whether this browser shows notifications while the page is open. The setting belongs to the browser, not to the account.

import { signal } from "@preact/signals";

const STORAGE_KEY = "parlour.notifications";

export const notificationsEnabled = signal(localStorage.getItem(STORAGE_KEY) !== "off");

/** Whether the browser lets the page show notifications. */
export const notificationPermission = signal<NotificationPermission>("Notification" in window ? Notification.permission : "denied");

export function setNotificationsEnabled(enabled: boolean): void {
  localStorage.setItem(STORAGE_KEY, enabled ? "on" : "off");
  notificationsEnabled.value = enabled;
}

/** Asks the user for the permission, unless they have already decided. */
export async function requestNotificationPermission(): Promise<NotificationPermission> {
  if (notificationPermission.value === "default") notificationPermission.value = await Notification.requestPermission();
  return notificationPermission.value;
}
