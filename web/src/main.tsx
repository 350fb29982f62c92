import "./styles/tokens.css";
import "./styles/base.css";
import "./views/components/controls.css";
import { render } from "preact";
import { Api } from "./model/server/api.ts";
import { SessionStore } from "./model/session/session.ts";
import { App } from "./views/App.tsx";
import { applyStoredTheme } from "./views/theme.ts";

const api = new Api(location.origin);
const sessions = new SessionStore(localStorage, api);
api.onUnknownToken = (error) => sessions.tokenRevoked(error.body["soft_logout"] === true);
addEventListener("storage", () => sessions.reloadFromStorage());

applyStoredTheme();
render(<App api={api} sessions={sessions} />, document.getElementById("app")!);
