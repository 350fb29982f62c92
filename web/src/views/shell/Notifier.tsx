import { useEffect, useMemo } from "preact/hooks";
import type { Client } from "../../model/client.ts";
import { NotificationTracker, type RoomNotification } from "../../model/rooms/notificationTracker.ts";
import type { Room } from "../../model/rooms/room.ts";
import { roomPreview } from "../../model/rooms/roomPreview.ts";
import { useClient } from "../clientContext.ts";
import { currentRoute, navigate } from "../currentRoute.ts";
import { notificationPermission, notificationsEnabled } from "./notificationPreference.ts";
import { useServiceWorker } from "./useServiceWorker.ts";

/** Shows notifications for rooms that are not in view. */
export function Notifier() {
  const client = useClient();
  const { rooms, webPush, me } = client;
  useServiceWorker(client);
  const tracker = useMemo(() => new NotificationTracker(me), []);
  const counts = rooms.joined.value.map((room) => `${room.id} ${room.unread.value.count}`).join("\n");
  const ready = rooms.isReady.value;
  useEffect(() => {
    if (!ready) return;
    const notifications = tracker.takeNewNotifications(rooms.joined.peek());
    // While no tab is visible, the service worker shows the notifications, if the server sends it any.
    if (document.visibilityState === "hidden" && webPush.isActive.peek()) return;
    for (const notification of notifications) if (!isRoomInView(notification)) showNotification(notification, me);
    // Not in a hidden page: Chromium forgets a notification if the list of them is read while it is being shown.
    if (document.visibilityState === "visible") void closeNotificationsOfReadRooms(client);
  }, [counts, ready]);
  return null;
}

async function closeNotificationsOfReadRooms({ rooms, webPush }: Client): Promise<void> {
  const readRooms = new Set(rooms.joined.peek().flatMap((room) => (room.unread.peek().count === 0 ? [room.id] : [])));
  await webPush.browser.closeNotifications((roomId) => readRooms.has(roomId));
}

function isRoomInView({ room }: RoomNotification): boolean {
  const at = currentRoute.peek();
  return document.visibilityState === "visible" && document.hasFocus() && at.at === "room" && at.id === room.id;
}

function showNotification({ room, event }: RoomNotification, me: string): void {
  if (!notificationsEnabled.peek() || notificationPermission.peek() !== "granted") return;
  const notification = createNotification(room, me);
  if (notification === null) return;
  notification.onclick = () => {
    window.focus();
    navigate({ at: "room", id: room.id, ...(event.raw.event_id.startsWith("~") ? {} : { event: event.id }) });
    notification.close();
  };
}

/** Returns the notification; null in a browser in which only service workers can show them, as on Android. */
function createNotification(room: Room, me: string): Notification | null {
  try {
    // The tag makes a room's newest notification replace the one before.
    return new Notification(room.name.peek(), { body: roomPreview(room, me), tag: room.id, icon: "/assets/icon.svg" });
  } catch {
    return null;
  }
}
