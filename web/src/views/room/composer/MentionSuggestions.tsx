import { Avatar } from "../../components/Avatar.tsx";
import { Icon } from "../../components/Icon.tsx";
import type { useMentionCompletion } from "./useMentionCompletion.ts";

/** Suggestions of members for a mention. */
export function MentionSuggestions({ completion }: { completion: ReturnType<typeof useMentionCompletion> }) {
  const { choices, chosen, listId, choose } = completion;
  return (
    <ul class="completion" id={listId} role="listbox" aria-label="People">
      {choices.map((choice, at) => (
        <li
          key={choice.id}
          id={`${listId}-${at}`}
          role="option"
          aria-selected={at === chosen}
          // The field keeps the focus.
          onPointerDown={(event) => event.preventDefault()}
          onClick={() => choose(choice)}
        >
          {choice.member === null ? <Icon name="people" /> : <Avatar id={choice.id} name={choice.name} mxc={choice.member.avatar} size="small" />}
          <bdi class="ellipsis">{choice.member === null ? "@room" : choice.name}</bdi>
          <span class="completion-id ellipsis">{choice.member === null ? "Everyone in the room" : choice.id}</span>
        </li>
      ))}
    </ul>
  );
}
