// Context and hooks for the signed-in client.

import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import type { Client } from "../model/client.ts";

export const ClientContext = createContext<Client | null>(null);

/** Returns the models of the signed-in user. */
export function useClient(): Client {
  const client = useContext(ClientContext);
  if (client === null) throw new Error("This view stands outside of a session.");
  return client;
}

/** Returns the address of a thumbnail, once it is loaded. */
export function useThumbnail(mxc: string | undefined, width: number, height: number, method: "crop" | "scale"): string | undefined {
  const { media } = useClient();
  return useLoaded(mxc, async (address) => media.thumbnail(address, { width, height, method }), `${width} ${height} ${method}`);
}

/** Returns the address of a whole file, once it is loaded. */
export function useFile(mxc: string | undefined): string | undefined {
  const { media } = useClient();
  return useLoaded(mxc, async (address) => media.file(address), "file");
}

function useLoaded(mxc: string | undefined, load: (mxc: string) => Promise<string>, what: string): string | undefined {
  const [loaded, setLoaded] = useState<{ mxc: string; url: string }>();
  useEffect(() => {
    let isCurrent = true;
    if (mxc !== undefined && mxc !== "") {
      load(mxc).then(
        (url) => isCurrent && setLoaded({ mxc, url }),
        () => {},
      );
    }
    return () => {
      isCurrent = false;
    };
  }, [mxc, what]);
  return loaded?.mxc === mxc ? loaded?.url : undefined;
}
