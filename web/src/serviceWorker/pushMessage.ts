// Decides what the service worker does with a message of the server. Nothing here needs a browser.

import type { Route } from "../model/route.ts";
import { asRecord, asString, type Content } from "../model/server/events.ts";
import { localpart } from "../model/server/matrixId.ts";
import { isNotificationDetail, NOTIFICATION_DETAIL_FIELD } from "../model/settings/notificationDetail.ts";
import { messageSummary } from "../model/timeline/messageSummary.ts";
import type { WorkerMessage } from "./workerMessage.ts";

export interface PushNotification {
  title: string;
  body: string;
  /** The room: its newest notification replaces the one before. */
  tag: string;
  /** Whether the user's push rules want no sound. */
  silent: boolean;
  /** The view that a click opens. */
  route: Route;
}

type NotificationText = Pick<PushNotification, "title" | "body">;

const NEW_MESSAGE = "New message";

/** Returns the message for the pages if this is the first message to a new pusher, and null if it is about an event. */
export function readAcknowledgement(message: Content): WorkerMessage | null {
  const appId = asString(message["app_id"]);
  const ackToken = asString(message["ack_token"]);
  return appId === undefined || ackToken === undefined ? null : { type: "acknowledge", appId, ackToken };
}

/** Returns the notification for an event. The message is that of the push gateway API, without `devices`. */
export function pushNotification(message: Content): PushNotification {
  const roomId = asString(message["room_id"]);
  const eventId = asString(message["event_id"]);
  const tweaks = asRecord(message["tweaks"]);
  return {
    ...notificationText(message),
    tag: roomId ?? "parlour",
    silent: tweaks !== undefined && tweaks["sound"] === undefined,
    route: roomId === undefined ? { at: "home" } : { at: "room", id: roomId, ...(eventId === undefined ? {} : { event: eventId }) },
  };
}

/** Returns the JSON object of a push message; an empty one if it cannot be read. */
export function parsePushMessage(text: string | undefined): Content {
  try {
    return asRecord(JSON.parse(text ?? "{}")) ?? {};
  } catch {
    return {};
  }
}

function notificationText(message: Content): NotificationText {
  const detail = message[NOTIFICATION_DETAIL_FIELD];
  const sender = asString(message["sender_display_name"]) || localpart(asString(message["sender"]) ?? "");
  if (!isNotificationDetail(detail) || detail === "nothing" || sender === "") return { title: NEW_MESSAGE, body: "" };
  const roomName = asString(message["room_name"]) || asString(message["room_alias"]);
  if (isInvitation(message)) return invitationText(sender, roomName);
  const summary = detail === "text" ? summaryOf(message) : "";
  // A room without a name is a direct chat.
  const title = roomName ?? sender;
  if (summary === "") return { title, body: roomName === undefined ? NEW_MESSAGE : `${NEW_MESSAGE} from ${sender}` };
  if (asRecord(message["content"])?.["msgtype"] === "m.emote") return { title, body: `${sender} ${summary}` };
  return { title, body: roomName === undefined ? summary : `${sender}: ${summary}` };
}

function isInvitation(message: Content): boolean {
  // The server leaves out a large content. Of the events about the user's membership, only invitations cause notifications.
  const membership = asRecord(message["content"])?.["membership"] ?? "invite";
  return message["type"] === "m.room.member" && message["user_is_target"] === true && membership === "invite";
}

function invitationText(sender: string, roomName: string | undefined): NotificationText {
  if (roomName === undefined) return { title: "Invitation", body: `${sender} invited you to a conversation` };
  return { title: roomName, body: `${sender} invited you to this room` };
}

/** Returns a summary of the event; an empty text if the message has no content that can be described. */
function summaryOf(message: Content): string {
  const content = asRecord(message["content"]) ?? {};
  return messageSummary(asString(message["type"]) ?? "", asRecord(content["m.new_content"]) ?? content);
}
