import { Icon } from "../parts/Icon.tsx";

/** What stands beside the list while nothing is chosen. */
export function Home() {
  return (
    <div class="empty">
      <Icon name="chat" />
      <h1>Choose a conversation</h1>
      <p>Your rooms and direct chats are in the list. Find somebody to talk to among the people of this server.</p>
    </div>
  );
}
