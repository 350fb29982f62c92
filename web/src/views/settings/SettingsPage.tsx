import "./Settings.css";
import type { SessionStore } from "../../model/session/session.ts";
import { Page } from "../components/Page.tsx";
import { Tabs } from "../components/Tabs.tsx";
import { navigate } from "../currentRoute.ts";
import { AboutTab } from "./AboutTab.tsx";
import { AppearanceTab } from "./AppearanceTab.tsx";
import { DevicesTab } from "./DevicesTab.tsx";
import { NotificationsTab } from "./NotificationsTab.tsx";
import { PrivacyTab } from "./PrivacyTab.tsx";
import { ProfileTab } from "./ProfileTab.tsx";
import { SecurityTab } from "./SecurityTab.tsx";

const SETTINGS_TABS = [
  { id: "profile", label: "Profile", icon: "user" },
  { id: "security", label: "Account", icon: "key" },
  { id: "devices", label: "Devices", icon: "devices" },
  { id: "appearance", label: "Appearance", icon: "moon" },
  { id: "notifications", label: "Notifications", icon: "bell" },
  { id: "privacy", label: "Privacy", icon: "eye" },
  { id: "about", label: "About", icon: "info" },
] as const;

export function SettingsPage({ tab, sessions }: { tab: string; sessions: SessionStore }) {
  const chosen = SETTINGS_TABS.find(({ id }) => id === tab)?.id ?? "profile";
  return (
    <Page title="Settings">
      <div class="settings">
        <Tabs label="Settings" tabs={[...SETTINGS_TABS]} chosen={chosen} onChoose={(next) => navigate({ at: "settings", tab: next }, true)} upright>
          {chosen === "profile" && <ProfileTab />}
          {chosen === "security" && <SecurityTab sessions={sessions} />}
          {chosen === "devices" && <DevicesTab />}
          {chosen === "appearance" && <AppearanceTab />}
          {chosen === "notifications" && <NotificationsTab />}
          {chosen === "privacy" && <PrivacyTab />}
          {chosen === "about" && <AboutTab />}
        </Tabs>
      </div>
    </Page>
  );
}
