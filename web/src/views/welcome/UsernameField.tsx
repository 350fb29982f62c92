import { useEffect, useId, useState } from "preact/hooks";
import type { Api } from "../../model/server/api.ts";
import { checkUsername, toUsername, type UsernameAvailability } from "../../model/session/authentication.ts";

const SEARCH_DELAY_MS = 350;

/** The name of a new account, which is checked while it is typed. */
export function UsernameField({ api, server }: { api: Api; server: string | null }) {
  const id = useId();
  const [name, setName] = useState("");
  const [found, setFound] = useState<(UsernameAvailability & { name: string }) | null>(null);
  useEffect(() => {
    if (name === "") return;
    const abort = new AbortController();
    const timer = setTimeout(() => {
      // A failure here says nothing about the name; the form itself will show it.
      checkUsername(api, name, abort.signal).then(
        (answer) => setFound({ ...answer, name }),
        () => {},
      );
    }, SEARCH_DELAY_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [name]);
  const known = found?.name === name && name !== "" ? found : null;
  return (
    <div class="field">
      <label class="label" for={id}>
        User name
      </label>
      <div class="affixed">
        <span class="affix before" aria-hidden="true">
          @
        </span>
        <input
          id={id}
          class="input"
          name="username"
          value={name}
          autocomplete="username"
          autocapitalize="none"
          spellcheck={false}
          required
          aria-describedby={`${id}-hint`}
          aria-invalid={known?.free === false}
          onInput={(event) => {
            const typed = toUsername(event.currentTarget.value);
            event.currentTarget.value = typed;
            setName(typed);
          }}
        />
        {server !== null && (
          <span class="affix" aria-hidden="true">
            :{server}
          </span>
        )}
      </div>
      <span id={`${id}-hint`} role="status" class={known === null ? "hint" : known.free ? "good" : "problem"}>
        {known === null ? "Lower-case letters, digits and . _ - = / +" : known.free ? `@${name} is free.` : known.why}
      </span>
    </div>
  );
}
