// The messages that the service worker sends to the open pages.

import type { Route } from "../model/route.ts";

export type WorkerMessage =
  /** The server wants to know that a new pusher works; the worker has no access token to say so itself. */
  | { type: "acknowledge"; appId: string; ackToken: string }
  /** The user clicked a notification. */
  | { type: "open-route"; route: Route }
  /** The browser ended or replaced the push subscription. */
  | { type: "subscription-changed" };
