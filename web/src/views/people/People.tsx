import "./People.css";
import { useEffect, useRef, useState } from "preact/hooks";
import { type FoundUser, toFoundUser, toPresenceEntry } from "../../model/people/userSearch.ts";
import { messageOf } from "../../model/server/api.ts";
import type { UsersPage } from "../../model/server/parlourApi.ts";
import { useClient } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { Page } from "../components/Page.tsx";
import { VirtualList } from "../components/VirtualList.tsx";
import { PersonRow } from "./PersonRow.tsx";

const SEARCH_DELAY_MS = 200;
const REFRESH_INTERVAL_MS = 30_000;
const PAGE_SIZE = 500;
/** The height of a row, in rem; the same as in People.css. */
const ROW_HEIGHT_REM = 4;

/** All users of this server: those who are online, then the others. */
export function People() {
  const client = useClient();
  const { me } = client;
  const [search, setSearch] = useState("");
  const [people, setPeople] = useState<FoundUser[] | null>(null);
  const [next, setNext] = useState<string | undefined>();
  const [total, setTotal] = useState(0);
  const [problem, setProblem] = useState<string | null>(null);
  const loadedCount = useRef(0);

  const addPage = (page: UsersPage, before: FoundUser[]) => {
    client.presences.setAll(page.users.map(toPresenceEntry));
    const all = [...before, ...page.users.map(toFoundUser)];
    loadedCount.current = all.length;
    setPeople(all);
    setNext(page.next_batch ?? undefined);
    setTotal(page.total ?? all.length);
    setProblem(null);
  };
  const failed = (error: unknown) => setProblem(messageOf(error));

  useEffect(() => {
    let isCurrent = true;
    const load = () => {
      client.parlourApi.users(search.trim(), undefined, PAGE_SIZE).then(
        (page) => isCurrent && addPage(page, []),
        (error: unknown) => isCurrent && failed(error),
      );
    };
    const refresh = () => {
      // After "Show more" the list is not refreshed; the syncs bring changes of presence.
      if (document.visibilityState === "visible" && loadedCount.current <= PAGE_SIZE) load();
    };
    const searchTimer = setTimeout(load, people === null ? 0 : SEARCH_DELAY_MS);
    const refreshTimer = setInterval(refresh, REFRESH_INTERVAL_MS);
    document.addEventListener("visibilitychange", refresh);
    return () => {
      isCurrent = false;
      clearTimeout(searchTimer);
      clearInterval(refreshTimer);
      document.removeEventListener("visibilitychange", refresh);
    };
  }, [search]);

  const others = (people ?? []).filter(({ id }) => id !== me);
  const isHere = ({ id }: FoundUser) => (client.presences.get(id)?.presence ?? "offline") !== "offline";
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
      {people === null && problem === null && <PeopleSkeleton />}
      <PeopleGroup name="Online now" people={here} />
      <PeopleGroup name={here.length > 0 ? "Everyone else" : "Everyone"} people={away} />
      {people !== null && others.length === 0 && <NoPeople searched={search.trim() !== ""} />}
      {next !== undefined && (
        <p class="people-more">
          <button
            type="button"
            class="button"
            onClick={() => void client.parlourApi.users(search.trim(), next, PAGE_SIZE).then((page) => addPage(page, people ?? []), failed)}
          >
            Show more
          </button>
        </p>
      )}
    </Page>
  );
}

function PeopleGroup({ name, people }: { name: string; people: FoundUser[] }) {
  if (people.length === 0) return null;
  return (
    <section aria-label={name}>
      <h2 class="people-group">
        {name} <span class="soft">{people.length}</span>
      </h2>
      <VirtualList items={people} keyOf={({ id }) => id} rowHeight={ROW_HEIGHT_REM} label={name} render={(person) => <PersonRow person={person} />} />
    </section>
  );
}

function PeopleSkeleton() {
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

function NoPeople({ searched }: { searched: boolean }) {
  return (
    <div class="empty">
      <Icon name="people" />
      <h2>{searched ? "No one has that name" : "You are the first one here"}</h2>
      <p>{searched ? "Try a part of the name, or the user name." : "Create an invite link in a room, and send it to the people you want to have here."}</p>
    </div>
  );
}
