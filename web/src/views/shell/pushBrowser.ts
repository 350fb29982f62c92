// The browser's functions for Web Push, and the messages of the service worker.

import { UserFacingError } from "../../model/server/api.ts";
import { PERMISSION_PROBLEM, type PushBrowser, type PushSubscriptionInfo } from "../../model/settings/webPush.ts";
import type { WorkerMessage } from "../../serviceWorker/workerMessage.ts";
import { notificationPermission, requestNotificationPermission } from "./notificationPreference.ts";

const SERVICE_WORKER_PATH = "/service-worker.js";

export const pushBrowser: PushBrowser = {
  unsupportedReason: unsupportedReason(),
  permission: () => notificationPermission.value,
  requestPermission: requestNotificationPermission,
  currentSubscription: async () => subscriptionInfo((await (await registration())?.pushManager.getSubscription()) ?? null),
  subscribe: async (serverKey) => {
    const active = await startServiceWorker();
    try {
      return subscriptionInfo(await active.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: serverKey }));
    } catch (error) {
      const isRefused = error instanceof DOMException && error.name === "NotAllowedError";
      const problem = isRefused ? PERMISSION_PROBLEM : "The browser could not reach its push service. Some browsers and networks block it.";
      throw new UserFacingError(problem, { cause: error });
    }
  },
  unsubscribe: async () => {
    await (await (await registration())?.pushManager.getSubscription())?.unsubscribe();
  },
  closeNotifications: async (isClosed) => {
    for (const notification of (await (await registration())?.getNotifications()) ?? []) if (isClosed(notification.tag)) notification.close();
  },
};

/** Calls a function with each message of the service worker. Returns a function that stops this. */
export function listenToServiceWorker(handle: (message: WorkerMessage) => void): () => void {
  if (!("serviceWorker" in navigator)) return () => {};
  const listener = (event: MessageEvent) => handle(event.data as WorkerMessage);
  navigator.serviceWorker.addEventListener("message", listener);
  return () => navigator.serviceWorker.removeEventListener("message", listener);
}

function unsupportedReason(): string | null {
  if (!window.isSecureContext) return "This needs a secure address, which starts with https.";
  if ("serviceWorker" in navigator && "PushManager" in window && "Notification" in window) return null;
  return "This browser cannot receive notifications for a closed page. On an iPhone or iPad, add the page to the home screen and open it from there.";
}

/** Returns the registration of the service worker, if it has been started before. */
async function registration(): Promise<ServiceWorkerRegistration | undefined> {
  return pushBrowser.unsupportedReason === null ? navigator.serviceWorker.getRegistration() : undefined;
}

async function startServiceWorker(): Promise<ServiceWorkerRegistration> {
  try {
    await navigator.serviceWorker.register(SERVICE_WORKER_PATH);
    return await navigator.serviceWorker.ready;
  } catch (error) {
    throw new UserFacingError("The browser could not start the page's service worker. Reload the page and try again.", { cause: error });
  }
}

function subscriptionInfo(subscription: PushSubscription): PushSubscriptionInfo;
function subscriptionInfo(subscription: PushSubscription | null): PushSubscriptionInfo | null;
function subscriptionInfo(subscription: PushSubscription | null): PushSubscriptionInfo | null {
  if (subscription === null) return null;
  const serverKey = subscription.options.applicationServerKey;
  return {
    endpoint: subscription.endpoint,
    p256dh: toBase64Url(subscription.getKey("p256dh")),
    auth: toBase64Url(subscription.getKey("auth")),
    serverKey: serverKey && toBase64Url(serverKey),
  };
}

function toBase64Url(bytes: ArrayBuffer | null): string {
  const base64 = btoa(String.fromCharCode(...new Uint8Array(bytes ?? new ArrayBuffer(0))));
  return base64.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
