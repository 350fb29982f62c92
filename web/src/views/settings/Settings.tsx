import type { SessionStore } from "../../model/session/session.ts";
import { Lazy } from "../components/Lazy.tsx";

/** The settings, which are fetched when they are opened first. */
export function Settings({ tab, sessions }: { tab: string; sessions: SessionStore }) {
  return <Lazy load={async () => (await import("./SettingsPage.tsx")).SettingsPage} props={{ tab, sessions }} />;
}
