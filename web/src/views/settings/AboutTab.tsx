import { serverNameOf } from "../../model/server/matrixId.ts";
import { useClient } from "../clientContext.ts";

/** Information about the server and this page, and how to connect other clients. */
export function AboutTab() {
  const { me, deviceId, connection } = useClient();
  return (
    <>
      <section class="settings-section" aria-labelledby="about-heading">
        <h2 id="about-heading">About</h2>
        <dl class="facts">
          <dt>Server</dt>
          <dd>{serverNameOf(me)}</dd>
          <dt>Address</dt>
          <dd>
            <code>{location.origin}</code>
          </dd>
          <dt>Your id</dt>
          <dd>{me}</dd>
          <dt>This device</dt>
          <dd>{deviceId}</dd>
          <dt>Connection</dt>
          <dd>{connection.transport.value === "websocket" ? "WebSocket" : connection.transport.value === "sync" ? "Polling" : "None"}</dd>
          <dt>Version</dt>
          <dd>Parlour {__VERSION__}</dd>
        </dl>
      </section>
      <section class="settings-section" aria-labelledby="clients-heading">
        <h2 id="clients-heading">Other clients</h2>
        <p>
          Parlour speaks{" "}
          <a href="https://matrix.org" rel="noreferrer" target="_blank">
            Matrix
          </a>
          : any Matrix client works with your account, on the phone and on the desktop. Where it asks for your homeserver, enter <code>{location.origin}</code>
        </p>
      </section>
    </>
  );
}
