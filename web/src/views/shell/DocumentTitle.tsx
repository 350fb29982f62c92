import { useEffect } from "preact/hooks";
import { useChat } from "../clientContext.ts";
import { route } from "../currentRoute.ts";

const NAMES = { home: "", room: "", people: "People", explore: "Explore rooms", settings: "Settings", invite: "Invitation", register: "", login: "" };

/** The title of the window: how much is unread, and where one is. */
export function Title() {
  const { rooms } = useChat();
  const at = route.value;
  rooms.changed.value;
  const place = at.at === "room" ? (rooms.get(at.id)?.name.value ?? "") : NAMES[at.at];
  const { count } = rooms.unread.value;
  const title = `${count > 0 ? `(${count}) ` : ""}${place === "" ? "" : `${place} · `}Parlour`;
  useEffect(() => {
    document.title = title;
  }, [title]);
  return null;
}
