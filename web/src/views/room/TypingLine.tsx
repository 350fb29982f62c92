import { useRoomContext } from "./roomContext.ts";

/** The users who are typing. The line always takes up space, so that nothing moves. */
export function TypingLine() {
  const { room } = useRoomContext();
  const names = room.typing.value.map((userId) => room.memberName(userId));
  return (
    <div class="typing-line">
      {names.length > 0 && (
        <>
          <span class="dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          <span class="ellipsis">{typingNamesText(names)}</span>
        </>
      )}
    </div>
  );
}

function typingNamesText(names: string[]): string {
  const [first, second] = names;
  if (names.length === 1) return `${first} is typing…`;
  return names.length === 2 ? `${first} and ${second} are typing…` : `${first}, ${second} and others are typing…`;
}
