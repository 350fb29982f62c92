import { useClient } from "../clientContext.ts";
import { attempt } from "../components/Toasts.tsx";

const THEME_CHOICES = [
  { id: "system", label: "Same as the system" },
  { id: "light", label: "Light" },
  { id: "dark", label: "Dark" },
] as const;

export function AppearanceTab() {
  const { accountData } = useClient();
  const { theme } = accountData.settings.value;
  return (
    <section class="settings-section" aria-labelledby="appearance-heading">
      <h2 id="appearance-heading">Appearance</h2>
      <p class="soft">It applies in every browser where you sign in here.</p>
      <fieldset class="themes">
        <legend class="visually-hidden">Theme</legend>
        {THEME_CHOICES.map(({ id, label }) => (
          <label key={id} class="theme">
            <span class={`theme-picture ${id}`} aria-hidden="true">
              <span />
              <span />
            </span>
            <span class="theme-name">
              <input type="radio" name="theme" checked={theme === id} onChange={() => void attempt(async () => accountData.changeSettings({ theme: id }))} />
              {label}
            </span>
          </label>
        ))}
      </fieldset>
    </section>
  );
}
