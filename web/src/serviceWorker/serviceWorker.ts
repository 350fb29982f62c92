// The service worker: it shows notifications while no tab of the page is visible. It answers no requests of the page and
// stores nothing. vite.config.ts builds it as /service-worker.js.

import { type Route, routeHref } from "../model/route.ts";
import { parsePushMessage, pushNotification, readAcknowledgement } from "./pushMessage.ts";
import type { WorkerMessage } from "./workerMessage.ts";

declare const self: ServiceWorkerGlobalScope;

const ICON_PATH = "/assets/icon.svg";

// A new version can replace this one at any time, because the pages do not depend on it.
self.addEventListener("install", (event) => event.waitUntil(self.skipWaiting()));

self.addEventListener("push", (event) => event.waitUntil(handlePush(event.data?.text())));

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(openRoute(event.notification.data as Route));
});

self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(sendToPages({ type: "subscription-changed" })));

async function handlePush(text: string | undefined): Promise<void> {
  const message = parsePushMessage(text);
  const acknowledgement = readAcknowledgement(message);
  if (acknowledgement !== null) return sendToPages(acknowledgement);
  // A visible page shows its own notifications, and those only for rooms that are not in view.
  if ((await pages()).some(({ visibilityState }) => visibilityState === "visible")) return;
  const { title, body, tag, silent, route } = pushNotification(message);
  // Without `renotify`, only the first message of a room would be announced. TypeScript does not know this option.
  const options: NotificationOptions & { renotify: boolean } = { body, tag, silent, icon: ICON_PATH, data: route, renotify: true };
  await self.registration.showNotification(title, options);
}

/** Shows a view in an open tab, or in a new one. */
async function openRoute(route: Route): Promise<void> {
  const open = await pages();
  const page = open.find(({ focused }) => focused) ?? open.find(({ visibilityState }) => visibilityState === "visible") ?? open[0];
  if (page === undefined) {
    await self.clients.openWindow(`/${routeHref(route)}`);
    return;
  }
  page.postMessage({ type: "open-route", route } satisfies WorkerMessage);
  await page.focus();
}

async function sendToPages(message: WorkerMessage): Promise<void> {
  for (const page of await pages()) page.postMessage(message);
}

/** Returns the tabs and windows of the chat page, but no other documents of this server. */
async function pages(): Promise<readonly WindowClient[]> {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  return windows.filter(({ url }) => new URL(url).pathname === "/");
}
