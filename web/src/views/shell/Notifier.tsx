import { useEffect, useMemo } from "preact/hooks";
import { NotificationTracker, type RoomNotification } from "../../model/rooms/notificationTracker.ts";
import { roomPreview } from "../../model/rooms/roomPreview.ts";
import { useChat } from "../clientContext.ts";
import { go, route } from "../currentRoute.ts";
import { notificationsWanted } from "./notificationPreference.ts";

/** Shows what the push rules notify of, while one looks elsewhere. */
export function Notifier() {
  const { rooms, me } = useChat();
  const notifying = useMemo(() => new NotificationTracker(me), []);
  const counts = rooms.joined.value.map((room) => `${room.id} ${room.unread.value.count}`).join("\n");
  const ready = rooms.isReady.value;
  useEffect(() => {
    if (!ready) return;
    for (const news of notifying.takeNewNotifications(rooms.joined.peek())) if (!isSeen(news)) show(news, me);
  }, [counts, ready]);
  return null;
}

function isSeen({ room }: RoomNotification): boolean {
  const at = route.peek();
  return document.visibilityState === "visible" && document.hasFocus() && at.at === "room" && at.id === room.id;
}

function show({ room, event }: RoomNotification, me: string): void {
  if (!notificationsWanted.peek() || !("Notification" in window) || Notification.permission !== "granted") return;
  // The tag makes the newest message of a room take the place of the one before.
  const notification = new Notification(room.name.peek(), { body: roomPreview(room, me), tag: room.id, icon: "/assets/icon.svg" });
  notification.onclick = () => {
    window.focus();
    go({ at: "room", id: room.id, ...(event.raw.event_id.startsWith("~") ? {} : { event: event.id }) });
    notification.close();
  };
}
