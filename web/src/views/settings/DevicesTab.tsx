import { useEffect, useState } from "preact/hooks";
import { messageOf } from "../../model/server/api.ts";
import type { Device } from "../../model/settings/accountSecurity.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { Field } from "../components/Form.tsx";
import { exactTime, relativeTime } from "../components/formatTime.ts";
import { Icon } from "../components/Icon.tsx";
import { IconButton } from "../components/IconButton.tsx";
import { PasswordField } from "../components/PasswordField.tsx";

type OpenDialog = { what: "rename"; device: Device } | { what: "sign-out"; devices: Device[] } | null;

/** The devices that are signed in. */
export function DevicesTab() {
  const { accountSecurity, deviceId } = useClient();
  const [devices, setDevices] = useState<Device[] | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [open, setOpen] = useState<OpenDialog>(null);
  const load = async () => setDevices(await accountSecurity.devices());
  useEffect(() => {
    load().catch((error: unknown) => setProblem(messageOf(error)));
  }, []);
  const own = devices?.find(({ device_id }) => device_id === deviceId);
  const others = devices?.filter(({ device_id }) => device_id !== deviceId) ?? [];
  const row = (device: Device) => (
    <DeviceRow
      key={device.device_id}
      device={device}
      isOwn={device === own}
      onRename={() => setOpen({ what: "rename", device })}
      onSignOut={() => setOpen({ what: "sign-out", devices: [device] })}
    />
  );
  return (
    <section class="settings-section" aria-labelledby="devices-heading">
      <h2 id="devices-heading">Devices</h2>
      <p class="soft">Everywhere you are signed in. Sign out any device that you do not recognise.</p>
      {problem !== null && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {devices === null && problem === null && <div class="device skeleton" role="status" aria-label="Loading the devices" />}
      <ul class="devices" role="list">
        {own !== undefined && row(own)}
        {others.map(row)}
      </ul>
      {others.length > 1 && (
        <div>
          <button type="button" class="button" onClick={() => setOpen({ what: "sign-out", devices: others })}>
            Sign out all others
          </button>
        </div>
      )}
      {open?.what === "rename" && <RenameDialog device={open.device} onDone={load} onClose={() => setOpen(null)} />}
      {open?.what === "sign-out" && <SignOutDevicesDialog devices={open.devices} onDone={load} onClose={() => setOpen(null)} />}
    </section>
  );
}

function nameOf({ display_name, device_id }: Device): string {
  return display_name?.trim() || device_id;
}

function DeviceRow({ device, isOwn, onRename, onSignOut }: { device: Device; isOwn: boolean; onRename: () => void; onSignOut: () => void }) {
  const seen = device.last_seen_ts ?? undefined;
  const details = [seen === undefined ? null : `seen ${relativeTime(seen)}`, device.last_seen_ip ?? null, device.device_id];
  return (
    <li class="device">
      <Icon name="devices" />
      <div class="grow">
        <p class="ellipsis">
          <strong dir="auto">{nameOf(device)}</strong>
          {isOwn && <span class="soft"> · this device</span>}
        </p>
        <p class="soft small-text ellipsis" title={seen === undefined ? undefined : exactTime(seen)}>
          {details.filter((detail) => detail !== null).join(" · ")}
        </p>
      </div>
      <IconButton icon="edit" label={`Rename ${nameOf(device)}`} onClick={onRename} />
      {!isOwn && <IconButton icon="door" label={`Sign out ${nameOf(device)}`} onClick={onSignOut} />}
    </li>
  );
}

interface DialogProps {
  onDone: () => Promise<void>;
  onClose: () => void;
}

function RenameDialog({ device, onDone, onClose }: DialogProps & { device: Device }) {
  const { accountSecurity } = useClient();
  const run = async (data: FormData) => {
    await accountSecurity.rename(device.device_id, String(data.get("name")).trim());
    await onDone();
  };
  return (
    <ConfirmDialog title="Rename device" submit="Save" onConfirm={run} onClose={onClose}>
      <Field label="Name" name="name" defaultValue={device.display_name ?? ""} autocomplete="off" dir="auto" maxLength={100} required />
    </ConfirmDialog>
  );
}

function SignOutDevicesDialog({ devices, onDone, onClose }: DialogProps & { devices: Device[] }) {
  const { accountSecurity } = useClient();
  const run = async (data: FormData) => {
    await accountSecurity.signOut(
      devices.map(({ device_id }) => device_id),
      String(data.get("password")),
    );
    await onDone();
  };
  return (
    <ConfirmDialog
      title={devices.length === 1 ? "Sign out this device?" : `Sign out ${devices.length} devices?`}
      submit="Sign out"
      danger
      onConfirm={run}
      onClose={onClose}
    >
      <p dir="auto">{devices.map(nameOf).join(", ")}</p>
      <PasswordField label="Your password" name="password" autocomplete="current-password" />
    </ConfirmDialog>
  );
}
