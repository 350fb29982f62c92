import "./PeoplePicker.css";
import { useEffect, useId, useState } from "preact/hooks";
import { type FoundUser, searchUsers } from "../../model/people/userSearch.ts";
import { messageOf } from "../../model/server/api.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "./Avatar.tsx";
import { Icon } from "./Icon.tsx";

interface Props {
  label: string;
  hint?: string;
  chosen: FoundUser[];
  onChange: (chosen: FoundUser[]) => void;
  /** Shows suggestions only after something is typed. */
  compact?: boolean;
  /** Users who cannot be chosen. */
  isExcluded?: (userId: string) => boolean;
}

const SEARCH_DELAY_MS = 200;

/** Chooses users by name. Typing searches; arrow keys and Enter choose. */
export function PeoplePicker({ label, hint = "A name, or a full id like @ann:example.org", chosen, onChange, compact = false, isExcluded }: Props) {
  const { api, parlourApi, me } = useClient();
  const id = useId();
  const [typed, setTyped] = useState("");
  const [found, setFound] = useState<FoundUser[]>([]);
  const [problem, setProblem] = useState<string | null>(null);
  const [active, setActive] = useState(0);
  useEffect(() => {
    let isCurrent = true;
    const timer = setTimeout(() => {
      searchUsers(api, parlourApi, typed).then(
        (people) => {
          if (!isCurrent) return;
          setFound(people);
          setActive(0);
          setProblem(null);
        },
        (error: unknown) => isCurrent && setProblem(messageOf(error)),
      );
    }, SEARCH_DELAY_MS);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [typed]);
  const open = found.filter((person) => person.id !== me && !isExcluded?.(person.id) && !chosen.some((other) => other.id === person.id));
  const choose = (person: FoundUser | undefined) => {
    if (person === undefined) return;
    onChange([...chosen, person]);
    setTyped("");
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setActive((active + (event.key === "ArrowDown" ? 1 : -1) + open.length) % Math.max(open.length, 1));
    } else if (event.key === "Enter" && typed.trim() !== "") {
      event.preventDefault();
      choose(open[active]);
    } else if (event.key === "Backspace" && typed === "") {
      onChange(chosen.slice(0, -1));
    }
  };
  return (
    <div class="field picker">
      <label class="label" for={id}>
        {label}
      </label>
      {chosen.length > 0 && (
        <ul class="chips" role="list" aria-label="Chosen">
          {chosen.map((person) => (
            <li key={person.id}>
              <button type="button" class="chip" aria-label={`Remove ${person.name}`} onClick={() => onChange(chosen.filter((other) => other !== person))}>
                <span dir="auto">{person.name}</span>
                <Icon name="close" />
              </button>
            </li>
          ))}
        </ul>
      )}
      <input
        id={id}
        class="input"
        role="combobox"
        value={typed}
        autocomplete="off"
        autocapitalize="none"
        spellcheck={false}
        placeholder={hint}
        aria-expanded={open.length > 0}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={open[active] === undefined ? undefined : `${id}-${active}`}
        onInput={(event) => setTyped(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <ul class="picker-list" id={`${id}-list`} role="listbox" aria-label="Suggestions" hidden={compact && typed.trim() === ""}>
        {open.map((person, at) => (
          <li key={person.id} id={`${id}-${at}`} class="picker-option" role="option" aria-selected={at === active} onClick={() => choose(person)}>
            <Avatar id={person.id} name={person.name} mxc={person.avatar} size="small" presenceOf={person.id} />
            <span class="ellipsis" dir="auto">
              {person.name}
            </span>
            <span class="soft small-text ellipsis">{person.id}</span>
          </li>
        ))}
      </ul>
      <p class="soft small-text" role="status">
        {problem ?? (typed.trim() !== "" && open.length === 0 ? "No one found." : "")}
      </p>
    </div>
  );
}
