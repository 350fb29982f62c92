import type { SessionStore } from "../../model/session/session.ts";
import { Lazy } from "../components/Lazy.tsx";

/** The settings, which are loaded when they are first opened. */
export function Settings({ tab, sessions }: { tab: string; sessions: SessionStore }) {
  return <Lazy load={async () => (await import("./SettingsPage.tsx")).SettingsPage} props={{ tab, sessions }} />;
}
