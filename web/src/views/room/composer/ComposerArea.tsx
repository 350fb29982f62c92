import "./Composer.css";
import type { ComponentChildren } from "preact";
import { useChat } from "../../clientContext.ts";
import { Icon, type IconName } from "../../components/Icon.tsx";
import { attempt } from "../../components/Toasts.tsx";
import { go } from "../../currentRoute.ts";
import { usePlace } from "../roomContext.ts";
import { ComposerBox } from "./ComposerBox.tsx";

/** Where one writes, or why one cannot. */
export function ComposerArea() {
  const { room, conversation } = usePlace();
  const { me } = useChat();
  const successor = room.successor.value;
  if (successor !== undefined) {
    const follow = async () => {
      if (await attempt(async () => conversation.joinSuccessor(successor))) go({ at: "room", id: successor });
    };
    return (
      <Instead icon="door">
        This room was replaced by another.{" "}
        <button type="button" class="button small primary" onClick={() => void follow()}>
          Go to the new room
        </button>
      </Instead>
    );
  }
  if (room.encrypted.value) {
    return (
      <Instead icon="lock">
        This room is encrypted. This page cannot encrypt yet, so nothing can be written here: what you write would be readable for everyone. Please use another
        client for this room.
      </Instead>
    );
  }
  if (!room.powerLevels.value.maySend(me, "m.room.message")) {
    return <Instead icon="info">You may read this room, but you are not allowed to write in it.</Instead>;
  }
  return <ComposerBox />;
}

function Instead({ icon, children }: { icon: IconName; children: ComponentChildren }) {
  return (
    <div class="composer-instead" role="note">
      <Icon name={icon} />
      <p>{children}</p>
    </div>
  );
}
