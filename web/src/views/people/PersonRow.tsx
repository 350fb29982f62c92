import type { FoundUser } from "../../model/people/userSearch.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { IconButton } from "../components/IconButton.tsx";
import { openDirectChat } from "./openDirectChat.ts";
import { presenceText } from "./presenceText.ts";
import { showProfile } from "./shownProfile.ts";

/** A user of this server. A click opens the direct chat. */
export function PersonRow({ person: { id, name, avatar } }: { person: FoundUser }) {
  const client = useClient();
  const presence = client.presences.get(id);
  return (
    <div class="person-row">
      <button type="button" class="person row-button" onClick={() => void openDirectChat(client, id)}>
        <Avatar id={id} name={name} mxc={avatar} presenceOf={id} />
        <span class="grow">
          <span class="person-name ellipsis" dir="auto">
            {name}
          </span>
          <span class="person-detail ellipsis">
            <span class={presence?.presence === "online" ? "is-online" : ""}>{presenceText(presence)}</span>
            {presence?.status && <span dir="auto"> · {presence.status}</span>}
          </span>
        </span>
        <span class="person-id ellipsis soft small-text">{id}</span>
      </button>
      <IconButton icon="info" label={`Profile of ${name}`} onClick={() => showProfile(id)} />
    </div>
  );
}
