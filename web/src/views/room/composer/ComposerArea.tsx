import "./Composer.css";
import type { ComponentChildren } from "preact";
import { useClient } from "../../clientContext.ts";
import { Icon, type IconName } from "../../components/Icon.tsx";
import { attempt } from "../../components/Toasts.tsx";
import { navigate } from "../../currentRoute.ts";
import { useRoomContext } from "../roomContext.ts";
import { ComposerBox } from "./ComposerBox.tsx";

/** The composer, or the reason why the user cannot write. */
export function ComposerArea() {
  const { room, conversation } = useRoomContext();
  const { me } = useClient();
  const successor = room.successor.value;
  if (successor !== undefined) {
    const follow = async () => {
      if (await attempt(async () => conversation.joinSuccessor(successor))) navigate({ at: "room", id: successor });
    };
    return (
      <ComposerNotice icon="door">
        This room has been replaced.{" "}
        <button type="button" class="button small primary" onClick={() => void follow()}>
          Go to the new room
        </button>
      </ComposerNotice>
    );
  }
  if (room.encrypted.value) {
    return (
      <ComposerNotice icon="lock">
        This room is encrypted. This page cannot encrypt yet, so nothing can be written here: what you write would be readable for everyone. Please use another
        client for this room.
      </ComposerNotice>
    );
  }
  if (!room.powerLevels.value.maySend(me, "m.room.message")) {
    return <ComposerNotice icon="info">You may read this room, but you are not allowed to write in it.</ComposerNotice>;
  }
  return <ComposerBox />;
}

function ComposerNotice({ icon, children }: { icon: IconName; children: ComponentChildren }) {
  return (
    <div class="composer-instead" role="note">
      <Icon name={icon} />
      <p>{children}</p>
    </div>
  );
}
