import { useChat } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { Menu } from "../components/Menu.tsx";
import { go } from "../currentRoute.ts";
import { signOutAsked } from "../shell/SignOutDialog.tsx";

/** Who one is here, and what belongs to that. */
export function OwnMenu() {
  const { me, ownProfile, accountData } = useChat();
  const items = [
    { label: "Profile", icon: "user", action: () => go({ at: "settings", tab: "profile" }) },
    { label: "Settings", icon: "gear", action: () => go({ at: "settings", tab: "appearance" }) },
    { label: "Sign out", icon: "door", action: () => (signOutAsked.value = true) },
  ] as const;
  return (
    <span class="own-menu">
      <Menu label={`${ownProfile.name.value}: account`} items={[...items]} side="left">
        <Avatar id={me} name={ownProfile.name.value} mxc={ownProfile.avatar.value} presenceOf={accountData.settings.value.showPresence ? me : undefined} />
        <span class="own-name ellipsis" dir="auto">
          {ownProfile.name}
          <span class="visually-hidden">account</span>
        </span>
      </Menu>
    </span>
  );
}
