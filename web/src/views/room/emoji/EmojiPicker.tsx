import emojis from "emojibase-data/en/compact.json";
import { useEffect, useRef, useState } from "preact/hooks";
import { addRecentEmoji, recentEmoji } from "./recentEmoji.ts";

interface Emoji {
  unicode: string;
  label: string;
  tags?: string[];
  group?: number;
}

/** The groups of emoji, with the numbers from the data. Group 2 has components that are not emoji. */
const EMOJI_GROUPS = [
  { id: 0, name: "Smileys", sign: "😀" },
  { id: 1, name: "People", sign: "👋" },
  { id: 3, name: "Animals and nature", sign: "🐻" },
  { id: 4, name: "Food and drink", sign: "🍎" },
  { id: 5, name: "Travel and places", sign: "🚗" },
  { id: 6, name: "Activities", sign: "⚽" },
  { id: 7, name: "Objects", sign: "💡" },
  { id: 8, name: "Symbols", sign: "❤️" },
  { id: 9, name: "Flags", sign: "🏁" },
];
const ALL_EMOJI = (emojis as Emoji[]).filter(({ group }) => group !== undefined && group !== 2);
const RECENT_GROUP_ID = -1;
const MAX_FOUND_EMOJI = 150;

export function EmojiPicker({ onChoose }: { onChoose: (emoji: string) => void }) {
  const recent = recentEmoji();
  const [group, setGroup] = useState(recent.length > 0 ? RECENT_GROUP_ID : 0);
  const [term, setTerm] = useState("");
  const search = useRef<HTMLInputElement>(null);
  const grid = useRef<HTMLDivElement>(null);
  useEffect(() => search.current?.focus(), []);

  const found = term.trim() === "" ? emojiInGroup(group, recent) : emojiMatching(term.trim().toLowerCase());
  const choose = (emoji: string) => {
    addRecentEmoji(emoji);
    onChoose(emoji);
  };
  const buttons = () => [...(grid.current?.querySelectorAll<HTMLElement>("button") ?? [])];
  const onKeyDown = (event: KeyboardEvent) => {
    const all = buttons();
    const at = all.indexOf(document.activeElement as HTMLElement);
    const perRow = all.filter(({ offsetTop }) => offsetTop === all[0]?.offsetTop).length;
    if (at === -1) {
      if (event.key === "ArrowDown") all[0]?.focus();
      else if (event.key === "Enter" && found[0] !== undefined) choose(found[0].unicode);
      else return;
    } else {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + perRow, ArrowUp: at - perRow, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      if (to < 0) search.current?.focus();
      else all[Math.min(to, all.length - 1)]?.focus();
    }
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="emoji-picker" onKeyDown={onKeyDown}>
      <input
        ref={search}
        class="input"
        type="search"
        aria-label="Search emoji"
        placeholder="Search emoji"
        value={term}
        onInput={(event) => setTerm(event.currentTarget.value)}
      />
      <div class="emoji-groups" role="group" aria-label="Emoji groups">
        {[...(recent.length > 0 ? [{ id: RECENT_GROUP_ID, name: "Recent", sign: "🕘" }] : []), ...EMOJI_GROUPS].map(({ id, name, sign }) => (
          <button
            key={id}
            type="button"
            aria-label={name}
            title={name}
            aria-pressed={term === "" && id === group}
            onClick={() => {
              setTerm("");
              setGroup(id);
            }}
          >
            {sign}
          </button>
        ))}
      </div>
      <div ref={grid} class="emoji-grid" role="group" aria-label={term === "" ? "Emoji" : "Emoji search results"}>
        {found.map(({ unicode, label }, at) => (
          <button key={unicode} type="button" tabIndex={at === 0 ? 0 : -1} aria-label={label} title={label} onClick={() => choose(unicode)}>
            {unicode}
          </button>
        ))}
        {found.length === 0 && <p class="emoji-none">No emoji found.</p>}
      </div>
    </div>
  );
}

function emojiInGroup(group: number, recent: string[]): Emoji[] {
  if (group !== RECENT_GROUP_ID) return ALL_EMOJI.filter((emoji) => emoji.group === group);
  return recent.map(
    (unicode) => ALL_EMOJI.find((emoji) => withoutVariationSelector(emoji.unicode) === withoutVariationSelector(unicode)) ?? { unicode, label: unicode },
  );
}

/** Removes the variation selector that requests the emoji style. */
function withoutVariationSelector(unicode: string): string {
  return unicode.replace(/\ufe0f/g, "");
}

function emojiMatching(term: string): Emoji[] {
  const starts = ALL_EMOJI.filter(({ label }) => label.startsWith(term));
  const others = ALL_EMOJI.filter(({ label, tags = [] }) => !label.startsWith(term) && (label.includes(term) || tags.some((tag) => tag.startsWith(term))));
  return [...starts, ...others].slice(0, MAX_FOUND_EMOJI);
}
