import "./People.css";
import { useEffect, useRef, useState } from "preact/hooks";
import { type FoundUser, toFoundUser, toPresenceEntry } from "../../model/people/userSearch.ts";
import { messageOf } from "../../model/server/api.ts";
import type { UsersPage } from "../../model/server/parlourApi.ts";
import { useChat } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { Page } from "../components/Page.tsx";
import { Windowed } from "../components/VirtualList.tsx";
import { PersonRow } from "./PersonRow.tsx";

const TYPING_MS = 200;
const REFRESH_MS = 30_000;
const PAGE = 500;
/** The height of a row, in rem; People.css says the same. */
const ROW = 4;

/** Everybody who has an account here: who is there now, and when the others were. */
export function People() {
  const chat = useChat();
  const { me } = chat;
  const [search, setSearch] = useState("");
  const [people, setPeople] = useState<FoundUser[] | null>(null);
  const [next, setNext] = useState<string | undefined>();
  const [total, setTotal] = useState(0);
  const [problem, setProblem] = useState<string | null>(null);
  const loaded = useRef(0);

  const take = (page: UsersPage, before: FoundUser[]) => {
    chat.presences.setAll(page.users.map(toPresenceEntry));
    const all = [...before, ...page.users.map(toFoundUser)];
    loaded.current = all.length;
    setPeople(all);
    setNext(page.next_batch ?? undefined);
    setTotal(page.total ?? all.length);
    setProblem(null);
  };
  const failed = (error: unknown) => setProblem(messageOf(error));

  useEffect(() => {
    let wanted = true;
    const load = () => {
      chat.parlourApi.users(search.trim(), undefined, PAGE).then(
        (page) => wanted && take(page, []),
        (error: unknown) => wanted && failed(error),
      );
    };
    const refresh = () => {
      // Whoever has paged on keeps the pages; the syncs tell of changes then.
      if (document.visibilityState === "visible" && loaded.current <= PAGE) load();
    };
    const typed = setTimeout(load, people === null ? 0 : TYPING_MS);
    const timer = setInterval(refresh, REFRESH_MS);
    document.addEventListener("visibilitychange", refresh);
    return () => {
      wanted = false;
      clearTimeout(typed);
      clearInterval(timer);
      document.removeEventListener("visibilitychange", refresh);
    };
  }, [search]);

  const others = (people ?? []).filter(({ id }) => id !== me);
  const isHere = ({ id }: FoundUser) => (chat.presences.get(id)?.presence ?? "offline") !== "offline";
  const here = others.filter(isHere);
  const away = others.filter((person) => !isHere(person));
  return (
    <Page
      title="People"
      tools={people !== null && <span class="soft small-text">{total === 1 ? "1 person" : `${total} people`}</span>}
      head={
        <div class="search-field">
          <Icon name="search" />
          <input
            type="search"
            class="input"
            aria-label="Search people"
            placeholder="Search by name"
            value={search}
            onInput={(event) => setSearch(event.currentTarget.value)}
          />
        </div>
      }
    >
      {problem !== null && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {people === null && problem === null && <WaitingPeople />}
      <Group name="Here now" people={here} />
      <Group name={here.length > 0 ? "Everybody else" : "Everybody"} people={away} />
      {people !== null && others.length === 0 && <Nobody searched={search.trim() !== ""} />}
      {next !== undefined && (
        <p class="people-more">
          <button
            type="button"
            class="button"
            onClick={() => void chat.parlourApi.users(search.trim(), next, PAGE).then((page) => take(page, people ?? []), failed)}
          >
            Show more
          </button>
        </p>
      )}
    </Page>
  );
}

function Group({ name, people }: { name: string; people: FoundUser[] }) {
  if (people.length === 0) return null;
  return (
    <section aria-label={name}>
      <h2 class="people-group">
        {name} <span class="soft">{people.length}</span>
      </h2>
      <Windowed items={people} keyOf={({ id }) => id} row={ROW} label={name} render={(person) => <PersonRow person={person} />} />
    </section>
  );
}

function WaitingPeople() {
  return (
    <div role="status" aria-label="Loading the people">
      {[30, 42, 24, 36, 28].map((width) => (
        <div key={width} class="person-row waiting">
          <span class="skeleton circle" />
          <span class="skeleton line" style={{ width: `${width}%` }} />
        </div>
      ))}
    </div>
  );
}

function Nobody({ searched }: { searched: boolean }) {
  return (
    <div class="empty">
      <Icon name="people" />
      <h2>{searched ? "Nobody is called that" : "You are the first one here"}</h2>
      <p>{searched ? "Try a part of the name, or the user name." : "Make an invite link in a room, and send it to those whom you want to have here."}</p>
    </div>
  );
}
