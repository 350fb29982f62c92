// The light or dark theme. The browser stores it, so that the colours do not change when the account's settings arrive.

import type { PageSettings } from "../model/settings/accountData.ts";

const STORAGE_KEY = "parlour.theme";

export function applyTheme(theme: PageSettings["theme"]): void {
  if (theme === "system") {
    delete document.documentElement.dataset["theme"];
    localStorage.removeItem(STORAGE_KEY);
  } else {
    document.documentElement.dataset["theme"] = theme;
    localStorage.setItem(STORAGE_KEY, theme);
  }
}

export function applyStoredTheme(): void {
  const stored = localStorage.getItem(STORAGE_KEY);
  if (stored === "light" || stored === "dark") document.documentElement.dataset["theme"] = stored;
}
