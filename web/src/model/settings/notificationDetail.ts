// How much of a message a notification says when the page is closed.

export type NotificationDetail = "nothing" | "sender" | "text";

/** The field of the pusher's `default_payload`, with which the server tells the service worker the setting. */
export const NOTIFICATION_DETAIL_FIELD = "notification_detail";

export function isNotificationDetail(value: unknown): value is NotificationDetail {
  return value === "nothing" || value === "sender" || value === "text";
}
