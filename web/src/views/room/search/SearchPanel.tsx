import "./Search.css";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { MessageSearch } from "../../../model/timeline/messageSearch.ts";
import { useClient } from "../../clientContext.ts";
import { Check } from "../../components/Form.tsx";
import { Icon } from "../../components/Icon.tsx";
import { IconButton } from "../../components/IconButton.tsx";
import { sidePanel } from "../../sidePanel.ts";
import { useRoomContext } from "../roomContext.ts";
import { SearchResult } from "./SearchResult.tsx";

/** Searches for messages in this room or in all rooms. */
export function SearchPanel() {
  const { room } = useRoomContext();
  const { api } = useClient();
  const search = useMemo(() => new MessageSearch(api), []);
  const [term, setTerm] = useState("");
  const [inAll, setInAll] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const start = (all: boolean) => {
    if (term.trim() !== "") void search.start(term.trim(), all ? null : room.id);
  };
  return (
    <aside class="side-panel search-panel" aria-label="Search">
      <header>
        <h2>Search messages</h2>
        <IconButton icon="close" label="Close search" onClick={() => (sidePanel.value = null)} />
      </header>
      <form
        class="search-form"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          start(inAll);
        }}
      >
        <div class="search-field">
          <Icon name="search" />
          <input
            ref={field}
            class="input"
            type="search"
            aria-label="Search for"
            placeholder="Search for"
            value={term}
            onInput={(event) => setTerm(event.currentTarget.value)}
          />
        </div>
        <Check
          label="In all rooms"
          checked={inAll}
          onChange={() => {
            setInAll(!inAll);
            start(!inAll);
          }}
        />
      </form>
      <Results search={search} />
    </aside>
  );
}

function Results({ search }: { search: MessageSearch }) {
  const count = search.count.value;
  const loading = search.loading.value;
  const problem = search.problem.value;
  const status = problem ?? (count === null ? (loading ? "Searching…" : "") : count === 1 ? "1 message found" : `${count} messages found`);
  return (
    <div class="search-results">
      <p class={problem === null ? "search-status" : "problem"} role="status">
        {status}
      </p>
      <ol>
        {search.hits.value.map((hit) => (
          <li key={hit.event.event_id}>
            <SearchResult hit={hit} words={search.words.value} />
          </li>
        ))}
      </ol>
      {search.hasMore.value && (
        <button type="button" class="button wide" disabled={loading} onClick={() => void search.loadMore()}>
          Show more
        </button>
      )}
      {loading && <span class="spinner" />}
    </div>
  );
}
