import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { Menu } from "../components/Menu.tsx";
import { navigate } from "../currentRoute.ts";
import { isSignOutRequested } from "../shell/SignOutDialog.tsx";

/** The menu of the user's own account. */
export function AccountMenu() {
  const { me, ownProfile, accountData } = useClient();
  const items = [
    { label: "Profile", icon: "user", action: () => navigate({ at: "settings", tab: "profile" }) },
    { label: "Settings", icon: "gear", action: () => navigate({ at: "settings", tab: "appearance" }) },
    { label: "Sign out", icon: "door", action: () => (isSignOutRequested.value = true) },
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
