import { useClient } from "../../clientContext.ts";
import { Avatar } from "../../components/Avatar.tsx";
import { useRoomContext } from "../roomContext.ts";

interface Props {
  /** Whether older messages are loading. */
  isLoading: boolean;
  problem: string | null;
  onRetry: () => void;
}

/** The start of the list: a loading sign, an error, or the beginning of the room. */
export function TimelineStart({ isLoading, problem, onRetry }: Props) {
  const { room } = useRoomContext();
  const { me } = useClient();
  if (problem !== null) {
    return (
      <div class="more" role="alert">
        {problem}{" "}
        <button type="button" class="button small" onClick={onRetry}>
          Try again
        </button>
      </div>
    );
  }
  if (isLoading) {
    return (
      <div class="more">
        <span class="spinner" />
        <span class="visually-hidden">Loading older messages</span>
      </div>
    );
  }
  const other = room.directWith.value;
  const name = room.name.value;
  return (
    <div class="begins">
      <Avatar id={other ?? room.id} name={name} mxc={room.avatar.value} size="large" square={other === null} />
      <p class="begins-name" dir="auto">
        {name}
      </p>
      <p>
        {other === null
          ? `${room.creator.value === me ? "You created this room. " : ""}This is where it begins.`
          : "This is where your conversation begins. Say hello!"}
      </p>
    </div>
  );
}
