import "./Avatar.css";
import { useClient, useThumbnail } from "../clientContext.ts";

interface Props {
  /** A user or room id, which determines the colour. */
  id: string;
  name: string;
  mxc?: string | undefined;
  size?: "small" | "medium" | "large";
  /** Rooms have square pictures, people have round ones. */
  square?: boolean;
  /** The user whose presence is shown. */
  presenceOf?: string | undefined;
}

const AVATAR_PX = { small: 56, medium: 80, large: 144 };

/** A picture, or the first letter of the name. The name is next to it, so screen readers skip it. */
export function Avatar({ id, name, mxc, size = "medium", square = false, presenceOf }: Props) {
  const url = useThumbnail(mxc, AVATAR_PX[size], AVATAR_PX[size], "crop");
  return (
    <span class={`avatar ${size} hue-${hueOf(id)}${square ? " square" : ""}`} aria-hidden="true">
      {url === undefined ? initialOf(name) : <img src={url} alt="" />}
      {presenceOf !== undefined && <PresenceDot userId={presenceOf} />}
    </span>
  );
}

function PresenceDot({ userId }: { userId: string }) {
  const presence = useClient().presences.get(userId)?.presence ?? "offline";
  return presence === "offline" ? null : <span class={`dot ${presence}`} />;
}

/** Returns the number of the colour for a user or room: that of the avatar and of the name. */
export function hueOf(id: string): number {
  let sum = 0;
  for (const char of id) sum = (sum * 31 + (char.codePointAt(0) ?? 0)) % 9973;
  return sum % 8;
}

function initialOf(name: string): string {
  const letter = /[\p{L}\p{N}]/u.exec(name)?.[0] ?? "#";
  return letter.toLocaleUpperCase();
}
