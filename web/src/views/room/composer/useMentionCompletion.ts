// Completes the names of members after an @.

import { useId, useState } from "preact/hooks";
import type { Member } from "../../../model/rooms/room.ts";
import { useClient } from "../../clientContext.ts";
import { useRoomContext } from "../roomContext.ts";

export interface MentionChoice {
  id: string;
  name: string;
  member: Member | null;
}

const MAX_SUGGESTIONS = 6;
const MAX_NAME_LENGTH = 40;

export function useMentionCompletion(field: { current: HTMLTextAreaElement | null }) {
  const { room, composer } = useRoomContext();
  const { me } = useClient();
  const [word, setWord] = useState<string | null>(null);
  const [at, setAt] = useState(0);
  const listId = useId();
  if (word !== null) room.membersChanged.value;
  const choices = word === null ? [] : choicesFor(word);
  const isOpen = choices.length > 0;
  const chosen = Math.min(at, choices.length - 1);

  function choicesFor(start: string): MentionChoice[] {
    const prefix = start.toLocaleLowerCase();
    const members = room.membersWith("join").filter(({ userId }) => userId !== me);
    const found: MentionChoice[] = members
      .filter(({ name, userId }) => hasWordStartingWith(name, prefix) || userId.slice(1).toLocaleLowerCase().startsWith(prefix))
      .slice(0, MAX_SUGGESTIONS)
      .map((member) => ({ id: member.userId, name: member.name, member }));
    const mayAll =
      room.powerLevels.value.levelOf(me) >= Number((room.content("m.room.power_levels")?.["notifications"] as { room?: number } | undefined)?.room ?? 50);
    if (mayAll && "room".startsWith(prefix)) found.push({ id: "@room", name: "room", member: null });
    return found;
  }

  /** Checks whether a name is being typed before the cursor. */
  const update = () => {
    const { current } = field;
    if (current === null || current.selectionStart !== current.selectionEnd) return setWord(null);
    const before = current.value.slice(0, current.selectionStart);
    const found = /(?:^|\s)@([^\s@][^@\n]*|)$/u.exec(before)?.[1];
    if (found !== undefined && word === null) void room.loadMembers().catch(() => {});
    if (found !== word) setAt(0);
    setWord(found === undefined || found.length > MAX_NAME_LENGTH ? null : found);
  };
  const choose = (choice: MentionChoice) => {
    const { current } = field;
    if (current === null || word === null) return;
    const label = `@${choice.name}`;
    const start = current.selectionStart - word.length - 1;
    const text = `${current.value.slice(0, start)}${label} ${current.value.slice(current.selectionStart)}`;
    composer.setText(text);
    composer.addMention({ label, id: choice.id });
    setWord(null);
    requestAnimationFrame(() => {
      current.focus();
      current.setSelectionRange(start + label.length + 1, start + label.length + 1);
    });
  };
  const onKeyDown = (event: KeyboardEvent): boolean => {
    if (!isOpen) return false;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) setAt((chosen + step + choices.length) % choices.length);
    else if (event.key === "Enter" || event.key === "Tab") choose(choices[chosen]!);
    else if (event.key === "Escape") setWord(null);
    else return false;
    event.preventDefault();
    event.stopPropagation();
    return true;
  };
  return {
    isOpen,
    choices,
    chosen,
    listId,
    update,
    choose,
    onKeyDown,
    close: () => setWord(null),
    aria: {
      "aria-autocomplete": "list",
      "aria-haspopup": "listbox",
      "aria-controls": isOpen ? listId : undefined,
      "aria-activedescendant": isOpen ? `${listId}-${chosen}` : undefined,
    } as const,
  };
}

/** Whether a name, or a word in it, starts with the text. */
function hasWordStartingWith(name: string, prefix: string): boolean {
  const lower = name.toLocaleLowerCase();
  return lower.startsWith(prefix) || lower.split(/\s+/).some((part) => part.startsWith(prefix));
}
