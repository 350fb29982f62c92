import { useEffect } from "preact/hooks";
import { useClient } from "../clientContext.ts";
import { currentRoute } from "../currentRoute.ts";

const PAGE_TITLES = { home: "", room: "", people: "People", explore: "Explore rooms", settings: "Settings", invite: "Invitation", register: "", login: "" };

/** The title of the window: the unread count and the current page. */
export function DocumentTitle() {
  const { rooms } = useClient();
  const at = currentRoute.value;
  rooms.changed.value;
  const place = at.at === "room" ? (rooms.get(at.id)?.name.value ?? "") : PAGE_TITLES[at.at];
  const { count } = rooms.unread.value;
  const title = `${count > 0 ? `(${count}) ` : ""}${place === "" ? "" : `${place} · `}Parlour`;
  useEffect(() => {
    document.title = title;
  }, [title]);
  return null;
}
