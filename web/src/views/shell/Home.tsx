import { routeHref } from "../../model/route.ts";
import { Icon } from "../components/Icon.tsx";

/** Shown next to the list while nothing is chosen. */
export function Home() {
  return (
    <div class="empty">
      <Icon name="chat" />
      <h1>Choose a conversation</h1>
      <p>Your rooms and direct chats are in the list. Find someone to talk to, or a room that is open to everyone.</p>
      <p class="row">
        <a class="button" href={routeHref({ at: "people" })}>
          <Icon name="people" /> See who is here
        </a>
        <a class="button" href={routeHref({ at: "explore" })}>
          <Icon name="compass" /> Find rooms
        </a>
      </p>
    </div>
  );
}
